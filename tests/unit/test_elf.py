# SPDX-License-Identifier: Apache-2.0
"""Reading ELF files: right answers for good ones, and `ElfError`, cheaply, for all others."""

import os
import re
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit import elf_images
from unit.elf_images import BASE, HEADER_SIZE, Image, RawSegment, build_id_note, note, opened
from unit.hostile import sparse

from holdover.elf import ElfFile
from holdover.errors import ElfError
from holdover.hashtables import HashedSymbols
from holdover.run import run

NAMES = ("qemu_stamp_1", "open", "close", "a", "environ", "block_init")
FULL = Image(
    needed=("liba.so.1", "libb.so.2"),
    soname="me.so.3",
    rpath="/opt/lib",
    runpath="$ORIGIN/lib",
    notes=(note(b"Maker\0", 7, b"xyz"), build_id_note(bytes.fromhex("c0ffee00"))),
    defined=NAMES,
    undefined=("malloc", "free"),
)
HUGE = 2**32 - 1
PHNUM, PHENTSIZE, PHOFF = 56, 54, 32  # offsets in the ELF header

Question = Callable[[ElfFile], object]
QUESTIONS: tuple[Question, ...] = (
    lambda elf: elf.needed,
    lambda elf: elf.soname,
    lambda elf: elf.build_id,
    lambda elf: elf.notes,
    lambda elf: elf.dynamic,
    lambda elf: elf.loads,
    lambda elf: elf.read_at(elf.loads[0].address, 16) if elf.loads else b"",
    lambda elf: list(HashedSymbols(elf).defined_names()),
    lambda elf: HashedSymbols(elf).find("environ"),
    lambda elf: HashedSymbols(elf).find("malloc"),
    lambda elf: HashedSymbols(elf).find("no such symbol"),
)
REFUSED = "ElfError"


def answers(content: bytes) -> list[object]:
    """To every question the answer, or REFUSED; anything else is for the test to show."""
    with opened(content) as file:
        try:
            elf = ElfFile(file)
        except ElfError:
            return [REFUSED] * len(QUESTIONS)
        return [_answer(question, elf) for question in QUESTIONS]


def _answer(question: Question, elf: ElfFile) -> object:
    try:
        return question(elf)
    except ElfError:
        return REFUSED


def read(image: Image | bytes) -> ElfFile:
    return ElfFile(opened(bytes(image)))


def patched(content: bytes, offset: int, new: bytes) -> bytes:
    return content[:offset] + new + content[offset + len(new) :]


def table(image: Image, tag: int) -> int:
    """File offset of what the dynamic entry points at."""
    return dict(read(image).dynamic)[tag] - BASE


# -- good files ------------------------------------------------------------------------------------


def test_needed_is_in_file_order() -> None:
    assert read(FULL).needed == ("liba.so.1", "libb.so.2")


def test_the_soname_is_read() -> None:
    assert read(FULL).soname == "me.so.3"


def test_rpath_and_runpath_are_entries_of_the_dynamic_section() -> None:
    tags = [tag for tag, _ in read(FULL).dynamic]
    assert elf_images.DT_RPATH in tags
    assert elf_images.DT_RUNPATH in tags


def test_what_is_not_there_is_empty() -> None:
    elf = read(Image())
    assert (elf.needed, elf.soname, elf.build_id, elf.notes) == ((), "", "", ())
    assert list(HashedSymbols(elf).defined_names()) == []


def test_the_dynamic_section_ends_at_its_null_entry() -> None:
    assert read(Image(extra_dynamic=((0, 0), (1, 1)))).needed == ()


def test_all_notes_are_read_in_order() -> None:
    found = [(n.owner, n.type, n.payload) for n in read(FULL).notes]
    assert found == [("Maker", 7, b"xyz"), ("GNU", 3, b"\xc0\xff\xee\x00")]


def test_the_build_id_is_the_note_of_gnu() -> None:
    assert read(FULL).build_id == "c0ffee00"


@pytest.mark.parametrize("other", [note(b"GNU\0", 1, b"\1\2"), note(b"Go\0\0", 3, b"\1\2")])
def test_other_notes_are_no_build_id(other: bytes) -> None:
    assert read(Image(notes=[other])).build_id == ""


