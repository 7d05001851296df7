# SPDX-License-Identifier: Apache-2.0
"""Which ELF objects a process has loaded, and where: as they are mapped, not as names promise.

A file may also be mapped as plain data (profilers do it), and an object may be loaded twice
(dlmopen, a copy with the same soname). So an object is at a base only if each of its segments is
mapped there from that very file, and it is taken only if there is no second one.

Source: proc_pid_maps(5), getauxval(3), elf(5), dlmopen(3).
"""

import functools
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from holdover.elf import ElfFile, Segment
from holdover.errors import ElfError, UnsupportedError
from holdover.hashtables import HashedSymbols, Symbol
from holdover.identity import FileId
from holdover.procfs import DELETED, Mapping, ProcFs, mapped_name
from holdover.symbols import slot_of

__all__ = ["Loaded", "StartUp", "executable", "libc", "start_up_libraries", "start_up", "PAGE"]
__all__ += ["defining", "mapped_objects", "is_loaded"]

PAGE = 4096
_AT_BASE, _AT_ENTRY = 7, 9
_E_ENTRY = 24  # offset of e_entry in the ELF header
_LIBC = re.compile(r"/libc(-2\.\d+\.so|\.so\.6)( \(deleted\))?$")
_MAX_PARTS = 64  # mappings and segments of an object; the loader makes about five of each
_SHARED = re.compile(r"\.so(\.[0-9.]+)?$")
_LOADER = re.compile(r"/ld[-.][^/]*$")
T = TypeVar("T")
_Question = Callable[[BinaryIO], T | None]


@dataclass(frozen=True, slots=True)
class Anatomy:
    """What of an object file tells where it is loaded."""

    soname: str
    needed: tuple[str, ...]
    entry: int
    loads: tuple[Segment, ...]


def _anatomy(file: BinaryIO) -> Anatomy:
    elf = ElfFile(file)
    entry = int(struct.unpack("<Q", elf.read(_E_ENTRY, 8))[0])
    return Anatomy(elf.soname, elf.needed, entry, elf.loads)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An object in a process; `base` is what was added to its addresses."""

    anatomy: Anatomy
    file: FileId
    base: int
    ask: Callable[[_Question[Any]], Any]
    """The answer of the object's file."""

    def address_of(self, symbol: str) -> int | None:
        """Where the object defines `symbol`, if it does."""
        found = self.symbol(symbol)
        return self._loaded_at(found.value if found else None)

    def symbol(self, name: str) -> Symbol | None:
        """What the object defines under that name; its value is without the base."""
        found: Symbol | None = self.ask(_symbol(name))
        return found

    def slot_of(self, symbol: str) -> int | None:
        """Where the loader wrote down where it found `symbol` for the object, if it did."""
        return self._loaded_at(self.ask(_place_of(symbol)))

    def _loaded_at(self, address: int | None) -> int | None:
        return None if address is None else self.base + address


def _finder(proc: ProcFs, pid: int, name: str) -> Callable[[_Question[Any]], Any]:
    return lambda question: proc.answer(pid, name, question)


@functools.lru_cache  # the same function each time, or no answer would be known
def _symbol(name: str) -> _Question[Symbol]:
    return lambda file: HashedSymbols(ElfFile(file)).find(name)


@functools.lru_cache
def _place_of(symbol: str) -> _Question[int]:
    return lambda file: slot_of(ElfFile(file), symbol)


def executable(proc: ProcFs, pid: int, maps: Sequence[Mapping]) -> Loaded:
    """What the process runs; raises `UnsupportedError` if it is not mapped as the kernel does."""
    anatomy = proc.answer(pid, "exe", _anatomy)
    if anatomy and _LOADER.search(f"/{anatomy.soname}"):
        raise UnsupportedError(
            f"process {pid} was started through the dynamic loader: what it runs cannot be told"
        )
    entry = _auxiliary(proc, pid).get(_AT_ENTRY)
    mapping = next((m for m in maps if entry and m.start <= entry < m.end), None)
    if anatomy and entry and mapping:
        own, base = [m for m in maps if m.file == mapping.file], entry - anatomy.entry
        if base in _bases(own, anatomy):
            return Loaded(anatomy, mapping.file, base, _finder(proc, pid, "exe"))
    raise UnsupportedError(f"process {pid}: where its executable is loaded cannot be told")


def libc(proc: ProcFs, pid: int, maps: Sequence[Mapping]) -> Loaded:
    """The one glibc of the process; raises `UnsupportedError` if there is none, or a second."""
    named = {m.file for m in maps if "/libc" in m.path and _LIBC.search(m.path)}
    found = [
        loaded
        for mapping, own in _mapped_code(m for m in maps if m.file in named)
        if _LIBC.search(mapping.path)
        for loaded in _objects(proc, pid, mapping, own)
        if loaded.anatomy.soname == "libc.so.6"
    ]
    if len(found) != 1:
        count = "more than one glibc" if found else "no glibc"
        raise UnsupportedError(f"process {pid} has {count}: its environment was not found")
    return found[0]


def start_up_libraries(
    proc: ProcFs, pid: int, maps: Sequence[Mapping], needed: tuple[str, ...]
) -> Iterator[Loaded]:
    """Libraries that the executable itself needs, hence never unloaded; of doubtful ones none."""
    by_soname: dict[str, list[Loaded]] = defaultdict(list)
    for mapping, own in _mapped_code(maps):
        for loaded in _objects(proc, pid, mapping, own):
            by_soname[loaded.anatomy.soname].append(loaded)
    for soname in needed:
        if len(by_soname[soname]) == 1 and not _LOADER.search(f"/{soname}"):
            yield by_soname[soname][0]


