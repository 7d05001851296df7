# SPDX-License-Identifier: Apache-2.0
"""Reads what the dynamic linker reads of an ELF file: segments, dynamic section, strings, notes.

Takes an open file, never a path, and trusts nothing in it: every offset and count is checked
against the file's size, and against what real objects have, before it is used. So any malformed
input is an `ElfError`, and costs little also if it claims to be terabytes long. 64-bit
little-endian files only.

Source: elf(5), the System V gABI chapter 5, and <elf.h>.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import BinaryIO

from holdover.errors import ElfError, OtherMachineError

__all__ = ["ElfFile", "Segment", "Note"]

ET_EXEC, ET_DYN = 2, 3
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE, PT_PHDR = 1, 2, 3, 4, 6
PF_X, PF_W, PF_R = 1, 2, 4
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SYMTAB, DT_STRSZ = 0, 1, 5, 6, 10
DT_RELA, DT_RELASZ = 7, 8
DT_SONAME, DT_RPATH, DT_RUNPATH = 14, 15, 29
NT_GNU_BUILD_ID = 3
SHN_UNDEF = 0

_HEADER = struct.Struct("<HHIQQQIHHHHHH")  # after e_ident
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_STRINGS = (4096, 1 << 20)  # PATH_MAX is enough for almost all, mangled names may be longer
_PAGE = 4096

# a sparse file may claim any size: more than this no real object has of each
_MAX_READ = 1 << 28
_MAX_SEARCHED = 1 << 26  # of what is looked through for texts: QEMU has a tenth
_MAX_SEGMENTS = 1024
_MAX_NOTES = 1 << 20
_MAX_DYNAMIC = 1 << 14  # entries
_MAX_TEXT = 1 << 20  # of all names that the dynamic section and the versions refer to
_MAX_KEPT = 1 << 18  # bytes of pages, and of strings: many objects may be open at once


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
        self._texts: dict[int, str] = {}
        self._text_left = _MAX_TEXT

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
            if len(self._pages) * _PAGE >= _MAX_KEPT:
                self._pages.clear()
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

    def searched(self, places: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """What lies at each file offset, so many bytes; raises `ElfError` if it is too much."""
        left = _MAX_SEARCHED
        for offset, size in places:
            left -= size
            if left < 0:
                raise ElfError(f"more than {_MAX_SEARCHED} bytes to be looked through")
            yield self.read(offset, size)

    def string(self, index: int) -> str:
        """The dynamic string at `index`; names of symbols and versions are among them."""
        kept = self._strings
        if 0 <= index < len(kept) and (end := kept.find(b"\0", index)) >= 0:
            return kept[index:end].decode("utf-8", "surrogateescape")
        table, size = self.dynamic_value(DT_STRTAB), self.dynamic_value(DT_STRSZ)
        if not 0 <= index < size:
            raise ElfError(f"string {index:#x} is outside the string table")
        for longest in _STRINGS:
            raw = self.read_at(table + index, min(size - index, longest))
            if (end := raw.find(b"\0")) >= 0:
                return raw[:end].decode("utf-8", "surrogateescape")
        raise ElfError(f"string {index:#x} has no end")

    @cached_property
    def _strings(self) -> bytes:
        table, size = self.dynamic_value(DT_STRTAB), self.dynamic_value(DT_STRSZ)
        return self.read_at(table, size) if size <= _MAX_KEPT else b""

    def text(self, index: int) -> str:
        """The same for names that are few: they may overlap, and be too many all the same."""
        if index not in self._texts:
            found = self.string(index)
            self._text_left -= len(found)
            if self._text_left < 0:
                raise ElfError(f"names of more than {_MAX_TEXT} characters")
            self._texts[index] = found
        return self._texts[index]

    # -- segments ------------------------------------------------------------------------------

    def _read_segments(self, *, offset: int, entry: int, count: int) -> tuple[Segment, ...]:
        if entry != _SEGMENT.size:
            raise ElfError(f"program headers of {entry} bytes")
        if count > _MAX_SEGMENTS:
            raise ElfError(f"{count} program headers are more than any real file has")
        table = _SEGMENT.iter_unpack(self.read(offset, entry * count))
        segments = tuple(Segment(*fields[:4], *fields[5:]) for fields in table)
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
        size = min(segment.file_size // _DYNAMIC.size, _MAX_DYNAMIC) * _DYNAMIC.size
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
        return self.text(self.tags[tag]) if tag in self.tags else ""

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
        return tuple(self.text(value) for tag, value in self.dynamic if tag == DT_NEEDED)


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
