# SPDX-License-Identifier: Apache-2.0
"""When no thread can still be where it was: before bytes are written that were read once.

A thread that walks an environment is done within microseconds of its own time, but it may have lost
the processor in the middle, for as long as the machine is busy. So each is waited for: until it is
seen in a system call, or was on a processor for long enough since. One that is halted in its code
(stopped, debugged, frozen) is never done.

Source: proc_pid_syscall(5): -1 is a thread that is blocked and in no system call, "running" one
that is not blocked; Documentation/scheduler/sched-stats.rst: in schedstat, nanoseconds on a
processor come first.
"""

import time
from contextlib import suppress

from holdover.errors import MalformedError, RefusedError, VanishedError
from holdover.procfs import ProcFs

__all__ = ["wait_until_elsewhere", "wait_until_asleep"]

_WALK = 12_000_000  # ns: of one that runs the kernel counts them at each tick, 10 ms at the longest
_PATIENCE = 5.0  # s
_HINT = "try again when it runs"
_HINT_AT_REST = "try again when it waits for something"


def wait_until_elsewhere(proc: ProcFs, pid: int) -> None:
    """Come back when each thread has left what it was doing; raises `RefusedError` if one does not.

    Threads that are started meanwhile have not been there.
    """
    began = {thread: _time_on_processor(proc, pid, thread) for thread in proc.threads(pid)}
    deadline = time.monotonic() + _PATIENCE
    while began:
        began = {t: start for t, start in began.items() if not _has_left(proc, pid, t, start)}
        if began and time.monotonic() > deadline:
            raise RefusedError(
                f"process {pid} had a delivery before, and does not get on in its code", hint=_HINT
            )
        time.sleep(0.001 if began else 0)


def wait_until_asleep(proc: ProcFs, pid: int) -> None:
    """Come back when every thread was just seen to sleep in a system call.

    Raises `RefusedError` if they never all do.
    """
    deadline = time.monotonic() + _PATIENCE
    while not all(_sleeps(proc, pid, thread) for thread in proc.threads(pid)):
        if time.monotonic() > deadline:
            raise RefusedError(f"process {pid} is never at rest", hint=_HINT_AT_REST)
        time.sleep(0.001)


def _sleeps(proc: ProcFs, pid: int, thread: int) -> bool:
    with suppress(VanishedError):
        return not proc.read(pid, f"task/{thread}/syscall").startswith(("running", "-1"))
    return True


def _has_left(proc: ProcFs, pid: int, thread: int, began: int) -> bool:
    with suppress(VanishedError):
        call = proc.read(pid, f"task/{thread}/syscall")
        if call.startswith("-1"):
            raise RefusedError(
                f"process {pid} had a delivery before, and is halted in the middle of its code",
                hint=_HINT,
            )
        if call.startswith("running"):
            return _time_on_processor(proc, pid, thread) - began >= _WALK
    return True


def _time_on_processor(proc: ProcFs, pid: int, thread: int) -> int:
    """Nanoseconds; 0 if the thread ended."""
    text = ""
    with suppress(VanishedError):
        text = proc.read(pid, f"task/{thread}/schedstat")
    try:
        return int(text.split()[0]) if text else 0
    except (ValueError, IndexError) as error:
        raise MalformedError(f"process {pid}: schedstat makes no sense: {text!r}") from error