def test_bytes_are_read_by_address() -> None:
    assert read(FULL).read_at(BASE, 4) == b"\x7fELF"


@pytest.mark.parametrize("kind", [2, 3])
def test_executables_and_shared_objects_are_read(kind: int) -> None:
    assert read(Image(type=kind)).type == kind


@pytest.mark.parametrize("table", ["gnu", "sysv", "both"])
def test_every_defined_symbol_is_found(table: str) -> None:
    elf = read(Image(defined=NAMES, undefined=("malloc",), hash=table))
    assert sorted(HashedSymbols(elf).defined_names()) == sorted(NAMES)
    assert [symbol.name for name in NAMES if (symbol := HashedSymbols(elf).find(name))] == list(
        NAMES
    )


@pytest.mark.parametrize("table", ["gnu", "sysv", "both", "none"])
@pytest.mark.parametrize("name", ["malloc", "nothing", "", "opened", "ope"])
def test_undefined_and_unknown_symbols_are_not_found(table: str, name: str) -> None:
    assert (
        HashedSymbols(read(Image(defined=NAMES, undefined=("malloc",), hash=table))).find(name)
        is None
    )


def test_a_symbol_has_value_and_size() -> None:
    symbol = HashedSymbols(read(Image(defined=("environ",)))).find("environ")
    assert symbol is not None
    assert (symbol.value, symbol.size, symbol.defined) == (24, 8, True)


@pytest.mark.parametrize("names", [(), ("a",), tuple(f"name{n}" for n in range(100))])
def test_tables_of_any_length_are_walked_to_their_end(names: tuple[str, ...]) -> None:
    assert set(HashedSymbols(read(Image(defined=names))).defined_names()) == set(names)


def test_names_whose_hashes_collide_are_told_apart() -> None:
    first, second = "Cb", "DA"  # 33 * 67 + 98 == 33 * 68 + 65
    assert elf_images.gnu_hash(first) == elf_images.gnu_hash(second)
    elf = read(Image(defined=(first, second)))
    assert [s.name for n in (first, second) if (s := HashedSymbols(elf).find(n))] == [first, second]


def test_a_static_executable_has_no_symbols() -> None:
    elf = read(Image(dynamic=False))
    assert (elf.dynamic, elf.needed, elf.soname, HashedSymbols(elf).find("a")) == ((), (), "", None)


def test_a_static_executable_offers_no_names() -> None:
    assert list(HashedSymbols(read(Image(dynamic=False))).defined_names()) == []


@given(st.lists(st.text("abcxyz_", min_size=1), unique=True, max_size=20))
def test_any_names_come_back(names: list[str]) -> None:
    elf = read(Image(defined=names, needed=names))
    assert elf.needed == tuple(names)
    assert sorted(HashedSymbols(elf).defined_names()) == sorted(names)


# -- files of another kind -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "truncated"),
        (b"\x7fELF", "truncated"),
        (b"#!/bin/sh\nexec qemu-system-x86_64\n", "not an ELF file"),
        (patched(bytes(FULL), 4, b"\x01"), "not a 64-bit little-endian"),
        (patched(bytes(FULL), 5, b"\x02"), "not a 64-bit little-endian"),
        (bytes(Image(type=1)), "neither an executable nor a shared object"),
        (bytes(Image(type=4)), "neither an executable nor a shared object"),
        (patched(bytes(FULL), PHENTSIZE, b"\x20\x00"), "program headers of 32 bytes"),
    ],
    ids=["empty", "magic only", "script", "32-bit", "big-endian", "relocatable", "core", "headers"],
)
def test_other_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ElfError, match=message):
        read(content)


# -- malformed files -------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["gnu", "sysv", "both"])
def test_truncation_at_every_length_is_refused_or_does_no_harm(table: str) -> None:
    whole = bytes(
        Image(needed=("liba.so.1",), soname="me", notes=FULL.notes, defined=NAMES, hash=table)
    )
    right = answers(whole)
    assert REFUSED not in right
    for length in range(len(whole)):
        for found, expected in zip(answers(whole[:length]), right, strict=True):
            assert found in (REFUSED, expected), f"of {length} bytes"


