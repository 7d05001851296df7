# SPDX-License-Identifier: Apache-2.0
"""What an executable and a module say about themselves, by a program definition's expressions.

Nothing is run: the answers are constant data of the file.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from holdover.elf import DT_RELA, DT_RELASZ, ElfFile
from holdover.errors import ElfError
from holdover.hashtables import HashedSymbols
from holdover.model import Build
from holdover.programs import Program

__all__ = ["read_build", "read_module_names", "read_module_stamp", "module_stamp"]


def read_build(file: BinaryIO, program: Program) -> Build:
    """Identify an executable; raises `ElfError` if it is malformed."""
    elf = ElfFile(file)
    constants = b"\0".join(_constant_data(elf))
    stamp = program.stamp.search(constants)
    if stamp is None and program.stamp_in == "data":
        stamp = program.stamp.search(_all_data(elf))
    directories = _all_groups(program.directory, constants)
    if stamp and not directories:  # what a configuration may change is no constant
        directories = _all_groups(program.directory, _all_data(elf))
    version = _first_group(program.version, constants)
    return Build(
        program=program.name,
        build_id=elf.build_id,
        stamp=_text_of(stamp[0]) if stamp else None,
        version=version,
        directories=tuple(map(Path, directories)),
        fallback=program.fallback.of(version, constants) if program.fallback else None,
        exact=program.exact,
        strict=program.strict,
        by_file=program.by_file,
        harmless=program.poison is None,
    )


def read_module_names(file: BinaryIO, program: Program) -> frozenset[str]:
    """Names of all modules that the executable may ask for, and some that it never will.

    Empty if it may ask for any.
    """
    if program.modules is None:
        return frozenset()
    constants = b"\0".join(_constant_data(ElfFile(file)))
    return frozenset(_all_groups(program.modules, constants))


def read_module_stamp(file: BinaryIO, program: Program) -> str:
    """The stamp that a module carries, or ""; raises `ElfError` if it is malformed."""
    elf = ElfFile(file)
    if program.stamp_in == "data":  # beside pointers it is in what the loader makes constant
        found = program.stamp.search(_all_data(elf))
        return _text_of(found[0]) if found else ""
    for name in HashedSymbols(elf).defined_names():
        if program.stamp.fullmatch(name.encode("utf-8", "surrogateescape")):
            return name
    return ""


def module_stamp(path: Path, program: Program) -> str:
    """The stamp of the module that lies at `path`, or ""; read once, unless it is replaced."""
    try:
        found = path.stat()
    except OSError:
        return ""
    seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    return _read_stamp(path, seen, program)


@lru_cache(maxsize=1024)  # each process is looked at again when it has been served
def _read_stamp(path: Path, _: tuple[int, ...], program: Program) -> str:
    try:
        with path.open("rb") as file:
            return read_module_stamp(file, program)
    except (OSError, ElfError):
        return ""


def _all_data(elf: ElfFile) -> bytes:
    return b"\0".join(elf.searched((s.offset, s.file_size) for s in elf.loads))


def _constant_data(elf: ElfFile) -> Iterator[bytes]:
    return elf.searched(_constant_places(elf))


def _constant_places(elf: ElfFile) -> Iterator[tuple[int, int]]:
    """Segments with string literals; with an old linker they are in the code's segment.

    Without the relocations: they are a third of it, and their zeros take longest to search.
    """
    constant = [s for s in elf.loads if s.constant]
    start, size = elf.tags.get(DT_RELA, 0), elf.tags.get(DT_RELASZ, 0)
    for segment in constant or [s for s in elf.loads if not s.writable]:
        first, end = segment.address, segment.address + segment.file_size
        if first <= start and start + size <= end:
            yield segment.offset, start - first
            first = start + size
        yield segment.offset + first - segment.address, end - first


def _text_of(stamp: bytes) -> str:
    """As it is if it is a name, else in hexadecimal digits."""
    return stamp.decode() if stamp.isascii() and stamp.decode().isprintable() else stamp.hex()


def _first_group(pattern: re.Pattern[bytes], data: bytes) -> str:
    found = pattern.search(data)
    return found[1].decode("utf-8", "replace").strip() if found else ""


def _all_groups(pattern: re.Pattern[bytes], data: bytes) -> list[str]:
    """Neighbours share the NUL between them, so the search goes on right behind each group."""
    found: dict[str, None] = {}
    match = pattern.search(data)
    while match:
        found[match[1].decode("utf-8", "replace")] = None
        match = pattern.search(data, max(match.end(1), match.start() + 1))
    return list(found)
