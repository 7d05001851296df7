# SPDX-License-Identifier: Apache-2.0
"""Deliver by preload: make a process load its modules while those on disk are its own.

The commands are the definition's: each fails once its module is loaded, and changes nothing. They
go through the process's own QMP socket, or through libvirt where that runs it. A module of another
build would poison the process: what lies on disk is looked at again before each command.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from holdover.builds import read_module_stamp
from holdover.errors import CommandError, ElfError, RefusedError, VanishedError
from holdover.model import LateLoad, Process
from holdover.monitors import qmp_sockets
from holdover.procfs import ProcFs
from holdover.programs import Preload, Program
from holdover.qmp import Command, Monitor
from holdover.run import run

__all__ = ["deliver", "missing", "TAINTED"]

TAINTED = "libvirt has marked the domain as tainted by it (custom-monitor)"
_SECONDS = 10.0
_MOST = 3  # sockets that are tried
_DOMAINS = Path("/run/libvirt/qemu")
_NO_NAME = re.compile(r"[0-9]+|[0-9A-Fa-f\s-]{32,}")
"""virsh would take it for an id or a UUID."""


class _Way(Protocol):
    def ask(self, command: Command) -> str:
        """What the process says against it, or ""; raises `RefusedError` if there is no answer."""


def missing(process: Process, commands: tuple[Preload, ...]) -> dict[str, list[LateLoad]]:
    """For each command, by its text, the modules that it would load now."""
    wanted = [
        late
        for late in process.own
        if not (late.problem or late.other or late.name in process.loaded)
    ]
    fitting = {c.text: [late for late in wanted if c.loads.fullmatch(late.name)] for c in commands}
    return {text: modules for text, modules in fitting.items() if modules}


def deliver(proc: ProcFs, process: Process, program: Program) -> list[str]:
    """Send what is not loaded yet; returns what is to be said about it.

    Raises `RefusedError` if there is no way in, or a file is no longer the build's own; what was
    sent before stays loaded. Raises `VanishedError` if it is no longer that process.
    """
    todo, notes = missing(process, program.preload), list[str]()
    if not todo:
        return notes
    with _way(proc, process) as way:
        for command in program.preload:
            if modules := todo.get(command.text):
                _check(proc, process, modules, program)
                notes += _send(way, command)
    return notes + [TAINTED] * isinstance(way, _Virsh)


def _send(way: _Way, command: Preload) -> list[str]:
    if way.ask(json.loads(command.text)) or not command.undo:
        return []
    undone = way.ask(json.loads(command.undo))
    what = f"it carried out what should have failed: {command.text}"
    return [f"{what}; {f'that stays: {undone}' if undone else 'that was undone'}"]


def _check(proc: ProcFs, process: Process, modules: list[LateLoad], program: Program) -> None:
    pid = process.id.pid
    if proc.identity(pid) != process.id or proc.file_of(pid, "exe") != process.executable_file:
        raise VanishedError(f"process {pid} ended, or now runs something else")
    for late in modules:
        try:
            with late.path.open("rb") as file:
                stamp = read_module_stamp(file, program)
        except (OSError, ElfError):
            stamp = ""
        if stamp != process.build.stamp:
            raise RefusedError(f"{late.path} was replaced in this moment; nothing more is sent")


# -- the way in ------------------------------------------------------------------------------------


@contextmanager
def _way(proc: ProcFs, process: Process) -> Iterator[_Way]:
    pid = process.id.pid
    if _is_libvirts(process):
        if _NO_NAME.fullmatch(process.name):
            raise RefusedError(f"virsh would take the name {process.name} for a number")
        yield _Virsh(process.name)
        return
    sockets = qmp_sockets(proc.read(pid, "cmdline").split("\0"))
    problem = RefusedError("its command line names no QMP socket")
    for path in sockets[:_MOST]:
        root = "root" if path.startswith("/") else "cwd"
        monitor = Monitor(proc.path(pid, root) / path.lstrip("/"), pid, _SECONDS)
        try:
            monitor.open()
        except RefusedError as error:
            problem = error
            continue
        try:
            yield monitor
        finally:
            monitor.close()
        return
    raise problem


def _is_libvirts(process: Process) -> bool:
    """Whether libvirt runs it: its record of that name has that pid. Others cannot write there."""
    if not process.name or os.sep in process.name or "\0" in process.name:
        return False
    try:
        return int((_DOMAINS / f"{process.name}.pid").read_text()) == process.id.pid
    except (OSError, ValueError):
        return False


class _Virsh:
    """The monitor of a guest of libvirt belongs to libvirt."""

    def __init__(self, name: str) -> None:
        self._name = name

    def ask(self, command: Command) -> str:
        domain = ("--domain", self._name, "--cmd", json.dumps(command))
        try:
            done = run(
                *("virsh", "--connect", "qemu:///system", "qemu-monitor-command", *domain),
                timeout=_SECONDS,
            )
        except CommandError as error:
            raise RefusedError(f"libvirt did not pass it on: {error}") from error
        return complaint_of(done.stdout)


def complaint_of(text: str) -> str:
    """What QMP answers against a command, "" if it was carried out; raises `RefusedError`."""
    try:
        answer = json.loads(text)
        return "" if "return" in answer else str(answer["error"]["desc"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise RefusedError(f"its monitor makes no sense: {error!r:.200}") from error
