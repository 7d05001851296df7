# SPDX-License-Identifier: Apache-2.0
"""ld.so.cache: against ldconfig itself, and against anything."""

import shutil
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.errors import MalformedError
from holdover.ldcache import CacheEntry, parse_cache
from holdover.run import run

X86_64 = 0x303  # FLAG_X8664_LIB64 | FLAG_ELF_LIBC6 of glibc's ldconfig.h
EXTENSION = 1 << 62
ENTRIES = [
    ("libz.so.1", "/lib/glibc-hwcaps/x86-64-v3/libz.so.1", EXTENSION | 1),
    ("libz.so.1", "/lib/libz.so.1", 0),
    ("liba.so.1", "/lib/haswell/liba.so.1", 4),
]


def cache(
    entries: Sequence[tuple[str, str, int]] = ENTRIES,
    hwcaps: Sequence[str] = ("x86-64-v2", "x86-64-v3"),
) -> bytes:
    """A cache as ldconfig lays it out: header, entries, strings, extensions."""
    strings, at = b"", 48 + 24 * len(entries)

    def put(text: str) -> int:
        nonlocal strings
        strings += text.encode() + b"\0"
        return at + len(strings) - len(text.encode()) - 1

    table = b"".join(struct.pack("<iIIIQ", X86_64, put(s), put(p), 0, h) for s, p, h in entries)
    names = b"".join(struct.pack("<I", put(name)) for name in hwcaps)
    length = len(strings)
    strings += bytes(-(at + len(strings)) % 4)
    extension = at + len(strings)
    header = b"glibc-ld.so.cache1.1" + struct.pack("<IIB3xI12x", len(entries), length, 2, extension)
    sections = struct.pack("<IIIIII", 0xEAA42174, 1, 1, 0, extension + 24, len(names))
    return header + table + strings + sections + names


def test_first_fit_comes_first_and_names_what_it_is_for() -> None:
    assert parse_cache(cache()) == (
        CacheEntry("libz.so.1", "/lib/glibc-hwcaps/x86-64-v3/libz.so.1", X86_64, "x86-64-v3"),
        CacheEntry("libz.so.1", "/lib/libz.so.1", X86_64),
    )


def test_table_of_old_is_skipped() -> None:
    for count in (0, 1, 2):  # with and without padding behind it
        old = b"ld.so-1.7.0\0" + struct.pack("<I", count) + bytes(12 * count)
        assert parse_cache(old + bytes(-len(old) % 8) + cache()) == parse_cache(cache())


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"ld.so-1.7.0",
        b"x" * 100,
        cache()[:60],
        cache()[:20] + b"\xff\xff\xff\xff" + cache()[24:],
        cache([("a", "b", EXTENSION | 2)]),
        cache(hwcaps=[])[:-24] + bytes(24),
    ],
)
def test_nonsense_is_a_typed_error(damaged: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_cache(damaged)


@given(at=st.integers(0, len(cache()) - 1), value=st.integers(0, 255), cut=st.booleans())
def test_any_damage_is_survived_or_a_typed_error(at: int, value: int, *, cut: bool) -> None:
    data = bytearray(cache())
    data[at] = value
    with suppress(MalformedError):  # and nothing else
        assert len(parse_cache(bytes(data[:at] if cut else data))) <= len(ENTRIES)


def test_real_cache_reads_as_ldconfig_reads_it() -> None:
    ldconfig, file = shutil.which("ldconfig", path="/usr/sbin:/sbin"), Path("/etc/ld.so.cache")
    if ldconfig is None or not file.exists():
        pytest.skip("this machine has no glibc cache")
    lines = run(ldconfig, "-p").stdout.splitlines()[1:]
    told = [(line.split()[0], line.rpartition(" => ")[2]) for line in lines if " => " in line]
    assert told
    assert [(entry.soname, entry.path) for entry in parse_cache(file.read_bytes())] == told


def test_names_that_overlap_are_not_read_again_and_again() -> None:
    """Each entry has a name that ends where the file does."""
    count, table = 2000, 48 + 24 * 2000
    entries = struct.pack("<iIIIQ", X86_64, table, table, 0, 0) * count
    header = b"glibc-ld.so.cache1.1" + struct.pack("<IIB3xI12x", count, 0, 2, 0)
    with pytest.raises(MalformedError, match="overlap"):
        parse_cache(header + entries + b"a" * 100_000 + b"\0")
