# SPDX-License-Identifier: Apache-2.0
"""A string of our own in another process, to which one of its pointers is made to point.

It lies where the process has bytes that it never uses (slack.py), and the pointer as it was before
with it.

    start                                                      page end
    | "holdoveP" | the pointer as it was | half 0 | half 1 |
"""

from holdover.elsewhere import wait_until_elsewhere
from holdover.errors import RefusedError, UnsupportedError
from holdover.loaded import executable
from holdover.memory import Contents, Memory
from holdover.procfs import ProcFs
from holdover.slack import tail

__all__ = ["publish", "restore"]

_MARK = b"holdoveP"
_HEAD = len(_MARK) + 8  # bytes


def publish(proc: ProcFs, pid: int, memory: Memory, pointer: int, text: bytes) -> None:
    """Make the pointer at this address point to the text, by one store.

    Raises `UnsupportedError` if there is no room, `RefusedError` if the process changes the pointer
    itself, or does not get on while it may still read what is to be overwritten.
    """
    if pointer % 8:
        raise UnsupportedError(f"process {pid}: its pointer at {pointer:#x} is not aligned")
    start, size = _place(proc, pid, memory, len(text) + 1)
    before = memory.ask(Contents.read_pointer, pointer)
    halves = (start + _HEAD, start + _HEAD + size)
    at = next(half for half in halves if not half <= before < half + size)
    ours = any(half <= before < half + size for half in halves)
    if memory.read(start, len(_MARK)) != _MARK:
        memory.write(start, _MARK)  # first: what is not marked is taken for somebody else's
    elif memory.read(at, size).strip(b"\0"):
        wait_until_elsewhere(proc, pid)  # who was there before may still be read
    if not ours:  # the first time, or the program has changed its mind since it was taken back
        memory.write(start + len(_MARK), before.to_bytes(8, "little"))
    memory.write(at, text + b"\0")
    if memory.ask(Contents.read_pointer, pointer) != before:
        raise RefusedError(
            f"process {pid} changed its pointer at the same moment", hint="try again"
        )
    memory.write_pointer(pointer, at)


def restore(proc: ProcFs, pid: int, memory: Memory, pointer: int) -> None:
    """Make it point again to what it pointed to before the first text."""
    start, _ = _place(proc, pid, memory, 0)
    if memory.read(start, len(_MARK)) != _MARK:
        raise UnsupportedError(f"process {pid}: where its pointer led before is not known")
    memory.write_pointer(pointer, memory.ask(Contents.read_pointer, start + len(_MARK)))


def _place(proc: ProcFs, pid: int, memory: Memory, need: int) -> tuple[int, int]:
    """Where the executable leaves room, and the size of a half."""
    program = executable(proc, pid, maps := proc.maps(pid))
    largest = 0
    for start, end in tail(maps, proc.stat(pid).start_brk, program):
        content = memory.read(start, end - start)
        if content.strip(b"\0") and not content.startswith(_MARK):
            continue  # somebody uses these bytes after all
        largest = (end - start - _HEAD) // 16 * 8
        if largest >= need:
            return start, largest
    raise UnsupportedError(
        f"process {pid}: no room for another name ({need} bytes needed, {largest} found)"
    )
