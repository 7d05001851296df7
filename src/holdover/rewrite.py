# SPDX-License-Identifier: Apache-2.0
"""Rewrites a module so that it finds every library of its closure itself. Pure.

One page-aligned PT_LOAD is appended; it holds the program headers, the dynamic section and its
strings. Nothing else moves or changes, the build-id included. NEEDED entries are appended in the
order given, so that the order in which symbols are looked up stays what it was; tools that prepend
or sort them change hundreds of bindings in a live guest.

Source: elf(5), the System V gABI chapter 5, ld.so(8); glibc's elf/dl-load.c finds program headers
wherever e_phoff says, as long as a PT_LOAD covers them.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import BinaryIO

from holdover.elf import ElfFile
from holdover.errors import ElfError

__all__ = ["rewrite"]

PT_LOAD, PT_DYNAMIC, PT_PHDR = 1, 2, 6
PF_RW = 6
DT_NEEDED, DT_STRTAB, DT_STRSZ, DT_RPATH, DT_RUNPATH = 1, 5, 10, 15, 29
SHT_STRTAB, SHT_DYNAMIC = 3, 6
PN_XNUM = 0xFFFF
_PAGE = 4096
_E_PHOFF, _E_SHOFF, _E_PHENTSIZE, _E_SHENTSIZE = 32, 40, 54, 58

_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_DYN = struct.Struct("<qQ")


@dataclass(frozen=True, slots=True)
class _Header:
    """One program header, all of it; sizes in bytes."""

    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_size: int
    memory_size: int
    align: int

    def at(self, offset: int, address: int, size: int) -> "_Header":
        """The same, for `size` bytes at another place."""
        return replace(
            self,
            offset=offset,
            address=address,
            physical=address,
            file_size=size,
            memory_size=size,
        )

    def packed(self) -> bytes:
        fields = (self.type, self.flags, self.offset, self.address, self.physical)
        return _PHDR.pack(*fields, self.file_size, self.memory_size, self.align)


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a piece of the new segment lies, in the file and in memory."""

    offset: int
    address: int
    size: int


class _Strings:
    """The dynamic strings: what is there keeps its place, new ones come behind."""

    def __init__(self, table: bytes) -> None:
        self.data = bytearray(table)

    def index(self, text: str) -> int:
        raw = b"\0" + text.encode("utf-8", "surrogateescape") + b"\0"
        found = self.data.find(raw)
        if found < 0:
            found = len(self.data) - 1 if self.data[-1:] == b"\0" else len(self.data)
            self.data[found:] = raw
        return found + 1


def rewrite(file: BinaryIO, rpath: str, needed: Iterable[str]) -> bytes:
    """The module with DT_RPATH `rpath` (any other path dropped) and `needed` appended.

    Names that it needs already are not repeated. Raises `ElfError` for whatever is no 64-bit
    little-endian shared object with a dynamic section.
    """
    elf = ElfFile(file)
    out = bytearray(elf.read(0, elf.size))
    headers = _read_headers(out)
    table = _value(elf, DT_STRTAB)
    strings = _Strings(elf.read_at(table, _value(elf, DT_STRSZ)))
    entries = _entries(elf, strings, rpath, needed)

    start = _place(headers, len(out))
    phdrs = _Part(start.offset, start.address, (len(headers) + 1) * _PHDR.size)
    dynamic = _behind(phdrs, (len(entries) + 1) * _DYN.size)
    text = _behind(dynamic, len(strings.data))
    segment = replace(start, size=text.offset + text.size - start.offset)

    _move_sections(out, table, dynamic, text)
    out += bytes(start.offset - len(out))
    out += _pack_headers(headers, segment, phdrs, dynamic).ljust(
        dynamic.offset - start.offset, b"\0"
    )
    out += _pack_entries(entries, text).ljust(text.offset - dynamic.offset, b"\0")
    out += strings.data
    struct.pack_into("<Q", out, _E_PHOFF, start.offset)
    struct.pack_into("<H", out, _E_PHENTSIZE + 2, len(headers) + 1)
    return bytes(out)