MUTATION = st.tuples(
    st.one_of(st.integers(0, 1024), st.integers(0, 2**16)),
    st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([1, 2**16, 2**31, HUGE, 2**63, 2**64 - 1]).map(
            lambda number: struct.pack("<Q", number)
        ),
    ),
)


def mutated(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for offset, new in changes:
        content = patched(content, offset % (len(content) - len(new)), new)
    return content


@given(st.lists(MUTATION, min_size=1, max_size=4), st.sampled_from(["gnu", "sysv", "both"]))
@settings(max_examples=500)
def test_changed_bytes_are_answered_or_refused(changes: list[tuple[int, bytes]], kind: str) -> None:
    answers(mutated(bytes(Image(needed=("a",), soname="b", notes=FULL.notes, hash=kind)), changes))
    answers(mutated(bytes(Image(defined=NAMES, undefined=("malloc",), hash=kind)), changes))


@given(st.binary(max_size=400))
def test_garbage_behind_a_good_beginning_is_answered_or_refused(garbage: bytes) -> None:
    answers(bytes(FULL)[:HEADER_SIZE] + garbage)


def test_a_dynamic_section_without_end_is_refused() -> None:
    size = RawSegment(elf_images.PT_DYNAMIC, 4, HEADER_SIZE, BASE, 0, 0)
    elf = read(Image(dynamic=False, extra_segments=[size]))
    with pytest.raises(ElfError, match="no end"):
        _ = elf.dynamic


@pytest.mark.parametrize("index", [10**6, 2**63, 2**64 - 1])
def test_a_string_outside_of_the_table_is_refused(index: int) -> None:
    with pytest.raises(ElfError, match="outside"):
        _ = read(Image(extra_dynamic=((elf_images.DT_NEEDED, index),))).needed


def test_a_string_without_end_is_refused() -> None:
    dynamic = ((elf_images.DT_STRTAB, BASE), (elf_images.DT_STRSZ, 4), (elf_images.DT_NEEDED, 0))
    content = bytes(Image(extra_dynamic=dynamic))
    content = content.replace(struct.pack("<Q", elf_images.DT_STRTAB), b"\x77" * 8, 1)
    content = content.replace(struct.pack("<Q", elf_images.DT_STRSZ), b"\x77" * 8, 1)
    with pytest.raises(ElfError):
        _ = read(content).needed


@given(st.integers(0, 3 * 4096), st.integers(0, 2 * 4096))
def test_any_part_is_read_wherever_its_pages_end(offset: int, size: int) -> None:
    content = bytes(FULL) + bytes(n * 7 % 251 for n in range(3 * 4096 - len(bytes(FULL))))
    elf = read(content)
    for _ in range(2):  # the second time from what was read before
        if offset + size <= len(content):
            assert elf.read(offset, size) == content[offset : offset + size]
        else:
            with pytest.raises(ElfError, match="truncated"):
                elf.read(offset, size)


def test_a_file_that_becomes_shorter_is_refused() -> None:
    with opened(bytes(FULL) + bytes(4 * 4096)) as file:
        elf = ElfFile(file)
        file.truncate(2 * 4096)
        for size in (16, 2 * 4096):
            with pytest.raises(ElfError, match="shorter"):
                elf.read(2 * 4096 - 8, size)


# -- the cost of malformed files -------------------------------------------------------------------


class CountedElf(ElfFile):
    reads = 0

    def read(self, offset: int, size: int) -> bytes:
        self.reads += 1
        return super().read(offset, size)


def huge_counts() -> dict[str, bytes]:
    gnu, sysv = Image(defined=NAMES), Image(defined=NAMES, hash="sysv")
    at_gnu, at_sysv = table(gnu, elf_images.DT_GNU_HASH), table(sysv, elf_images.DT_HASH)
    huge, whole = struct.pack("<I", HUGE), bytes(FULL)
    notes = whole.index(FULL.notes[0])
    return {
        "program headers": patched(whole, PHNUM, b"\xff\xff"),
        "place of the program headers": patched(whole, PHOFF, b"\xff" * 8),
        "buckets": patched(bytes(gnu), at_gnu, huge),
        "bloom words": patched(bytes(gnu), at_gnu + 8, huge),
        "last symbol": patched(bytes(gnu), at_gnu + 24, huge),
        "symbols": patched(bytes(sysv), at_sysv + 4, huge),
        "owner of a note": patched(whole, notes, huge),
        "payload of a note": patched(whole, notes + 4, huge),
        "size of segments": _with_huge_segments(whole),
    }


def _with_huge_segments(content: bytes) -> bytes:
    for number in range(struct.unpack_from("<H", content, PHNUM)[0]):
        at = HEADER_SIZE + elf_images.SEGMENT_SIZE * number + 32
        content = patched(content, at, struct.pack("<QQ", 2**62, 2**62))
    return content


@pytest.mark.parametrize("what", huge_counts().keys())
def test_a_huge_count_is_refused_by_somebody(what: str) -> None:
    assert REFUSED in answers(huge_counts()[what])


@pytest.mark.parametrize("what", huge_counts().keys())
def test_a_huge_count_costs_no_memory(what: str) -> None:
    content = huge_counts()[what]
    tracemalloc.start()
    try:
        answers(content)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("what", huge_counts().keys())
def test_a_huge_count_costs_no_more_reads_than_the_file_has_bytes(what: str) -> None:
    with opened(huge_counts()[what]) as file:
        try:
            elf = CountedElf(file)
        except ElfError:
            return
        for question in QUESTIONS:
            _answer(question, elf)
        assert elf.reads < elf.size


def test_overlapping_note_segments_cost_no_more_than_the_file_is_long() -> None:
    long = build_id_note(b"x" * 4096)
    notes = [RawSegment(elf_images.PT_NOTE, elf_images.PF_R, 40_000, 0, len(long), len(long))]
    content = Image(dynamic=False, extra_segments=notes * 500).filled_to(40_000) + long
    with suppress(ElfError):
        elf = read(content)
        assert sum(len(found.payload) for found in elf.notes) <= elf.size


def test_overlapping_load_segments_cost_no_more_than_the_file_is_long() -> None:
    """The same zeros at 200 addresses in a row, full of nameless symbols, says the hash table."""
    far, page = BASE + 2**24, 4096
    zeros = [
        RawSegment(elf_images.PT_LOAD, elf_images.PF_R, 4 * page, far + n * page, page, page)
        for n in range(200)
    ]
    image = Image(defined=["a"], extra_segments=zeros)
    symbols = table(image, elf_images.DT_SYMTAB) + BASE
    content = image.filled_to(6 * page).replace(
        struct.pack("<QQ", elf_images.DT_SYMTAB, symbols),
        struct.pack("<QQ", elf_images.DT_SYMTAB, far),
    )
    buckets = table(image, elf_images.DT_GNU_HASH) + 24
    elf = CountedElf(opened(patched(content, buckets, struct.pack("<I", HUGE))))
    _answer(lambda it: list(HashedSymbols(it).defined_names()), elf)
    assert elf.reads <= elf.size


def test_a_sparse_file_is_not_read_whole() -> None:
    """Anybody may run an executable that is 2^60 bytes long and occupies one page."""
    whole = RawSegment(elf_images.PT_NOTE, 4, 0, BASE, 2**60, 2**60)
    with opened(bytes(Image(extra_segments=[whole]))) as file:
        os.ftruncate(file.fileno(), 2**60)
        with pytest.raises(ElfError):
            _ = ElfFile(file).notes


TERABYTES = 2**42
FAR = 2**43


def in_sparse_file(path: Path, tag: int, content: bytes, **more: Any) -> ElfFile:
    """An image with `content` before its terabytes of zeros, and an entry that points there."""
    rest = RawSegment(elf_images.PT_LOAD, elf_images.PF_R, 0, FAR, TERABYTES, TERABYTES)
    image = Image(hash="none", extra_segments=[rest], extra_dynamic=[(tag, 0)], **more)
    place = (tag, FAR + len(bytes(image)))
    whole = bytes(replace(image, extra_dynamic=[place])) + content
    return ElfFile(sparse(path / "image", whole, TERABYTES).open("rb"))


def gnu_table(nbuckets: int, first: int, *buckets: int) -> bytes:
    return struct.pack(f"<IIII{len(buckets)}I", nbuckets, first, 0, 0, *buckets)


@pytest.mark.parametrize(
    ("tag", "table"),
    [
        (elf_images.DT_GNU_HASH, gnu_table(1, 1, 1)),
        (elf_images.DT_GNU_HASH, gnu_table(1, 1, HUGE)),
        (elf_images.DT_GNU_HASH, gnu_table(HUGE, 1)),
        (elf_images.DT_HASH, struct.pack("<II", 1, HUGE)),
        (elf_images.DT_HASH, struct.pack("<IIIII", 1, 2, 1, 0, 1)),
    ],
    ids=["chain without end", "last symbol", "buckets", "symbols", "chain in a circle"],
)
def test_hash_table_in_a_file_of_terabytes_is_refused(
    tmp_path: Path, tag: int, table: bytes
) -> None:
    elf = in_sparse_file(tmp_path, tag, table, needed=["a"])
    questions: list[Question] = [
        lambda it: HashedSymbols(it).find("a"),
        lambda it: list(HashedSymbols(it).defined_names()),
    ]
    assert REFUSED in [_answer(question, elf) for question in questions]


def test_dynamic_section_of_terabytes_is_refused(tmp_path: Path) -> None:
    start = 4096
    rest = RawSegment(elf_images.PT_DYNAMIC, 4, start, BASE, TERABYTES - start, 0)
    content = Image(dynamic=False, extra_segments=[rest]).filled_to(start) + b"\1" * 2**21
    image = sparse(tmp_path / "image", content, TERABYTES)
    with image.open("rb") as file, pytest.raises(ElfError, match="no end"):
        _ = ElfFile(file).dynamic


def test_more_program_headers_than_any_file_has_are_refused() -> None:
    many = [RawSegment(0x77, 4, 0, 0, 0, 0)] * 1100
    with pytest.raises(ElfError, match="1102 program headers"):
        read(Image(extra_segments=many))


# -- names that make no sense ----------------------------------------------------------------------


def test_ten_thousand_needed_entries_are_read() -> None:
    names = tuple(f"lib{number}.so" for number in range(10_000))
    assert read(Image(needed=names)).needed == names


def test_needed_entries_that_name_the_same_text_share_it() -> None:
    long = (elf_images.DT_NEEDED, 1)
    elf = read(Image(needed=["x" * 100_000], extra_dynamic=[long] * 10_000))
    assert len(set(map(id, elf.needed))) == 1


def test_needed_entries_whose_names_overlap_are_refused() -> None:
    """Each is what is left of the same long text: gigabytes in a file of some kilobytes."""
    places = [(elf_images.DT_NEEDED, 1 + number) for number in range(10_000)]
    with pytest.raises(ElfError, match="characters"):
        _ = read(Image(needed=["x" * 100_000], extra_dynamic=places)).needed


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/usr/lib/a", "a/b", ".", "..", "x" * 5000, "a\nb", "\udcff"]
)
def test_names_are_told_as_they_are(name: str) -> None:
    """Who uses one as the name of a file looks at it first."""
    elf = read(Image(needed=[name], soname=name, runpath=name))
    assert (elf.needed, elf.soname, elf.runpath) == ((name,), name, name)


