# SPDX-License-Identifier: Apache-2.0
"""Deliver by environment: set a variable in a live process by writing data only.

The process is never stopped and nothing is called in it. A new array and a new string are written
where nothing looks, and one aligned store to `environ` publishes them. The live array is never
touched, so a reader sees the old environment or the new one.

What the process sets itself between our look and our store would be lost, so the look is repeated
right before the store, and the old array is looked at once more after it: what the process did
there in between is carried over. Strings that it replaced stay valid: glibc never frees them.
"""

import os
from pathlib import Path

from holdover.environ import (
    MARK,
    Layout,
    array_image,
    changed_since,
    find_half,
    our_entries,
    read_again,
    read_environment,
    read_values,
    room_needed,
)
from holdover.errors import RefusedError
from holdover.memory import Memory
from holdover.model import Process
from holdover.procfs import ProcFs
from holdover.sameness import memory_of

__all__ = ["deliver", "release"]

_ATTEMPTS = 10
_Change = tuple[frozenset[int], tuple[int, ...]]


def deliver(proc: ProcFs, process: Process, variable: str, view: Path) -> None:
    """Make `variable` name `view`, before any other value that it has.

    Raises `VanishedError` if it is no longer that process, `UnsupportedError` if there is no room
    or no environment, `RefusedError` if the write cannot be done safely now, `MalformedError` if
    its environment makes no sense, `UnreadableError` if its memory cannot be opened or written.
    Nothing is half done: the one store that publishes comes last.
    """
    with memory_of(proc, process) as memory:
        _publish(proc, process, memory, variable, view)


def release(proc: ProcFs, process: Process, variable: str) -> None:
    """Take our value of `variable` back; one that was set by somebody else counts again."""
    with memory_of(proc, process) as memory:
        _publish(proc, process, memory, variable, None)


def _publish(
    proc: ProcFs, process: Process, memory: Memory, variable: str, view: Path | None
) -> None:
    pid = process.id.pid
    missed: _Change | None = None
    left: int | None = None  # by all threads, the half that begins there
    layout, live = read_environment(proc, pid, memory)
    for _ in range(_ATTEMPTS):
        entries = _merge(live.entries, missed)
        ours = our_entries(memory, layout, entries, variable)
        if view is None and not ours and missed is None:
            return
        others = tuple(entry for entry in entries if entry not in ours)
        string = b"" if view is None else os.fsencode(f"{variable}={view}") + b"\0"
        need = room_needed(len(entries), variable, str(view))
        half, used_before = find_half(memory, layout, live, need)
        if used_before and half.start != left:
            from holdover.elsewhere import wait_until_elsewhere  # only few had a delivery before

            wait_until_elsewhere(proc, pid)
            left, live = half.start, read_again(memory, layout)
            continue  # that took its time
        image = array_image(half, others, string)
        memory.write(half.area, MARK)
        memory.write(half.start, image)
        before, live = live, read_again(memory, layout)
        if live != before:
            continue  # the process changed its environment meanwhile; look again
        memory.write_pointer(layout.pointer, half.start)
        left, missed = None, changed_since(memory, live)
        if missed is None:
            _read_back(memory, layout, variable, view)
            return
        live = read_again(memory, layout)
    if missed is not None:  # it is published all the same
        _read_back(memory, layout, variable, view)
        return
    raise RefusedError(f"process {pid} keeps changing its environment", hint="try again")


def _merge(entries: tuple[int, ...], missed: _Change | None) -> tuple[int, ...]:
    """With what the process did to the old array between our last look and our store.

    It may have copied what we had just published into it, our own string included.
    """
    if missed is None:
        return entries
    removed, added = missed
    return tuple(entry for entry in entries if entry not in removed) + added


def _read_back(memory: Memory, layout: Layout, variable: str, view: Path | None) -> None:
    values = read_values(memory, layout, variable)
    if view is not None and values[:1] != [os.fsencode(view)]:
        raise RefusedError(
            f"process {memory.pid} set {variable} itself at the same moment", hint="try again"
        )
