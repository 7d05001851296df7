# SPDX-License-Identifier: Apache-2.0
"""The symbol versions that an object needs and defines. Pure.

Source: the Linux Standard Base, "Symbol Versioning"; what the loader makes of them is glibc's
elf/dl-version.c (_dl_check_map_versions).
"""

import struct
from collections.abc import Iterator

from holdover.elf import ElfFile
from holdover.errors import ElfError

__all__ = ["needed_versions", "defined_versions", "version_names", "VERSION_MASK"]

DT_VERDEF, DT_VERDEFNUM, DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
VER_FLG_WEAK = 2
VERSION_MASK = 0x7FFF

_NEED = struct.Struct("<HHIII")  # version, count, file name, first of its versions, next file
_NEEDED = struct.Struct("<IHHII")  # hash, flags, index, name, next version
_DEFINITION = struct.Struct("<HHHHIII")  # version, flags, index, count, hash, first name, next
_NAME = struct.Struct("<II")  # name, next name
_Need = tuple[str, str, int, int]
"""File as in NEEDED, version, flags, index."""


def needed_versions(elf: ElfFile) -> tuple[tuple[str, str], ...]:
    """(name as in NEEDED, version) for each version that the loader insists on.

    Raises `ElfError` if the table is malformed.
    """
    return tuple((file, name) for file, name, flags, _ in _needed(elf) if not flags & VER_FLG_WEAK)


def defined_versions(elf: ElfFile) -> frozenset[str]:
    """Versions that the object offers; empty if it knows none, and then none is insisted on.

    Raises `ElfError` if the table is malformed.
    """
    return frozenset(name for name, _ in _defined(elf))


def version_names(elf: ElfFile) -> dict[int, str]:
    """What the numbers in the table of symbol versions stand for; raises `ElfError`."""
    names = {index & VERSION_MASK: name for name, index in _defined(elf)}
    return names | {index & VERSION_MASK: name for _, name, _, index in _needed(elf)}


def _needed(elf: ElfFile) -> Iterator[_Need]:
    if DT_VERNEED not in elf.tags:
        return
    at = elf.dynamic_value(DT_VERNEED)
    budget = elf.size // _NEEDED.size  # tables that run in circles come to an end
    for _ in range(_count(elf, DT_VERNEEDNUM)):
        _, count, file, first, following = _NEED.unpack(elf.read_at(at, _NEED.size))
        entry, name_of_file = at + first, elf.string(file)
        budget -= count
        if budget < 0:
            raise ElfError(f"more symbol versions than a file of {elf.size} bytes has room for")
        for _ in range(count):
            _, flags, index, name, step = _NEEDED.unpack(elf.read_at(entry, _NEEDED.size))
            yield name_of_file, elf.string(name), flags, index
            entry += step
        at += following


def _defined(elf: ElfFile) -> Iterator[tuple[str, int]]:
    if DT_VERDEF not in elf.tags:
        return
    at = elf.dynamic_value(DT_VERDEF)
    for _ in range(_count(elf, DT_VERDEFNUM)):
        _, _, index, _, _, first, following = _DEFINITION.unpack(elf.read_at(at, _DEFINITION.size))
        name, _ = _NAME.unpack(elf.read_at(at + first, _NAME.size))
        yield elf.string(name), index
        at += following


def _count(elf: ElfFile, tag: int) -> int:
    count = elf.dynamic_value(tag)
    if count * _NEED.size > elf.size:
        raise ElfError(f"{count} symbol versions in a file of {elf.size} bytes")
    return count
