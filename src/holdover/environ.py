# SPDX-License-Identifier: Apache-2.0
"""The live environment of another process: where it is, what it says, and where there is room.

`environ` is a pointer to an array of pointers. Whoever wants to change it from outside needs bytes
that the process will never use. They are between the end of an object's .bss and the end of its
last page: mapped, writable, zero, and reached by nothing. We mark them as ours and use them as two
halves in turn, so that the array that is live is never written to.

    start                                                                   page end
    | "holdover" | half 0: array, zeros, string | half 1: array, zeros, string |

Source: environ(7); glibc's stdlib/getenv.c and stdlib/setenv.c (setenv copies an array that it did
not allocate, so a later setenv of the program stays correct); elf/dl-minimal.c (ld.so allocates
from the end of its own last page, which is why its page is never used).
"""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

from holdover.errors import MalformedError, UnsupportedError
from holdover.loaded import PAGE, Loaded, executable, libc, start_up_libraries
from holdover.memory import Memory
from holdover.procfs import Mapping, ProcFs

__all__ = [
    "MARK",
    "LiveEnvironment",
    "Half",
    "read_environment",
    "changed_since",
    "entry_values",
    "room_needed",
    "find_half",
    "our_entries",
    "layout",
]

MARK = b"holdover"
"""What the bytes that we use begin with."""
_MAX_ENTRIES = 65536
_STARTING = 0.5  # seconds in which a process may still be without an environment


@dataclass(frozen=True, slots=True)
class LiveEnvironment:
    """Addresses in the process: of `environ`, of the array it points to, of each string."""

    pointer: int
    array: int
    entries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Half:
    """A place for one array and one string; `area` is where the mark is."""

    area: int
    start: int
    size: int

    def holds(self, address: int) -> bool:
        return self.start <= address < self.start + self.size


def read_environment(proc: ProcFs, pid: int, memory: Memory) -> LiveEnvironment:
    """Read the array as it is now; raises `UnsupportedError` if it cannot be found.

    A process that has only just started has none yet: it gets a moment.
    """
    while True:
        try:
            return _read_environment(proc, pid, memory)
        except UnsupportedError:
            if proc.age(pid) > _STARTING:
                raise
            time.sleep(0.01)


def _read_environment(proc: ProcFs, pid: int, memory: Memory) -> LiveEnvironment:
    pointer = _locate(proc, pid)
    array = memory.read_pointer(pointer)
    if not array:
        raise UnsupportedError(f"process {pid} has cleared its environment")
    return LiveEnvironment(pointer, array, tuple(_read_array(pid, memory, array)))


def _read_array(pid: int, memory: Memory, array: int) -> Iterator[int]:
    for index in range(_MAX_ENTRIES):
        entry = memory.read_pointer(array + 8 * index)
        if not entry:
            return
        yield entry
    raise UnsupportedError(f"process {pid}: its environment has more than {_MAX_ENTRIES} entries")


def changed_since(
    memory: Memory, live: LiveEnvironment
) -> tuple[frozenset[int], tuple[int, ...]] | None:
    """Entries that the process took out of the array, and those it put in, since it was read.

    None if it is as it was, or no array of variables any more.
    """
    try:
        later = tuple(_read_array(memory.pid, memory, live.array))
        if later == live.entries or not all(b"=" in memory.read_string(e) for e in later):
            return None
    except (MalformedError, UnsupportedError):
        return None
    added = tuple(entry for entry in later if entry not in live.entries)
    return frozenset(live.entries) - set(later), added


def entry_values(memory: Memory, live: LiveEnvironment, name: str) -> list[bytes]:
    """All values of the variable; getenv(name) returns the first in the process now."""
    prefix = len(name.encode()) + 1
    return [memory.read_string(entry)[prefix:] for entry in _entries_of(memory, live, name)]


def _entries_of(memory: Memory, live: LiveEnvironment, name: str) -> list[int]:
    wanted = name.encode() + b"="
    return [entry for entry in live.entries if memory.read_string(entry).startswith(wanted)]


def room_needed(live: LiveEnvironment, name: str, value: str) -> int:
    """Bytes for an array with one more entry, its end, and the entry's string."""
    return 8 * (len(live.entries) + 2) + len(os.fsencode(f"{name}={value}")) + 1