def defining(proc: ProcFs, pid: int, maps: Sequence[Mapping], symbol: str) -> Iterator[Loaded]:
    """All objects with code that define it, whoever loaded them."""
    for mapping, own in _mapped_code(maps):
        for loaded in _objects(proc, pid, mapping, own):
            if loaded.address_of(symbol) is not None:
                yield loaded


def mapped_objects(maps: Iterable[Mapping]) -> Iterator[tuple[Mapping, Sequence[Mapping]]]:
    """One mapping of each file that may be a loaded object, its code if there is some, and all.

    A file without code counts if it is called a library: some hold nothing but data (libicudata).
    """
    by_file: dict[FileId, list[Mapping]] = defaultdict(list)
    for mapping in maps:
        if mapping.file.inode:
            by_file[mapping.file].append(mapping)
    for own in by_file.values():
        first = next((m for m in own if "x" in m.permissions), own[0])
        if "x" in first.permissions or _SHARED.search(_file_name(first)):
            yield first, own


def is_loaded(own: Iterable[Mapping], file: BinaryIO) -> bool:
    """Whether the file is mapped as an object, not just to be read; `own` are all of it."""
    if any("x" in mapping.permissions for mapping in own):
        return True
    return not any(segment.executable for segment in ElfFile(file).loads)


def _mapped_code(maps: Iterable[Mapping]) -> Iterator[tuple[Mapping, Sequence[Mapping]]]:
    return ((first, own) for first, own in mapped_objects(maps) if "x" in first.permissions)


def _objects(proc: ProcFs, pid: int, mapping: Mapping, own: Sequence[Mapping]) -> Iterator[Loaded]:
    """The very file that is mapped, replaced or not, at each base where it is loaded."""
    name = mapped_name(mapping)
    anatomy = proc.answer(pid, name, _anatomy)
    if anatomy is not None:
        for base in _bases(own, anatomy):
            yield Loaded(anatomy, mapping.file, base, _finder(proc, pid, name))


def _bases(own: Sequence[Mapping], anatomy: Anatomy) -> list[int]:
    """Where every segment of the object is mapped as the loader maps it; `own` are all of it."""
    loads = anatomy.loads
    if not loads or len(loads) > _MAX_PARTS or len(own) > _MAX_PARTS:
        return []
    starts = [m.start for m in own if m.offset == _page(loads[0].offset)]
    bases = [start - _page(loads[0].address) for start in starts]
    return [b for b in bases if all(_is_mapped(own, b, s) for s in loads if s.file_size)]


def _is_mapped(own: Sequence[Mapping], base: int, segment: Segment) -> bool:
    at = base + _page(segment.address)
    return any(
        m.start <= at < m.end
        and m.offset + at - m.start == _page(segment.offset)
        and ("x" in m.permissions) == segment.executable
        for m in own
    )


def _page(address: int) -> int:
    return address // PAGE * PAGE


def _auxiliary(proc: ProcFs, pid: int) -> dict[int, int]:
    """What the kernel told the process at its start."""
    with proc.open(pid, "auxv") as file:
        data = file.read(PAGE)
    return dict(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))


@dataclass(frozen=True, slots=True)
class StartUp:
    """The files that a process was made of when it started, as paths that still lead to them."""

    loader: Path
    libraries: tuple[tuple[str, Path], ...]
    """Each by the name that others need it by; the loader is not among them."""


def start_up(proc: ProcFs, pid: int) -> StartUp:
    """What a stand-in for the process has to be made of, even if all of it was replaced on disk.

    Only what the executable needs, and what that needs: modules that were loaded late, and their
    libraries, are no part of a start. Raises `UnsupportedError` if the mapped files do not show it.
    """
    maps = proc.maps(pid)
    base = _auxiliary(proc, pid).get(_AT_BASE)
    loader = next((m for m in maps if m.start == base and m.file.inode), None)
    if loader is None:
        raise UnsupportedError(f"process {pid}: its dynamic loader is not to be found in it")
    mapped = _mapped_sonames(proc, pid, maps, loader.file)
    with proc.open(pid, "exe") as file:
        todo = list(ElfFile(file).needed)
    found: dict[str, Path] = {}
    for soname in todo:  # grows as it goes: breadth first, like the loader
        if soname in found or _LOADER.search(f"/{soname}"):
            continue
        if len(mapped[soname]) != 1:
            count = "more than once" if mapped[soname] else "not"
            raise UnsupportedError(f"process {pid}: {soname}, which it needs, is {count} mapped")
        found[soname], needed = mapped[soname][0]
        todo.extend(needed)
    return StartUp(_map_file(proc, pid, loader), tuple(found.items()))


def _mapped_sonames(
    proc: ProcFs, pid: int, maps: tuple[Mapping, ...], loader: FileId
) -> dict[str, list[tuple[Path, tuple[str, ...]]]]:
    """For each soname the mapped files that bear it, and what those need."""
    by_soname: dict[str, list[tuple[Path, tuple[str, ...]]]] = defaultdict(list)
    for mapping, own in mapped_objects(maps):
        file = None if mapping.file == loader else proc.open_mapped(pid, mapping)
        if file is None:
            continue
        with file, suppress(ElfError):
            elf = ElfFile(file)
            if is_loaded(own, file):
                found = (_map_file(proc, pid, mapping), elf.needed)
                by_soname[elf.soname or _file_name(mapping)].append(found)
    return by_soname


def _file_name(mapping: Mapping) -> str:
    return mapping.path.removesuffix(DELETED).rpartition("/")[2]


def _map_file(proc: ProcFs, pid: int, mapping: Mapping) -> Path:
    return proc.path(pid, mapped_name(mapping))