@pytest.mark.parametrize("filling", [0, 2**18, 2**19])
def test_strings_are_read_whatever_the_length_of_their_table(filling: int) -> None:
    """Long tables are not kept: many objects may be open at once."""
    elf = read(Image(soname="x" * filling, needed=["liba.so", "y" * 5000], defined=["init"]))
    assert elf.needed == ("liba.so", "y" * 5000)
    assert (len(elf.soname), list(HashedSymbols(elf).defined_names())) == (filling, ["init"])


def test_object_whose_tables_are_all_over_the_place_keeps_little(tmp_path: Path) -> None:
    elf = in_sparse_file(tmp_path, 0x77, b"")
    tracemalloc.start()
    try:
        for page in range(2000):
            elf.read(page * 4096, 8)
        assert tracemalloc.get_traced_memory()[0] < 2**20
    finally:
        tracemalloc.stop()


def test_empty_name_is_one_too() -> None:
    assert read(Image(extra_dynamic=[(elf_images.DT_NEEDED, 0)])).needed == ("",)


# -- files of this system --------------------------------------------------------------------------


@cache
def system_libraries() -> tuple[Path, ...]:
    """Some, the smallest first; none if ldconfig is not there or knows none."""
    ldconfig = shutil.which("ldconfig", path="/usr/sbin:/sbin:/usr/bin:/bin")
    listed = run(ldconfig, "-p", check=False).stdout if ldconfig else ""
    paths = {Path(path).resolve() for path in re.findall(r"x86-64.* => (/.*)", listed)}
    there = (path for path in paths if path.is_file())
    return tuple(sorted(there, key=lambda path: (path.stat().st_size, path)))


