# SPDX-License-Identifier: Apache-2.0
"""Parses ld.so.cache: which file the dynamic linker takes for a soname. Pure.

Source: glibc's sysdeps/generic/dl-cache.h. The file may begin with the table of old
(`ld.so-1.7.0`); every glibc since 2.2 reads the new one, which follows it aligned to 8 bytes.
"""

import struct
from dataclasses import dataclass

from holdover.errors import MalformedError

__all__ = ["CacheEntry", "parse_cache"]

_OLD_MAGIC, _NEW_MAGIC = b"ld.so-1.7.0", b"glibc-ld.so.cache1.1"
_OLD_HEADER, _OLD_ENTRY = 16, 12
_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
_EXTENSION_MAGIC = 0xEAA42174
_TAG_HWCAPS = 1
_HWCAP_EXTENSION = 1 << 62
_HWCAP_INDEX = (1 << 32) - 1
_BIG_ENDIAN = 3  # in the low two bits of the header's flags
_OVERLAP = 16  # times the file that its names may have in all: each may be that of many entries


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One line of `ldconfig -p`."""

    soname: str
    path: str
    flags: int
    """Architecture and libc: FLAG_* in ldconfig.h."""
    hwcaps: str = ""
    """The glibc-hwcaps subdirectory it is for (x86-64-v3, ...); "" if it is for every machine."""


def parse_cache(data: bytes) -> tuple[CacheEntry, ...]:
    """All entries in the file's order, in which the linker prefers the first that fits.

    Entries for the hardware directories of old (before glibc 2.33) are left out: what they are for
    is coded in bits that only that glibc knows. Raises `MalformedError`.
    """
    try:
        return tuple(_entries(data[_start(data) :]))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise MalformedError(f"ld.so.cache makes no sense: {error}") from error


def _start(data: bytes) -> int:
    """Where the new table begins."""
    if not data.startswith(_OLD_MAGIC):
        return 0
    (count,) = struct.unpack_from("<I", data, _OLD_HEADER - 4)
    end: int = _OLD_HEADER + count * _OLD_ENTRY
    return (end + 7) & ~7


def _entries(data: bytes) -> list[CacheEntry]:
    magic, count, _, flags, extension = _HEADER.unpack_from(data)
    if magic != _NEW_MAGIC or flags & 3 == _BIG_ENDIAN:
        raise MalformedError("ld.so.cache is not of a kind that is known here")
    if _HEADER.size + count * _ENTRY.size > len(data):
        raise MalformedError(f"ld.so.cache has no room for {count} entries")
    hwcaps = _hwcaps(data, extension) if extension else []
    found, left = [], _OVERLAP * len(data)
    table = data[_HEADER.size : _HEADER.size + count * _ENTRY.size]
    for kind, soname, path, _, wanted in _ENTRY.iter_unpack(table):
        if wanted and not wanted & _HWCAP_EXTENSION:
            continue
        name = hwcaps[wanted & _HWCAP_INDEX] if wanted else ""
        entry = CacheEntry(_text(data, soname), _text(data, path), kind, name)
        left -= len(entry.soname) + len(entry.path)
        if left < 0:
            raise MalformedError("the names in ld.so.cache overlap")
        found.append(entry)
    return found


def _hwcaps(data: bytes, offset: int) -> list[str]:
    """Names of the glibc-hwcaps subdirectories that entries refer to by number."""
    magic, sections = struct.unpack_from("<II", data, offset)
    if magic != _EXTENSION_MAGIC or sections > len(data):
        raise MalformedError("the extensions of ld.so.cache make no sense")
    for number in range(sections):
        tag, _, at, size = struct.unpack_from("<IIII", data, offset + 8 + number * 16)
        if tag == _TAG_HWCAPS:
            names = struct.unpack_from(f"<{min(size, len(data)) // 4}I", data, at)
            return [_text(data, name) for name in names]
    return []


def _text(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    if end < 0:
        raise MalformedError("a name in ld.so.cache has no end")
    return data[offset:end].decode()
