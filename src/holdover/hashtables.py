# SPDX-License-Identifier: Apache-2.0
"""Which dynamic symbol has a name: through an object's hash tables, as the linker looks. Pure.

Source: the System V gABI chapter 5; the GNU hash table as glibc's elf/dl-lookup.c walks it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from holdover.elf import DT_SYMTAB, SHN_UNDEF, ElfFile
from holdover.errors import ElfError

__all__ = ["HashedSymbols", "Symbol"]

DT_HASH, DT_GNU_HASH = 4, 0x6FFFFEF5

_SYMBOL = struct.Struct("<IBBHQQ")
_STT_OBJECT = 1
_MAX_SYMBOLS = 1 << 20
_MAX_CHAIN = 1 << 16  # symbols of one bucket of a hash table


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    value: int
    size: int
    defined: bool
    is_data: bool = False
    """A variable, of which there is one in each process."""


class HashedSymbols:
    """Those of one object that can be found by name; a static executable has none.

    Everything raises `ElfError` for a table that is malformed.
    """

    def __init__(self, elf: ElfFile) -> None:
        self._elf = elf

    def find(self, name: str) -> Symbol | None:
        """The defined dynamic symbol called `name`, found through the hash table, or None."""
        wanted = name.encode()
        for index in self._hash_candidates(wanted):
            symbol = self._symbol_at(index)
            if symbol.defined and symbol.name == name:
                return symbol
        return None

    def defined_names(self) -> Iterator[str]:
        """Names of all symbols that this object offers to others."""
        for index in self.indices:
            symbol = self._symbol_at(index)
            if symbol.defined and symbol.name:
                yield symbol.name

    def _symbol_at(self, index: int) -> Symbol:
        address = self._elf.dynamic_value(DT_SYMTAB) + index * _SYMBOL.size
        name, info, _, section, value, size = _SYMBOL.unpack(
            self._elf.read_at(address, _SYMBOL.size)
        )
        is_data = info & 15 == _STT_OBJECT
        return Symbol(self._elf.string(name), value, size, section != SHN_UNDEF, is_data)

    def _hash_candidates(self, name: bytes) -> Iterator[int]:
        if DT_GNU_HASH in self._elf.tags:
            return self._gnu_hash_chain(_gnu_hash(name))
        if DT_HASH in self._elf.tags:
            return self._sysv_hash_chain(_sysv_hash(name))
        return iter(())  # a static executable offers nothing

    def _number_at(self, address: int) -> int:
        return int.from_bytes(self._elf.read_at(address, 4), "little")

    def _sysv_hash_chain(self, wanted: int) -> Iterator[int]:
        table = self._elf.dynamic_value(DT_HASH)
        nbuckets = self._number_at(table)
        index = self._number_at(table + 8 + wanted % nbuckets * 4) if nbuckets else 0
        for _ in range(_MAX_CHAIN):
            if index == 0:
                return
            yield index
            index = self._number_at(table + 8 + (nbuckets + index) * 4)
        raise ElfError("a chain of the hash table has no end")

    def _sysv_count(self) -> int:
        return self._checked(self._number_at(self._elf.dynamic_value(DT_HASH) + 4))

    def _checked(self, count: int) -> int:
        if count * _SYMBOL.size > self._elf.size or count > _MAX_SYMBOLS:
            raise ElfError(f"{count} symbols in a file of {self._elf.size} bytes")
        return count

    @cached_property
    def _gnu_table(self) -> tuple[int, tuple[int, ...], int]:
        """(index of the first hashed symbol, buckets, address of the chains)."""
        table = self._elf.dynamic_value(DT_GNU_HASH)
        nbuckets, first, nbloom, _ = struct.unpack("<IIII", self._elf.read_at(table, 16))
        if nbuckets * 4 + nbloom * 8 > self._elf.size or nbuckets > _MAX_SYMBOLS:
            raise ElfError(
                f"a hash table of {nbuckets} buckets in a file of {self._elf.size} bytes"
            )
        at = table + 16 + nbloom * 8
        buckets = struct.unpack(f"<{nbuckets}I", self._elf.read_at(at, nbuckets * 4))
        self._checked(max(buckets, default=0))
        return first, buckets, at + nbuckets * 4

    def _gnu_hash_chain(self, wanted: int) -> Iterator[int]:
        first, buckets, chains = self._gnu_table
        if not buckets:
            return
        start = buckets[wanted % len(buckets)]
        if not start >= first > 0:
            return
        for index in range(start, start + _MAX_CHAIN):
            value = self._number_at(chains + (index - first) * 4)
            if value | 1 == wanted | 1:
                yield index
            if value & 1:
                return
        raise ElfError("a chain of the hash table has no end")

    @cached_property
    def indices(self) -> range:
        """Indices of the symbols that can be found by name; all that are offered are among them."""
        if DT_GNU_HASH not in self._elf.tags:  # a static executable has neither
            return range(self._sysv_count() if DT_HASH in self._elf.tags else 0)
        first, buckets, chains = self._gnu_table
        last = max(buckets, default=0)
        if last < first:
            return range(0)
        for index in range(last, last + _MAX_CHAIN):  # the last chain ends the table
            if self._number_at(chains + (index - first) * 4) & 1:
                return range(first, index + 1)
        raise ElfError("the hash table has no end")


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def _sysv_hash(name: bytes) -> int:
    value = 0
    for byte in name:
        value = (value << 4) + byte
        high = value & 0xF0000000
        value = (value ^ high >> 24) & ~high
    return value
