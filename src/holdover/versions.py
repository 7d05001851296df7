# SPDX-License-Identifier: Apache-2.0
"""The symbol versions that an object needs and defines. Pure.

Source: the Linux Standard Base, "Symbol Versioning"; what the loader makes of them is glibc's
elf/dl-version.c (_dl_check_map_versions).
"""

from collections.abc import Iterator
from struct import Struct

from holdover.elf import ElfFile
from holdover.errors import ElfError

__all__ = ["needed_versions", "defined_versions", "version_names", "VERSION_MASK"]

DT_VERDEF, DT_VERNEED = 0x6FFFFFFC, 0x6FFFFFFE
VER_FLG_WEAK = 2
VERSION_MASK = 0x7FFF
_MAX_ENTRIES = 2 * VERSION_MASK  # versions, and the files that they are wanted from

_NEED = Struct("<HHIII")  # version, count, file name, first of its versions, next file
_NEEDED = Struct("<IHHII")  # hash, flags, index, name, next version
_DEFINITION = Struct("<HHHHIII")  # version, flags, index, count, hash, first name, next
_NAME = Struct("<II")  # name, next name
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
    tables = _Tables(elf)
    for start, (_, _, file, first, _) in tables.chain(DT_VERNEED, _NEED):
        for _, (_, flags, index, name, _) in tables.chain_at(start + first, _NEEDED):
            yield elf.text(file), elf.text(name), flags, index


def _defined(elf: ElfFile) -> Iterator[tuple[str, int]]:
    for start, (_, _, index, _, _, first, _) in _Tables(elf).chain(DT_VERDEF, _DEFINITION):
        name, _ = _NAME.unpack(elf.read_at(start + first, _NAME.size))
        yield elf.text(name), index


class _Tables:
    """Entries that each say how far it is to the next, as the loader walks them.

    It does not look at the counts that are there, too: an entry without a next one is the last.
    """

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.left = _MAX_ENTRIES

    def chain(self, tag: int, entry: Struct) -> Iterator[tuple[int, tuple[int, ...]]]:
        return self.chain_at(self.elf.tags[tag], entry) if tag in self.elf.tags else iter(())

    def chain_at(self, address: int, entry: Struct) -> Iterator[tuple[int, tuple[int, ...]]]:
        """(address, fields); entries may overlap, so their number is bounded."""
        following = -1
        while following:
            self.left -= 1
            if self.left < 0:
                raise ElfError("more symbol versions than symbols can refer to")
            fields = entry.unpack(self.elf.read_at(address, entry.size))
            yield address, fields
            following = fields[-1]
            address += following
