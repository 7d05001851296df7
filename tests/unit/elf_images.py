# SPDX-License-Identifier: Apache-2.0
"""Builds small ELF images by hand, from the format's own words, so that each part can be wrong.

Everything lies in one loadable segment that begins with the file; addresses are `BASE` more than
offsets. Source: elf(5); the GNU hash table as described in glibc's elf/dl-lookup.c; the tables of
versions as in the Linux Standard Base, "Symbol Versioning".
"""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

__all__ = [
    *("Image", "RawSegment", "opened", "build_id_note", "dlopen_note", "note"),
    *("BASE", "HEADER_SIZE"),
]

BASE = 0x10000
HEADER_SIZE = 64
SEGMENT_SIZE = 56
ET_DYN = 3
PT_LOAD, PT_DYNAMIC, PT_NOTE = 1, 2, 4
PF_X, PF_W, PF_R = 1, 2, 4
DT_NULL, DT_NEEDED, DT_HASH, DT_STRTAB, DT_SYMTAB, DT_STRSZ = 0, 1, 4, 5, 6, 10
DT_SONAME, DT_RPATH, DT_RUNPATH, DT_GNU_HASH = 14, 15, 29, 0x6FFFFEF5
DT_RELA, DT_RELASZ, DT_RELAENT, DT_PLTRELSZ, DT_PLTREL, DT_JMPREL = 7, 8, 9, 2, 20, 23
DT_RELACOUNT = 0x6FFFFFF9
DT_VERSYM, DT_VERDEF, DT_VERDEFNUM = 0x6FFFFFF0, 0x6FFFFFFC, 0x6FFFFFFD
DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
VERSYM_HIDDEN, VER_FLG_BASE, VER_FLG_WEAK = 0x8000, 1, 2
GLOBAL_FUNCTION, WEAK_FUNCTION = 0x12, 0x22
R_X86_64_GLOB_DAT, R_X86_64_JUMP_SLOT = 6, 7
_GNU_BUCKETS = 3


def opened(content: bytes) -> BinaryIO:
    """An open file with this content and no name."""
    file = os.fdopen(os.memfd_create("image"), "w+b")
    file.write(content)
    file.flush()
    return file


def note(owner: bytes, kind: int, payload: bytes) -> bytes:
    sizes = struct.pack("<III", len(owner), len(payload), kind)
    return sizes + _padded(owner) + _padded(payload)


def build_id_note(build_id: bytes) -> bytes:
    return note(b"GNU\0", 3, build_id)


