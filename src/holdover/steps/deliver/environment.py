# SPDX-License-Identifier: Apache-2.0
"""Deliver by environment: set a variable in a live process by writing data only.

The process is never stopped and nothing is called in it. A new array and a new string are written
where nothing looks, and one aligned store to `environ` publishes them. The live array is never
touched, so a reader sees the old environment or the new one.

What the process sets itself between our look and our store would be lost, so the look is repeated
right before the store. Strings that the process replaced stay valid: libc never frees them.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdover.environ import (
    Half,
    LiveEnvironment,
    entry_values,
    find_half,
    layout,
    our_entries,
    read_environment,
    room_needed,
)
from holdover.errors import RefusedError, VanishedError
from holdover.memory import Memory
from holdover.model import Process
from holdover.procfs import ProcFs

__all__ = ["deliver", "release"]

_ATTEMPTS = 3


def deliver(proc: ProcFs, process: Process, variable: str, view: Path) -> None:
    """Make `variable` name `view`, before any other value that it has.

    Raises `VanishedError` if it is no longer that process, `UnsupportedError` if there is no room
    or no environment, `RefusedError` if the write cannot be done safely now. Nothing is half done.
    """
    with _same_process(proc, process) as memory:
        _publish(proc, process, memory, variable, view)


def release(proc: ProcFs, process: Process, variable: str) -> None:
    """Take our value of `variable` back; one that was set by somebody else counts again."""
    with _same_process(proc, process) as memory:
        _publish(proc, process, memory, variable, None)


@contextmanager
def _same_process(proc: ProcFs, process: Process) -> Iterator[Memory]:
    """Its memory, opened before the check: whatever comes after cannot reach a successor."""
    with Memory(proc, process.id.pid, writable=True) as memory:
        _check_identity(proc, process)
        yield memory
        _check_identity(proc, process)


def _check_identity(proc: ProcFs, process: Process) -> None:
    pid = process.id.pid
    if proc.identity(pid) != process.id:
        raise VanishedError(f"process {pid} ended, and its number is another's")
    if proc.file_of(pid, "exe") != process.executable_file:
        raise VanishedError(f"process {pid} now runs something else")


def _publish(
    proc: ProcFs, process: Process, memory: Memory, variable: str, view: Path | None
) -> None:
    pid = process.id.pid
    for _ in range(_ATTEMPTS):
        live = read_environment(proc, pid, memory)
        ours = our_entries(proc, pid, memory, live)
        if view is None and not ours:
            return
        others = tuple(entry for entry in live.entries if entry not in ours)
        half, image = _compose(proc, pid, memory, live, others, variable, view)
        memory.write(half.area, b"holdover")
        memory.write(half.start, image)
        if read_environment(proc, pid, memory) != live:
            continue  # the process changed its environment meanwhile; look again
        memory.write_pointer(live.pointer, half.start)
        _read_back(proc, pid, memory, variable, view)
        return
    raise RefusedError(f"process {pid} keeps changing its environment", hint="try again")


def _compose(
    proc: ProcFs,
    pid: int,
    memory: Memory,
    live: LiveEnvironment,
    others: tuple[int, ...],
    variable: str,
    view: Path | None,
) -> tuple[Half, bytes]:
    """Where the new array goes, and its bytes; our entry first, so that getenv finds it first."""
    string = b"" if view is None else os.fsencode(f"{variable}={view}") + b"\0"
    half, used_before = find_half(proc, pid, memory, live, room_needed(live, variable, str(view)))
    if used_before and _is_stopped(proc, pid):
        # a thread that was stopped in getenv may still be walking what lies there
        raise RefusedError(
            f"process {pid} is stopped or being debugged, and had a delivery before",
            hint="try again when it runs",
        )
    return half, layout(half, others, string)


def _is_stopped(proc: ProcFs, pid: int) -> bool:
    return any(proc.stat(thread).state in "Tt" for thread in proc.threads(pid))


def _read_back(proc: ProcFs, pid: int, memory: Memory, variable: str, view: Path | None) -> None:
    values = entry_values(memory, read_environment(proc, pid, memory), variable)
    if view is not None and values[:1] != [os.fsencode(view)]:
        raise RefusedError(
            f"process {pid} set {variable} itself at the same moment", hint="try again"
        )
