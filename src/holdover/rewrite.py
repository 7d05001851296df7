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

from holdover.elf import (
    DT_NEEDED,
    DT_RPATH,
    DT_RUNPATH,
    DT_STRSZ,
    DT_STRTAB,
    ET_DYN,
    PF_R,
    PF_W,
    PT_DYNAMIC,
    PT_LOAD,
    PT_PHDR,
    ElfFile,
)
from holdover.errors import ElfError

__all__ = ["rewrite", "RPATH"]

RPATH = "$ORIGIN/lib"
"""Where the modules of a view find their libraries."""

SHT_STRTAB, SHT_DYNAMIC = 3, 6
_PAGE = 4096
_E_PHOFF, _E_SHOFF, _E_PHNUM, _E_SHENTSIZE = 32, 40, 56, 58

_PHDR = struct.Struct("<IIQQQQQQ")
_PLACE = struct.Struct("<QQQQQ")  # of a program header: offset, both addresses, both sizes
_P_OFFSET = 8
_SHDR = struct.Struct("<IIQQQQIIQQ")
_DYN = struct.Struct("<qQ")


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
    little-endian shared object with a dynamic section, `OtherMachineError` for 32-bit and
    big-endian ones.
    """
    elf = ElfFile(file)
    if elf.type != ET_DYN:
        raise ElfError("an executable, no shared object")
    out = bytearray(elf.read(0, elf.size))
    table = elf.dynamic_value(DT_STRTAB)
    strings = _Strings(elf.read_at(table, elf.dynamic_value(DT_STRSZ)))
    entries = _entries(elf, strings, rpath, needed)

    align = _alignment(elf)
    start = _end(elf, align)
    phdrs = replace(start, size=(len(elf.segments) + 1) * _PHDR.size)
    dynamic = _behind(phdrs, (len(entries) + 1) * _DYN.size)
    text = _behind(dynamic, len(strings.data))
    segment = replace(start, size=text.offset + text.size - start.offset)

    headers = _headers(elf, out, align, {PT_LOAD: segment, PT_PHDR: phdrs, PT_DYNAMIC: dynamic})
    _move_sections(out, table, dynamic, text)
    out += bytes(start.offset - len(out))
    out += headers.ljust(dynamic.offset - start.offset, b"\0")
    out += _pack_entries(entries, text).ljust(text.offset - dynamic.offset, b"\0")
    out += strings.data
    struct.pack_into("<Q", out, _E_PHOFF, start.offset)
    struct.pack_into("<H", out, _E_PHNUM, len(elf.segments) + 1)
    return bytes(out)


def _entries(
    elf: ElfFile, strings: _Strings, rpath: str, needed: Iterable[str]
) -> list[tuple[int, int]]:
    """The new dynamic section without its end."""
    kept = [entry for entry in elf.dynamic if entry[0] not in (DT_RPATH, DT_RUNPATH)]
    more = [name for name in dict.fromkeys(needed) if name not in elf.needed]
    last = max((i for i, (tag, _) in enumerate(kept) if tag == DT_NEEDED), default=-1)
    kept[last + 1 : last + 1] = [(DT_NEEDED, strings.index(name)) for name in more]
    return [*kept, (DT_RPATH, strings.index(rpath))]


def _alignment(elf: ElfFile) -> int:
    """Of the other segments: pages are larger than `_PAGE` on some machines."""
    align = max(_PAGE, *(segment.align for segment in elf.loads))
    if align & (align - 1) or align > 1 << 24:
        raise ElfError(f"segments aligned to {align:#x} bytes")
    return align


def _end(elf: ElfFile, align: int) -> _Part:
    """Behind everything in the file and in memory."""
    end = max(segment.address + segment.memory_size for segment in elf.loads)
    if end + align >= 1 << 47:
        raise ElfError(f"a segment that ends at {end:#x}")
    return _Part(-(-elf.size // align) * align, -(-end // align) * align, 0)


def _behind(part: _Part, size: int) -> _Part:
    """The next 16-byte boundary behind a part."""
    step = (part.size + 15) & ~15
    return _Part(part.offset + step, part.address + step, size)


def _headers(elf: ElfFile, data: bytearray, align: int, places: dict[int, _Part]) -> bytes:
    """Those of the file, with the new PT_LOAD behind the last one: they must ascend."""
    (offset,) = struct.unpack_from("<Q", data, _E_PHOFF)
    size = _PHDR.size
    table = [data[at : at + size] for at in range(offset, offset + len(elf.segments) * size, size)]
    for header, segment in zip(table, elf.segments, strict=True):
        if segment.type in (PT_PHDR, PT_DYNAMIC):
            _put(header, places[segment.type])
    load = bytearray(_PHDR.pack(PT_LOAD, PF_R | PF_W, 0, 0, 0, 0, 0, align))
    _put(load, places[PT_LOAD])
    last = max(i for i, segment in enumerate(elf.segments) if segment.type == PT_LOAD)
    return b"".join([*table[: last + 1], load, *table[last + 1 :]])


def _put(header: bytearray, part: _Part) -> None:
    place = (part.offset, part.address, part.address, part.size, part.size)
    _PLACE.pack_into(header, _P_OFFSET, *place)


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