def dlopen_note(value: object) -> bytes:
    """.note.dlopen; `value` is what its JSON says, bytes are the payload as it is."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode() + b"\0"
    return note(b"FDO\0", 0x407C0C0A, text)


@dataclass(frozen=True, slots=True)
class RawSegment:
    """A program header as it is; nothing in it is made true."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int

    def __bytes__(self) -> bytes:
        sizes = (self.offset, self.address, self.address, self.file_size, self.memory_size, 4)
        return struct.pack("<IIQQQQQQ", self.type, self.flags, *sizes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What is to be in the file; `bytes(image)` is the file."""

    needed: Sequence[str] = ()
    soname: str = ""
    rpath: str = ""
    runpath: str = ""
    notes: Sequence[bytes] = ()
    defined: Sequence[str] = ()
    undefined: Sequence[str] = ()
    weak: Sequence[str] = ()
    """Undefined too, and nothing breaks without them."""
    relocated: Sequence[str] = ()
    """Symbols that a relocation of DT_RELA names."""
    called: Sequence[str] = ()
    """Symbols that a relocation of DT_JMPREL names."""
    wants: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """For each file the versions that it has to have; "?VERSION" is a weak one."""
    defines: Sequence[str] = ()
    """Versions of its own; the name of the object itself comes before them."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """For symbols the version, of its own or of another file; "-VERSION" is hidden."""
    constants: bytes = b""
    flags: int = PF_R
    type: int = ET_DYN
    hash: str = "gnu"
    """gnu, sysv, both or none."""
    dynamic: bool = True
    extra_dynamic: Sequence[tuple[int, int]] = ()
    extra_segments: Sequence[RawSegment] = ()

    def __bytes__(self) -> bytes:
        return _Writer(self).written()

    def filled_to(self, size: int) -> bytes:
        """The file with zeros behind it."""
        return bytes(self).ljust(size, b"\0")


@dataclass
class _Writer:
    image: Image
    body: bytearray = field(default_factory=bytearray)
    strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    entries: list[tuple[int, int]] = field(default_factory=list)
    segments: list[RawSegment] = field(default_factory=list)

    def written(self) -> bytes:
        count = 1 + bool(self.image.notes) + self.image.dynamic + len(self.image.extra_segments)
        self.body = bytearray(HEADER_SIZE + SEGMENT_SIZE * count)
        self._add(b"\0" + self.image.constants + b"\0")
        if self.image.notes:
            notes = b"".join(self.image.notes)
            self._add_segment(PT_NOTE, self._add(notes), len(notes))
        if self.image.dynamic:
            self._add_names()
            self._add_symbols()
            self._add_relocations()
            self._add_versions()
            self._add_dynamic()
        self.segments.append(
            RawSegment(PT_LOAD, self.image.flags, 0, BASE, len(self.body), len(self.body))
        )
        headers = _header(self.image.type, count)
        for segment in (*self.segments, *self.image.extra_segments):
            headers += bytes(segment)
        self.body[: len(headers)] = headers
        return bytes(self.body)

    def _add(self, content: bytes) -> int:
        """Append, aligned to 8; returns the offset."""
        self.body += b"\0" * (-len(self.body) % 8)
        offset = len(self.body)
        self.body += content
        return offset

    def _add_segment(self, kind: int, offset: int, size: int) -> None:
        self.segments.append(RawSegment(kind, PF_R, offset, BASE + offset, size, size))

    def _string(self, text: str) -> int:
        index = len(self.strings)
        self.strings += text.encode("utf-8", "surrogateescape") + b"\0"
        return index

    def _add_names(self) -> None:
        image = self.image
        named = [(DT_NEEDED, name) for name in image.needed]
        named += [(DT_SONAME, image.soname), (DT_RPATH, image.rpath), (DT_RUNPATH, image.runpath)]
        self.entries += [(tag, self._string(text)) for tag, text in named if text]

    @property
    def _absent(self) -> list[str]:
        return [*self.image.undefined, *self.image.weak]

    @property
    def _symbols(self) -> list[str]:
        """Undefined symbols first, then the defined ones sorted by bucket, as linkers do."""
        defined = sorted(self.image.defined, key=lambda name: gnu_hash(name) % _GNU_BUCKETS)
        return [*self._absent, *defined]

    def _add_symbols(self) -> None:
        table = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
        first = 1 + len(self._absent)
        for index, name in enumerate(self._symbols, 1):
            info = WEAK_FUNCTION if name in self.image.weak else GLOBAL_FUNCTION
            section, value = (1, len(table)) if index >= first else (0, 0)
            table += struct.pack("<IBBHQQ", self._string(name), info, 0, section, value, 8)
        self.entries.append((DT_SYMTAB, BASE + self._add(table)))
        if self.image.hash in ("gnu", "both"):
            defined = self._symbols[first - 1 :]
            self.entries.append((DT_GNU_HASH, BASE + self._add(_gnu_table(defined, first))))
        if self.image.hash in ("sysv", "both"):
            count = len(self._symbols) + 1
            chain = [0, *range(2, count), 0] if count > 1 else [0]
            sysv = struct.pack(f"<III{count}I", 1, count, min(1, count - 1), *chain)
            self.entries.append((DT_HASH, BASE + self._add(sysv)))

    def _add_relocations(self) -> None:
        image = self.image
        rela = self._relocations(image.relocated, R_X86_64_GLOB_DAT)
        calls = self._relocations(image.called, R_X86_64_JUMP_SLOT)
        if rela:
            self.entries += [(DT_RELA, BASE + self._add(rela)), (DT_RELASZ, len(rela))]
            self.entries.append((DT_RELAENT, 24))
        if calls:
            self.entries += [(DT_JMPREL, BASE + self._add(calls)), (DT_PLTRELSZ, len(calls))]
            self.entries.append((DT_PLTREL, DT_RELA))

    def _relocations(self, names: Sequence[str], kind: int) -> bytes:
        indices = (self._symbols.index(name) + 1 for name in names)
        return b"".join(struct.pack("<QQq", BASE, index << 32 | kind, 0) for index in indices)

    def _add_versions(self) -> None:
        image = self.image
        if not (image.wants or image.defines):
            return
        own = [image.soname, *image.defines] if image.defines else []
        numbers = {name: number for number, name in enumerate(own, 1)}
        if own:
            self.entries.append((DT_VERDEF, BASE + self._add(self._definitions(own))))
            self.entries.append((DT_VERDEFNUM, len(own)))
        for names in image.wants.values():
            for name in names:
                numbers.setdefault(name.removeprefix("?"), max(len(own), 1) + len(numbers) + 1)
        if image.wants:
            self.entries.append((DT_VERNEED, BASE + self._add(self._needs(numbers))))
            self.entries.append((DT_VERNEEDNUM, len(image.wants)))
        shown = [0, *(self._number_of(name, numbers) for name in self._symbols)]
        self.entries.append((DT_VERSYM, BASE + self._add(struct.pack(f"<{len(shown)}H", *shown))))

    def _number_of(self, symbol: str, numbers: Mapping[str, int]) -> int:
        version = self.image.versions.get(symbol, "")
        hidden = VERSYM_HIDDEN if version.startswith("-") else 0
        return numbers.get(version.removeprefix("-"), 1) | hidden

    def _definitions(self, names: Sequence[str]) -> bytes:
        table = b""
        for number, name in enumerate(names, 1):
            flags, step = VER_FLG_BASE if number == 1 else 0, 28 if number < len(names) else 0
            table += struct.pack("<HHHHIII", 1, flags, number, 1, sysv_hash(name), 20, step)
            table += struct.pack("<II", self._string(name), 0)
        return table

    def _needs(self, numbers: Mapping[str, int]) -> bytes:
        table = b""
        files = list(self.image.wants)
        for file in files:
            names = self.image.wants[file]
            step = 16 + 16 * len(names) if file != files[-1] else 0
            table += struct.pack("<HHIII", 1, len(names), self._string(file), 16, step)
            for place, name in enumerate(names, 1):
                plain = name.removeprefix("?")
                flags = VER_FLG_WEAK if name != plain else 0
                after = 16 if place < len(names) else 0
                entry = (sysv_hash(plain), flags, numbers[plain], self._string(plain), after)
                table += struct.pack("<IHHII", *entry)
        return table

    def _add_dynamic(self) -> None:
        self.entries.append((DT_STRTAB, BASE + self._add(bytes(self.strings))))
        self.entries.append((DT_STRSZ, len(self.strings)))
        entries = [*self.entries, *self.image.extra_dynamic, (DT_NULL, 0)]
        section = b"".join(struct.pack("<QQ", *entry) for entry in entries)
        self._add_segment(PT_DYNAMIC, self._add(section), len(section))


def gnu_hash(name: str) -> int:
    value = 5381
    for byte in name.encode():
        value = (value * 33 + byte) % 2**32
    return value


def sysv_hash(name: str) -> int:
    """As the gABI has it."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value & 0xF0000000) >> 24) & 0x0FFFFFFF
    return value


def _gnu_table(names: Sequence[str], first: int) -> bytes:
    """`names` are sorted by bucket; the bloom filter lets everything through."""
    hashes = [gnu_hash(name) for name in names]
    places = [value % _GNU_BUCKETS for value in hashes]
    buckets = [first + places.index(n) if n in places else 0 for n in range(_GNU_BUCKETS)]
    ends = [place != after for place, after in zip(places, [*places[1:], None], strict=False)]
    chain = [value & ~1 | end for value, end in zip(hashes, ends, strict=True)]
    head = struct.pack("<IIIIQ", _GNU_BUCKETS, first, 1, 6, 2**64 - 1)
    return head + struct.pack(f"<{_GNU_BUCKETS + len(chain)}I", *buckets, *chain)


def _header(kind: int, segments: int) -> bytes:
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    rest = (kind, 62, 1, BASE, HEADER_SIZE, 0, 0, HEADER_SIZE, SEGMENT_SIZE, segments, 0, 0, 0)
    return ident + struct.pack("<HHIQQQIHHHHHH", *rest)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 4)
