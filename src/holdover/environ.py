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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from holdover.errors import MalformedError, UnsupportedError
from holdover.loaded import Loaded, defining, executable, libc, start_up_libraries
from holdover.memory import Contents, Memory
from holdover.procfs import Mapping, ProcFs
from holdover.slack import tail

__all__ = [
    "MARK",
    "LiveEnvironment",
    "Layout",
    "Half",
    "read_environment",
    "read_variable",
    "read_again",
    "read_values",
    "changed_since",
    "entry_values",
    "room_needed",
    "find_half",
    "our_entries",
    "array_image",
]

MARK = b"holdover"
"""What the bytes that we use begin with."""
_MAX_ENTRIES = 65536
_STARTING = 0.5  # seconds in which a process may still be without an environment


@dataclass(frozen=True, slots=True)
class LiveEnvironment:
    """Addresses in the process: of the array that `environ` points to, of each string."""

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


class Layout:
    """Where `environ` is in a process, and where there is room: the same as long as it runs."""

    def __init__(self, proc: ProcFs, pid: int, maps: Sequence[Mapping]) -> None:
        """Raises `UnsupportedError` if `environ` cannot be found."""
        self._proc, self._pid, self._maps = proc, pid, maps
        self._executable = executable(proc, pid, maps)
        self._library = libc(proc, pid, maps)
        self.pointer = self._locate()

    def _locate(self) -> int:
        """Address of the `environ` that libc uses.

        As the loader resolves it: a COPY relocation puts it into the executable, else it is
        libc's. A COPY has all of its names; a program's own variable `environ` is no concern of
        libc's.
        """
        found = self._executable.address_of("__environ") or self._library.address_of("__environ")
        if found is None:
            raise UnsupportedError(f"process {self._pid}: its libc has no environment")
        return found

    def slots(self) -> tuple[int | None, int | None]:
        """Where the loader wrote down where it found `environ` for libc, and who asks getenv."""
        return self._library.slot_of("__environ"), self._executable.slot_of("getenv")

    def check_bound(self, environ: int | None, getenv: int | None) -> None:
        """Raises `UnsupportedError` if an object has put its own in the place of what is libc's.

        Preloaded libraries may: then libc looks elsewhere, or is not asked. What the loader bound,
        as the `slots` hold it, tells. An executable that binds late holds an address of its own
        until the first call: then whoever could be called counts.
        """
        if environ is not None and environ != self.pointer:
            raise UnsupportedError(f"process {self._pid}: libc's environ was replaced by another")
        if self._asks_another(getenv):
            raise UnsupportedError(f"process {self._pid}: libc's getenv was replaced by another")

    def _asks_another(self, bound: int | None) -> bool:
        if self._executable.address_of("getenv"):
            return True
        if bound is None or self._is_of(self._library, bound):
            return False
        found = defining(self._proc, self._pid, self._maps, "getenv")
        others = (other for other in found if other.file != self._library.file)
        return not self._is_of(self._executable, bound) or any(others)

    def _is_of(self, loaded: Loaded, address: int) -> bool:
        return any(m.start <= address < m.end and m.file == loaded.file for m in self._maps)

    def tails(self) -> Iterator[tuple[int, int]]:
        """Unused ends of last pages: of the executable, then of libraries that never go away."""
        proc, pid, maps = self._proc, self._pid, self._maps
        break_at = proc.stat(pid).start_brk
        yield from tail(maps, break_at, self._executable)
        needed = self._executable.anatomy.needed
        for library in start_up_libraries(proc, pid, maps, needed):
            yield from tail(maps, break_at, library)


def read_environment(
    proc: ProcFs, pid: int, memory: Memory, maps: Sequence[Mapping] = ()
) -> tuple[Layout, LiveEnvironment]:
    """Find the array and read it as it is now; raises as `read_variable`."""
    layout, live, _ = read_variable(proc, pid, memory, None, maps)
    return layout, live


def read_variable(
    proc: ProcFs, pid: int, memory: Memory, name: str | None, maps: Sequence[Mapping] = ()
) -> tuple[Layout, LiveEnvironment, list[bytes]]:
    """The same, and all values of the variable `name`: getenv(name) returns the first.

    `maps` are what was read a moment ago. A process that has only just started has none yet: it
    gets a moment. Raises `UnsupportedError` if the array cannot be found.
    """
    while True:
        try:
            layout = Layout(proc, pid, maps or proc.maps(pid))
            bound, live, values = memory.ask(_look, layout.slots(), layout.pointer, name)
            layout.check_bound(*bound)
            return layout, _present(pid, live), values
        except UnsupportedError:
            if proc.age(pid) > _STARTING:
                raise
            time.sleep(0.01)
            maps = ()