def some_libraries() -> list[Path]:
    libraries = system_libraries()
    return [*libraries[:3], *libraries[:: max(1, len(libraries) // 10)]]


@pytest.fixture
def small_library() -> bytes:
    if not system_libraries():
        pytest.skip("ldconfig -p names no library here")
    return system_libraries()[0].read_bytes()


@pytest.fixture(scope="module")
def readelf() -> str:
    found = shutil.which("readelf")
    if not found or run(found, "-d", "/proc/self/exe", check=False).returncode:
        pytest.skip("readelf does not work here")
    return found


def test_readelf_reads_the_images_as_we_do(readelf: str, tmp_path: Path) -> None:
    path = tmp_path / "image.so"
    path.write_bytes(bytes(FULL))
    told = run(readelf, "-dnW", path).stdout
    for word in ("[liba.so.1]", "[libb.so.2]", "[me.so.3]", "[/opt/lib]", "[$ORIGIN/lib]"):
        assert word in told
    assert "Build ID: c0ffee00" in told


@pytest.mark.parametrize("path", some_libraries(), ids=lambda path: path.name)
def test_a_library_of_this_system_reads_as_readelf_says(readelf: str, path: Path) -> None:
    told = run(readelf, "-dnW", path).stdout
    with path.open("rb") as file:
        elf = ElfFile(file)
        assert list(elf.needed) == re.findall(r"\(NEEDED\) .*\[(.*)\]", told)
        assert [elf.soname] == (re.findall(r"\(SONAME\) .*\[(.*)\]", told) or [""])
        assert elf.build_id == next(iter(re.findall(r"Build ID: ([0-9a-f]+)", told)), "")
        tags = [int(tag, 16) for tag in re.findall(r"^ (0x[0-9a-f]+) \(", told, re.MULTILINE)]
        assert [tag % 2**64 for tag, _ in elf.dynamic] == tags[:-1]


@pytest.mark.parametrize("path", some_libraries(), ids=lambda path: path.name)
def test_every_name_that_a_library_offers_is_found_by_its_hash(path: Path) -> None:
    with path.open("rb") as file:
        elf = ElfFile(file)
        for name in list(HashedSymbols(elf).defined_names())[:200]:
            symbol = HashedSymbols(elf).find(name)
            assert symbol is not None
            assert symbol.name == name


@given(data=st.data())
@settings(max_examples=300)
def test_changed_bytes_of_a_real_library_are_answered_or_refused(data: st.DataObject) -> None:
    if not system_libraries():
        pytest.skip("ldconfig -p names no library here")
    content = system_libraries()[0].read_bytes()
    answers(mutated(content, data.draw(st.lists(MUTATION, min_size=1, max_size=4))))


def test_a_truncated_real_library_is_refused_or_does_no_harm(small_library: bytes) -> None:
    right = answers(small_library)
    for length in range(0, len(small_library), 13):
        for found, expected in zip(answers(small_library[:length]), right, strict=True):
            assert found in (REFUSED, expected), f"of {length} bytes"
