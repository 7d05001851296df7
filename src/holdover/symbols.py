# SPDX-License-Identifier: Apache-2.0
"""The symbols that an object binds to others, and those that it offers. Pure.

What counts is what the linker relocates: a symbol that no relocation names is never looked up.
Source: the System V gABI, chapter 5; the Linux Standard Base, "Symbol Versioning"; glibc's
elf/dl-lookup.c (check_match).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from holdover.elf import DT_RELA, DT_RELASZ, DT_STRSZ, DT_STRTAB, DT_SYMTAB, SHN_UNDEF, ElfFile
from holdover.errors import ElfError
from holdover.hashtables import HashedSymbols
from holdover.versions import VERSION_MASK, version_names

__all__ = ["Wanted", "Symbols", "read_symbols", "slot_of"]

DT_RELACOUNT, DT_PLTRELSZ, DT_JMPREL, DT_VERSYM = 0x6FFFFFF9, 2, 23, 0x6FFFFFF0
STB_LOCAL, STB_WEAK = 0, 2
STT_TLS = 6
SHN_ABS = 0xFFF1
VERSYM_HIDDEN = 0x8000
_OLDEST = 2  # the first version of an object serves those that ask for none, hidden or not
_RELA = struct.Struct("<QQq")
_SYMBOL = struct.Struct("<IBBHQQ")
_MAX_TABLE = 1 << 26  # bytes of names or relocations: a sparse file may claim any number


@dataclass(frozen=True, slots=True)
class Wanted:
    """A symbol that must be found elsewhere; `version` is "" if any will do."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}, version {self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Symbols:
    wanted: tuple[Wanted, ...]
    offered: frozenset[str]
    """NAME for what is found without a version, NAME@VERSION, and NAME@ for what serves any."""

    def offers(self, symbol: Wanted) -> bool:
        if not symbol.version:
            return symbol.name in self.offered
        return (
            f"{symbol.name}@{symbol.version}" in self.offered or f"{symbol.name}@" in self.offered
        )


def read_symbols(elf: ElfFile) -> Symbols:
    """Raises `ElfError` if a table is malformed."""
    table = _Table(elf)
    wanted = dict.fromkeys(table.wanted(index) for index in _relocated(elf))
    offered = frozenset(table.offered())
    found = tuple(symbol for symbol in wanted if symbol is not None)
    return Symbols(found, offered)


def slot_of(elf: ElfFile, name: str) -> int | None:
    """Address of a pointer that the loader sets to where it found the symbol, or None.

    Relative to the load base. Raises `ElfError` if a table is malformed.
    """
    table = _Table(elf)
    named = table.places_of(name)  # executables have tens of thousands of names
    for place, index, addend in _relocations(elf) if named else ():
        if not addend and table.name_at(index) in named:
            return place
    return None


def _relocated(elf: ElfFile) -> Iterator[int]:
    """Indices of symbols that relocations name, each once."""
    yield from dict.fromkeys(index for _, index, _ in _relocations(elf))


def _relocations(elf: ElfFile) -> Iterator[tuple[int, int, int]]:
    """Of those that name a symbol: the place, the symbol's index, the addend."""
    tags = elf.tags
    for start, size in ((DT_RELA, DT_RELASZ), (DT_JMPREL, DT_PLTRELSZ)):
        if start not in tags:
            continue
        skip = tags.get(DT_RELACOUNT, 0) * _RELA.size if start == DT_RELA else 0
        at, length = tags[start] + skip, tags.get(size, 0) - skip
        data = _table(elf, at, length // _RELA.size * _RELA.size) if length > 0 else b""
        for place, info, addend in _RELA.iter_unpack(data):
            if index := info >> 32:
                yield place, index, addend


def _table(elf: ElfFile, address: int, size: int) -> bytes:
    if size > _MAX_TABLE:
        raise ElfError(f"a table of {size} bytes at {address:#x} is more than any real file has")
    return elf.read_at(address, size)


class _Table:
    """The dynamic symbols, read at once."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.versioned = DT_VERSYM in elf.tags
        self.versions = version_names(elf) if self.versioned else {}
        self.text_left = min(4 * elf.tags.get(DT_STRSZ, 0), _MAX_TABLE)  # names seldom overlap

    def places_of(self, name: str) -> set[int]:
        """Where the name is among the strings; it may be the end of another one."""
        start, size = self.elf.tags.get(DT_STRTAB, 0), self.elf.tags.get(DT_STRSZ, 0)
        text = _table(self.elf, start, size) if size else b""
        return {found.start() for found in re.finditer(re.escape(name.encode()) + b"\0", text)}

    def name_at(self, index: int) -> int:
        return self._symbol(index)[0]

    def wanted(self, index: int) -> Wanted | None:
        """The symbol, if it is not defined here and something breaks without it."""
        name, info, _, section, _, _ = self._symbol(index)
        if section != SHN_UNDEF or info >> 4 in (STB_WEAK, STB_LOCAL):
            return None
        version = self._version(index) & VERSION_MASK
        # 0 and 1 stand for no version; 1 is also the number of the object's own name
        return Wanted(self._name(name), self.versions.get(version, "") if version > 1 else "")

    def offered(self) -> Iterator[str]:
        indices = HashedSymbols(self.elf).indices
        count = len(indices)
        if not count:
            return
        start = self.elf.dynamic_value(DT_SYMTAB) + indices.start * _SYMBOL.size
        table = _SYMBOL.iter_unpack(self.elf.read_at(start, count * _SYMBOL.size))
        for (at, info, _, section, value, _), version in zip(
            table, self._versions_of(indices), strict=True
        ):
            absolute = section == SHN_ABS or info & 15 == STT_TLS
            if section == SHN_UNDEF or info >> 4 == STB_LOCAL or not (value or absolute):
                continue
            name = self._name(at)
            index = version & VERSION_MASK
            if index <= _OLDEST or not version & VERSYM_HIDDEN:
                yield name
            if index > 1 or not version & VERSYM_HIDDEN:
                yield f"{name}@{self.versions.get(index, '') if index > 1 else ''}"

    def _versions_of(self, indices: range) -> tuple[int, ...]:
        if not self.versioned:
            return (0,) * len(indices)
        at = self.elf.tags[DT_VERSYM] + 2 * indices.start
        return struct.unpack(f"<{len(indices)}H", self.elf.read_at(at, 2 * len(indices)))

    def _version(self, index: int) -> int:
        return self._versions_of(range(index, index + 1))[0]

    def _symbol(self, index: int) -> tuple[int, ...]:
        at = self.elf.dynamic_value(DT_SYMTAB) + index * _SYMBOL.size
        return _SYMBOL.unpack(self.elf.read_at(at, _SYMBOL.size))

    def _name(self, at: int) -> str:
        name = self.elf.string(at)
        self.text_left -= len(name)
        if self.text_left < 0:
            raise ElfError("the names of symbols overlap")
        return name