# -- where `environ` is ----------------------------------------------------------------------------


def _locate(proc: ProcFs, pid: int) -> int:
    """Address of the `environ` that libc uses.

    As the loader resolves it: a COPY relocation puts it into the executable, else it is libc's.
    A COPY has all of its names; a program's own variable `environ` is no concern of libc's.
    """
    maps = proc.maps(pid)
    with libc(proc, pid, maps) as library, executable(proc, pid, maps) as program:
        found = program.address_of("__environ") or library.address_of("__environ")
    if found is None:
        raise UnsupportedError(f"process {pid}: its libc has no environment")
    return found


# -- where there is room ---------------------------------------------------------------------------


def find_half(
    proc: ProcFs, pid: int, memory: Memory, live: LiveEnvironment, need: int
) -> tuple[Half, bool]:
    """A half of `need` bytes that nothing live points into, and whether it was used before.

    Raises `UnsupportedError` if there is none.
    """
    used = (live.array, *live.entries)
    largest = 0
    for start, end in _tails(proc, pid):
        content = memory.read(start, end - start)
        if content.strip(b"\0") and not content.startswith(MARK):
            continue  # somebody uses these bytes after all
        size = (end - start - len(MARK)) // 32 * 16
        halves = [Half(start, start + len(MARK) + n * size, size) for n in (0, 1)]
        free = [h for h in halves if not any(h.holds(address) for address in used)]
        largest = max(largest, size)
        if free and size >= need:
            at = free[0].start - start
            return free[0], bool(content[at : at + size].strip(b"\0"))
    raise UnsupportedError(
        f"process {pid}: no room for a new environment ({need} bytes needed, {largest} found)"
    )


def our_entries(
    proc: ProcFs, pid: int, memory: Memory, live: LiveEnvironment, name: str
) -> set[int]:
    """Those entries of the variable whose strings we once wrote."""
    ours: set[int] = set()
    named = set(_entries_of(memory, live, name))
    if named:  # else no library has to be looked at
        for start, end in _tails(proc, pid):
            if memory.read(start, len(MARK)) == MARK:
                ours |= {entry for entry in named if start <= entry < end}
    return ours


def _tails(proc: ProcFs, pid: int) -> Iterator[tuple[int, int]]:
    """Unused ends of last pages: of the executable, then of libraries that never go away."""
    maps = proc.maps(pid)
    break_at = proc.stat(pid).start_brk
    with executable(proc, pid, maps) as program:
        yield from _tail(maps, break_at, program)
        needed = program.elf.needed
    for library in start_up_libraries(proc, pid, maps, needed):
        yield from _tail(maps, break_at, library)


def _tail(maps: tuple[Mapping, ...], break_at: int, loaded: Loaded) -> Iterator[tuple[int, int]]:
    writable = [segment for segment in loaded.elf.loads if segment.writable]
    if not writable:
        return
    last = max(writable, key=lambda s: s.address)
    end_of_bss = loaded.base + last.address + last.memory_size
    start, end = -(-end_of_bss // 16) * 16, -(-end_of_bss // PAGE) * PAGE
    if end - PAGE <= break_at < end or end - start <= len(MARK):
        return  # the heap begins there, or there is nothing
    if _is_its_own(maps, loaded, loaded.base + last.address, end):
        yield start, end


def _is_its_own(maps: tuple[Mapping, ...], loaded: Loaded, start: int, end: int) -> bool:
    """All from `start` to `end` is the object's file or its zeros, and the last page writable."""
    at = start // PAGE * PAGE
    for mapping in maps:
        if mapping.start <= at < mapping.end:
            if mapping.file != loaded.file and mapping.file.inode:
                return False
            if mapping.end >= end:
                return mapping.permissions == "rw-p"
            at = mapping.end
    return False


def layout(half: Half, entries: tuple[int, ...], string: bytes) -> bytes:
    """The bytes of a half: the array at its start, its first entry the string at its end.

    All between is zero, so that whoever still walks an earlier array of this half meets an end.
    Without a string the array is just `entries`.
    """
    at = half.size - len(string)
    pointers = (half.start + at, *entries) if string else entries
    return struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0).ljust(at, b"\0") + string