def _read_headers(data: bytearray) -> list[_Header]:
    """`ElfFile` has checked that they are in the file."""
    (offset,) = struct.unpack_from("<Q", data, _E_PHOFF)
    (count,) = struct.unpack_from("<H", data, _E_PHENTSIZE + 2)
    if count + 1 >= PN_XNUM:
        raise ElfError(f"{count} program headers leave no room for one more")
    table = data[offset : offset + count * _PHDR.size]
    return [_Header(*fields) for fields in _PHDR.iter_unpack(table)]


def _value(elf: ElfFile, tag: int) -> int:
    for found, value in elf.dynamic:
        if found == tag:
            return value
    raise ElfError(f"no dynamic entry {tag:#x}: nothing that could be extended")


def _entries(
    elf: ElfFile, strings: _Strings, rpath: str, needed: Iterable[str]
) -> list[tuple[int, int]]:
    """The new dynamic section without its end."""
    kept = [entry for entry in elf.dynamic if entry[0] not in (DT_RPATH, DT_RUNPATH)]
    more = [name for name in dict.fromkeys(needed) if name not in elf.needed]
    last = max((i for i, (tag, _) in enumerate(kept) if tag == DT_NEEDED), default=-1)
    kept[last + 1 : last + 1] = [(DT_NEEDED, strings.index(name)) for name in more]
    return [*kept, (DT_RPATH, strings.index(rpath))]


def _place(headers: list[_Header], size: int) -> _Part:
    """Behind everything in the file and in memory, aligned as the other segments are."""
    loads = [header for header in headers if header.type == PT_LOAD]
    align = max((header.align for header in loads), default=0) or _PAGE
    if align & (align - 1) or align > 1 << 24:
        raise ElfError(f"segments aligned to {align:#x} bytes")
    align = max(align, _PAGE)
    end = max((header.address + header.memory_size for header in loads), default=0)
    if end + align >= 1 << 47:
        raise ElfError(f"a segment that ends at {end:#x}")
    return _Part(-(-size // align) * align, -(-end // align) * align, 0)


def _behind(part: _Part, size: int) -> _Part:
    """The next 16-byte boundary behind a part."""
    step = (part.size + 15) & ~15
    return _Part(part.offset + step, part.address + step, size)


def _pack_headers(headers: list[_Header], segment: _Part, phdrs: _Part, dynamic: _Part) -> bytes:
    last = max(i for i, header in enumerate(headers) if header.type == PT_LOAD)
    align = max(max(h.align for h in headers if h.type == PT_LOAD), _PAGE)
    load = _Header(PT_LOAD, PF_RW, 0, 0, 0, 0, 0, align)
    places = {PT_PHDR: phdrs, PT_DYNAMIC: dynamic}
    moved = [_moved(header, places.get(header.type)) for header in headers]
    moved.insert(last + 1, _moved(load, segment))
    return b"".join(header.packed() for header in moved)


def _moved(header: _Header, part: _Part | None) -> _Header:
    return header if part is None else header.at(part.offset, part.address, part.size)


def _pack_entries(entries: list[tuple[int, int]], text: _Part) -> bytes:
    places = {DT_STRTAB: text.address, DT_STRSZ: text.size}
    packed = (_DYN.pack(tag, places.get(tag, value)) for tag, value in entries)
    return b"".join(packed) + _DYN.pack(0, 0)


def _move_sections(out: bytearray, table: int, dynamic: _Part, text: _Part) -> None:
    """Section headers are for tools only, which should see what the loader sees."""
    (offset,) = struct.unpack_from("<Q", out, _E_SHOFF)
    entry, count = struct.unpack_from("<HH", out, _E_SHENTSIZE)
    if not offset or not count:
        return
    if entry != _SHDR.size or offset + count * entry > len(out):
        raise ElfError(f"{count} section headers of {entry} bytes at {offset:#x}")
    for at in range(offset, offset + count * entry, entry):
        fields = list(_SHDR.unpack_from(out, at))
        if fields[1] == SHT_DYNAMIC:
            fields[3:6] = [dynamic.address, dynamic.offset, dynamic.size]
        elif fields[1] == SHT_STRTAB and fields[3] == table:
            fields[3:6] = [text.address, text.offset, text.size]
        else:
            continue
        _SHDR.pack_into(out, at, *fields)