def read_again(memory: Memory, layout: Layout) -> LiveEnvironment:
    """The array as it is now; raises `UnsupportedError` if there is none."""
    return _present(memory.pid, memory.ask(_live, layout.pointer))


def read_values(memory: Memory, layout: Layout, name: str) -> list[bytes]:
    """All values of the variable as they are now; raises as `read_again`."""
    _, live, values = memory.ask(_look, (), layout.pointer, name)
    _present(memory.pid, live)
    return values


def _present(pid: int, live: LiveEnvironment) -> LiveEnvironment:
    if not live.array:
        raise UnsupportedError(f"process {pid} has cleared its environment")
    return live


def changed_since(
    memory: Memory, live: LiveEnvironment
) -> tuple[frozenset[int], tuple[int, ...]] | None:
    """Entries that the process took out of the array, and those it put in, since it was read.

    None if it is as it was, or no array of variables any more.
    """
    try:
        later = memory.ask(_variables, live.array, live.entries)
    except MalformedError:
        return None
    if later == live.entries:
        return None
    added = tuple(entry for entry in later if entry not in live.entries)
    return frozenset(live.entries) - set(later), added


def entry_values(memory: Memory, live: LiveEnvironment, name: str) -> list[bytes]:
    """All values of the variable; getenv(name) returns the first in the process now."""
    return [value for _, value in memory.ask(_named, live.entries, name)]


def room_needed(entries: int, name: str, value: str) -> int:
    """Bytes for an array with one more entry, its end, and the entry's string."""
    return 8 * (entries + 2) + len(os.fsencode(f"{name}={value}")) + 1


# -- in the child that touches the memory ----------------------------------------------------------


def _look(
    memory: Contents, slots: tuple[int | None, ...], pointer: int, name: str | None
) -> tuple[list[int | None], LiveEnvironment, list[bytes]]:
    """What the slots hold, the array, and the values of the variable."""
    bound = [memory.read_pointer(slot) if slot else None for slot in slots]
    live = _live(memory, pointer)
    named = [] if name is None else _named(memory, live.entries, name)
    return bound, live, [value for _, value in named]


def _live(memory: Contents, pointer: int) -> LiveEnvironment:
    """Without an array, if it has none."""
    array = memory.read_pointer(pointer)
    entries = memory.read_pointers(array, _MAX_ENTRIES) if array else ()
    return LiveEnvironment(array, tuple(entries))


def _named(memory: Contents, entries: tuple[int, ...], name: str) -> list[tuple[int, bytes]]:
    """Those that are the variable, each with its value."""
    wanted = name.encode() + b"="
    texts = zip(entries, memory.read_strings(entries), strict=True)
    return [(at, text.removeprefix(wanted)) for at, text in texts if text.startswith(wanted)]


def _variables(memory: Contents, array: int, known: tuple[int, ...]) -> tuple[int, ...]:
    """What the array has now; `known` if that is no variables any more."""
    later = tuple(memory.read_pointers(array, _MAX_ENTRIES))
    if later == known or all(b"=" in text for text in memory.read_strings(later)):
        return later
    return known


# -- where there is room ---------------------------------------------------------------------------


def find_half(
    memory: Memory, layout: Layout, live: LiveEnvironment, need: int
) -> tuple[Half, bool]:
    """A half of `need` bytes that nothing live points into, and whether it was used before.

    Raises `UnsupportedError` if there is none.
    """
    used = (live.array, *live.entries)
    largest = 0
    for start, end in layout.tails():
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
        f"process {memory.pid}: no room for a new environment"
        f" ({need} bytes needed, {largest} found)"
    )


def our_entries(memory: Memory, layout: Layout, entries: tuple[int, ...], name: str) -> set[int]:
    """Those of the entries that are the variable, and whose strings we once wrote."""
    ours: set[int] = set()
    named = {entry for entry, _ in memory.ask(_named, entries, name)}
    if named:  # else no library has to be looked at
        for start, end in layout.tails():
            if memory.read(start, len(MARK)) == MARK:
                ours |= {entry for entry in named if start <= entry < end}
    return ours


def array_image(half: Half, entries: tuple[int, ...], string: bytes) -> bytes:
    """The bytes of a half: the array at its start, its first entry the string at its end.

    All between is zero, so that whoever still walks an earlier array of this half meets an end.
    Without a string the array is just `entries`.
    """
    at = half.size - len(string)
    pointers = (half.start + at, *entries) if string else entries
    return struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0).ljust(at, b"\0") + string
