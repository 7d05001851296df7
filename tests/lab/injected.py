# SPDX-License-Identifier: Apache-2.0
"""Runs in the processes of holdover that are to fail: does something at a chosen moment, or writes
down which moments there are. It is put into a throwaway root, and uses nothing that is not there.

A moment is the `nth` time that a function of holdover is called, or that it calls a function of C
itself or by way of the standard library. The plan is a file; without it nothing happens. Profiling
sees each call, however the function was imported.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

__all__ = ["PLAN", "HIT", "SITES", "arm"]

PLAN, HIT, SITES = "/srv/plan.json", "/srv/hit", "/srv/sites"
_PACKAGE = "/holdover/"
#: What changes something outside, by the module that has it: of `posix` these functions only.
_CHANGES = frozenset(
    "rename replace link symlink unlink remove mkdir rmdir fsync pwrite ftruncate truncate chmod "
    "fchmod chown utime setxattr removexattr fork".split()
)
_SENDS = frozenset(["write", "writelines", "send", "sendmsg", "fork_exec"])
_SENDERS = frozenset(["_io", "socket", "_posixsubprocess"])


def arm(words: Sequence[str] = tuple(sys.argv[1:])) -> None:
    """Called before the command starts, which is said by `words`."""
    try:
        with open(PLAN) as file:
            plan = json.load(file)
    except FileNotFoundError:
        return
    if plan.pop("only") in words:
        sys.setprofile(_Trap(**plan) if plan else _Recorder())


def _own_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost of holdover's own functions that is under way; None while Python imports."""
    while frame and _PACKAGE not in frame.f_code.co_filename:
        frame = None if "importlib" in frame.f_code.co_filename else frame.f_back
    return frame


def _place(frame: FrameType) -> str:
    file = frame.f_code.co_filename.rpartition(_PACKAGE)[2]
    return f"{file}:{frame.f_code.co_qualname}"


def _changes_something(function: Any) -> bool:
    if function.__name__ in _CHANGES:
        return bool(function.__module__ == "posix")
    owner = type(function.__self__).__module__, getattr(function, "__module__", None)
    return function.__name__ in _SENDS and not _SENDERS.isdisjoint(owner)


class _Recorder:
    """Writes down every place that changes something."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_call" or not _changes_something(argument):
            return
        own = _own_frame(frame)
        site = f"{_place(own)} {argument.__name__}" if own else ""
        if site and site not in self._seen:
            self._seen.add(site)
            with open(SITES, "a") as file:
                file.write(f"{site}\n")


class _Trap:
    """Does `fault` at the moment, once."""

    def __init__(self, site: str, nth: int, fault: str, command: str) -> None:
        self._place, _, self._call = site.partition(" ")
        if fault == "kill":  # what it leaves is of interest
            self._events = ("c_return", "c_exception") if self._call else ("return",)
        else:
            self._events = ("c_call",) if self._call else ("call",)
        self._left, self._fault, self._command = nth, fault, command

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event not in self._events:
            return
        if not self._call:
            own: FrameType | None = frame if _PACKAGE in frame.f_code.co_filename else None
        else:
            own = _own_frame(frame) if argument.__name__ == self._call else None
        if own is None or _place(own) != self._place:
            return
        self._left -= 1
        if self._left == 0:
            sys.setprofile(None)
            with open(HIT, "w") as file:
                file.write(str(os.getpid()))
            _happen(self._fault, self._command)


def _happen(fault: str, command: str) -> None:
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    elif fault == "no-descriptors":
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    else:
        subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL)
