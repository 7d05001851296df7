# SPDX-License-Identifier: Apache-2.0
"""Reads what the dynamic linker reads of an ELF file: segments, dynamic section, notes, symbols.

Takes an open file, never a path, and trusts nothing in it: every offset and count is checked
against the file's size before it is used, so that any malformed input is an `ElfError` and costs
no more than the file is long. 64-bit little-endian files only.

Source: elf(5), the System V gABI chapter 5, and <elf.h>; the GNU hash table as glibc's
elf/dl-lookup.c walks it.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from holdover.errors import ElfError, OtherMachineError

__all__ = ["ElfFile", "Segment", "Symbol", "Note"]

ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR = 1, 2, 3, 4, 6
PF_X, PF_W, PF_R = 1, 2, 4
DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ = 0, 1, 4, 5, 6, 10
DT_RELA, DT_RELASZ = 7, 8
DT_SONAME, DT_RPATH, DT_RUNPATH = 14, 15, 29
DT_GNU_HASH = 0x6FFFFEF5
NT_GNU_BUILD_ID = 3
SHN_UNDEF = 0

_HEADER = struct.Struct("<HHIQQQIHHHHHH")  # after e_ident
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_MAX_STRING = 1 << 20  # mangled names may be long
_MAX_NOTES = 1 << 20
_MAX_READ = 1 << 28  # a sparse file may claim any size
_PAGE = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header; addresses and sizes in bytes."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    align: int

    @property
    def writable(self) -> bool:
        return bool(self.flags & PF_W)

    @property
    def executable(self) -> bool:
        return bool(self.flags & PF_X)

    @property
    def constant(self) -> bool:
        """Neither code nor writable: where a compiler puts string literals."""
        return not self.flags & (PF_W | PF_X)


@dataclass(frozen=True, slots=True)
class Symbol:
    name: str
    value: int
    size: int
    defined: bool


@dataclass(frozen=True, slots=True)
class Note:
    owner: str
    type: int
    payload: bytes


class ElfFile:
    """A 64-bit little-endian executable or shared object.

    Raises `ElfError` from the constructor for a file that is none, and from any attribute for a
    part that is malformed.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file  # kept, or it would be closed under us
        self._fd = file.fileno()
        self._pages: dict[int, bytes] = {}
        self.size = os.fstat(self._fd).st_size
        ident = self.read(0, 16)
        if ident[:4] != b"\x7fELF":
            raise ElfError("not an ELF file")
        if ident[4:6] != b"\x02\x01":
            raise OtherMachineError("not a 64-bit little-endian ELF file")
        header = _HEADER.unpack(self.read(16, _HEADER.size))
        self.type, self.machine = header[0], header[1]
        if self.type not in (ET_EXEC, ET_DYN):
            raise ElfError("neither an executable nor a shared object")
        self.segments = self._read_segments(offset=header[4], entry=header[8], count=header[9])

    # -- bytes ---------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at file `offset`; raises `ElfError` if the file has not got them."""
        if offset < 0 or size < 0 or offset + size > self.size:
            raise ElfError(
                f"truncated: {size} bytes at {offset:#x}, the file ends at {self.size:#x}"
            )
        if size > _MAX_READ:
            raise ElfError(f"{size} bytes at {offset:#x} are more than any real file has there")
        page, start = divmod(offset, _PAGE)
        if start + size <= _PAGE:  # tables are read entry by entry, a call for each is slow
            data = self._page(page)[start : start + size]
        else:
            data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise ElfError("the file became shorter while it was read")
        return data

    def _page(self, number: int) -> bytes:
        if number not in self._pages:
            self._pages[number] = os.pread(self._fd, _PAGE, number * _PAGE)
        return self._pages[number]

    def read_at(self, address: int, size: int) -> bytes:
        """`size` bytes that will be at virtual `address` (relative to the load base)."""
        return self.read(self._offset_of(address), size)

    def _offset_of(self, address: int) -> int:
        for segment in self.loads:
            if segment.address <= address < segment.address + segment.file_size:
                return address - segment.address + segment.offset
        raise ElfError(f"address {address:#x} is not in the file")

    def string(self, index: int) -> str:
        """The dynamic string at `index`; names of symbols and versions are among them."""
        table = self._strings
        if not 0 <= index < len(table):
            raise ElfError(f"string {index:#x} is outside the string table")
        end = table.find(b"\0", index, index + _MAX_STRING)
        if end < 0:
            raise ElfError(f"string {index:#x} has no end")
        return table[index:end].decode("utf-8", "surrogateescape")

    @cached_property
    def _strings(self) -> bytes:
        return self.read_at(self.dynamic_value(DT_STRTAB), self.dynamic_value(DT_STRSZ))

    # -- segments ------------------------------------------------------------------------------

    def _read_segments(self, *, offset: int, entry: int, count: int) -> tuple[Segment, ...]:
        if entry != _SEGMENT.size:
            raise ElfError(f"program headers of {entry} bytes")
        table = self.read(offset, entry * count)
        segments = tuple(
            Segment(kind, flags, at, address, in_file, in_memory, align)
            for kind, flags, at, address, _, in_file, in_memory, align in _SEGMENT.iter_unpack(
                table
            )
        )
        for kind, limit in ((PT_LOAD, self.size + count * _PAGE), (PT_NOTE, _MAX_NOTES)):
            total = sum(s.file_size for s in segments if s.type == kind)
            if total > limit:  # they overlap, to make us read the same again and again
                raise ElfError(f"segments of {total} bytes in a file of {self.size} bytes")
        return segments

    @cached_property
    def loads(self) -> tuple[Segment, ...]:
        return tuple(s for s in self.segments if s.type == PT_LOAD)

    @cached_property
    def notes(self) -> tuple[Note, ...]:
        """Every note of every PT_NOTE segment."""
        return tuple(
            note
            for segment in self.segments
            if segment.type == PT_NOTE
            for note in _parse_notes(self.read(segment.offset, segment.file_size))
        )

    @property
    def build_id(self) -> str:
        """The linker's identifier of this build as hex, or "" if it has none."""
        for note in self.notes:
            if note.owner == "GNU" and note.type == NT_GNU_BUILD_ID:
                return note.payload.hex()
        return ""

    @cached_property
    def interpreter(self) -> str:
        """Path of the loader that the executable asks for, or ""."""
        segment = next((s for s in self.segments if s.type == PT_INTERP), None)
        if segment is None:
            return ""
        raw = self.read(segment.offset, min(segment.file_size, _PAGE))
        return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")

    # -- dynamic section -----------------------------------------------------------------------

    @cached_property
    def dynamic(self) -> tuple[tuple[int, int], ...]:
        """(tag, value) pairs up to DT_NULL; empty for a static executable."""
        segment = next((s for s in self.segments if s.type == PT_DYNAMIC), None)
        if segment is None:
            return ()
        size = segment.file_size // _DYNAMIC.size * _DYNAMIC.size
        entries: list[tuple[int, int]] = []
        for tag, value in _DYNAMIC.iter_unpack(self.read(segment.offset, size)):
            if tag == DT_NULL:
                return tuple(entries)
            entries.append((tag, value))
        raise ElfError("the dynamic section has no end")

    @cached_property
    def tags(self) -> Mapping[int, int]:
        """The first value of each tag: what counts where there should be one."""
        return dict(reversed(self.dynamic))

    def dynamic_value(self, tag: int) -> int:
        """The first value with this tag; raises `ElfError` if there is none."""
        if tag not in self.tags:
            raise ElfError(f"no dynamic entry {tag:#x}")
        return self.tags[tag]

    def _dynamic_string(self, tag: int) -> str:
        return self.string(self.tags[tag]) if tag in self.tags else ""

    @property
    def soname(self) -> str:
        """DT_SONAME, or "" if there is none."""
        return self._dynamic_string(DT_SONAME)

    @property
    def rpath(self) -> str:
        """DT_RPATH as it is written, or ""; it counts only where there is no DT_RUNPATH."""
        return self._dynamic_string(DT_RPATH)

    @property
    def runpath(self) -> str:
        """DT_RUNPATH as it is written, or ""."""
        return self._dynamic_string(DT_RUNPATH)

    @cached_property
    def needed(self) -> tuple[str, ...]:
        """DT_NEEDED in file order."""
        return tuple(self.string(value) for tag, value in self.dynamic if tag == DT_NEEDED)

    # -- symbols -------------------------------------------------------------------------------

    def symbol(self, name: str) -> Symbol | None:
        """The defined dynamic symbol called `name`, found through the hash table, or None."""
        wanted = name.encode()
        for index in self._hash_candidates(wanted):
            symbol = self._symbol_at(index)
            if symbol.defined and symbol.name == name:
                return symbol
        return None

    def defined_names(self) -> Iterator[str]:
        """Names of all symbols that this object offers to others."""
        for index in self.hashed_symbols:
            symbol = self._symbol_at(index)
            if symbol.defined and symbol.name:
                yield symbol.name

    def _symbol_at(self, index: int) -> Symbol:
        address = self.dynamic_value(DT_SYMTAB) + index * _SYMBOL.size
        name, _, _, section, value, size = _SYMBOL.unpack(self.read_at(address, _SYMBOL.size))
        return Symbol(self.string(name), value, size, section != SHN_UNDEF)

    def _hash_candidates(self, name: bytes) -> Iterator[int]:
        if DT_GNU_HASH in self.tags:
            return self._gnu_hash_chain(_gnu_hash(name))
        if DT_HASH in self.tags:
            return iter(range(self._sysv_count()))
        return iter(())  # a static executable offers nothing

    def _sysv_count(self) -> int:
        table = self.dynamic_value(DT_HASH)
        count = int(struct.unpack("<II", self.read_at(table, 8))[1])
        if count * _SYMBOL.size > self.size:
            raise ElfError(f"{count} symbols in a file of {self.size} bytes")
        return count

    @cached_property
    def _gnu_table(self) -> tuple[int, tuple[int, ...], int]:
        """(index of the first hashed symbol, buckets, address of the chains)."""
        table = self.dynamic_value(DT_GNU_HASH)
        nbuckets, first, nbloom, _ = struct.unpack("<IIII", self.read_at(table, 16))
        if nbuckets * 4 + nbloom * 8 > self.size:
            raise ElfError(f"a hash table of {nbuckets} buckets in a file of {self.size} bytes")
        at = table + 16 + nbloom * 8
        buckets = struct.unpack(f"<{nbuckets}I", self.read_at(at, nbuckets * 4))
        if max(buckets, default=0) * _SYMBOL.size > self.size:
            raise ElfError(f"a hash table that leads out of a file of {self.size} bytes")
        return first, buckets, at + nbuckets * 4

    def _gnu_hash_chain(self, wanted: int) -> Iterator[int]:
        first, buckets, chains = self._gnu_table
        if not buckets:
            return
        index = buckets[wanted % len(buckets)]
        while index >= first > 0:
            (value,) = struct.unpack("<I", self.read_at(chains + (index - first) * 4, 4))
            if value | 1 == wanted | 1:
                yield index
            if value & 1:
                return
            index += 1

    @cached_property
    def hashed_symbols(self) -> range:
        """Indices of the symbols that can be found by name; all that are offered are among them."""
        if DT_GNU_HASH not in self.tags:  # a static executable has neither
            return range(self._sysv_count() if DT_HASH in self.tags else 0)
        first, buckets, chains = self._gnu_table
        index = max(buckets, default=0)
        if index < first:
            return range(0)
        while not self._ends_chain(chains, index, first):  # the last chain ends the table
            index += 1
        return range(first, index + 1)

    def _ends_chain(self, chains: int, index: int, first: int) -> bool:
        (value,) = struct.unpack("<I", self.read_at(chains + (index - first) * 4, 4))
        return bool(value & 1)


def _gnu_hash(name: bytes) -> int:
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


def _parse_notes(data: bytes) -> Iterator[Note]:
    """Notes as PT_NOTE holds them: sizes, then owner and payload, each padded to 4 bytes."""
    at = 0
    while at + 12 <= len(data):
        owner_size, size, kind = struct.unpack_from("<III", data, at)
        owner_at = at + 12
        payload_at = owner_at + ((owner_size + 3) & ~3)
        if payload_at + size > len(data):
            raise ElfError("a note is longer than its segment")
        owner = data[owner_at : owner_at + owner_size].rstrip(b"\0").decode("ascii", "replace")
        yield Note(owner, kind, data[payload_at : payload_at + size])
        at = payload_at + ((size + 3) & ~3)
