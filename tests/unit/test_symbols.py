# SPDX-License-Identifier: Apache-2.0
"""Symbols that an object wants and offers, as the linker would match them."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from unit import elf_images
from unit.elf_images import Image, RawSegment, opened
from unit.hostile import MUTATIONS, mutated, offset_of, patched, refusal, sparse
from unit.real import libraries, readelf

from holdover.elf import ElfFile
from holdover.errors import ElfError
from holdover.symbols import Symbols, Wanted, read_symbols, slot_of

FULL = Image(
    soname="libq.so.1",
    undefined=["malloc", "free", "unused"],
    weak=["trace"],
    defined=["first", "second", "third"],
    relocated=["malloc", "trace", "first"],
    called=["free", "malloc"],
    wants={"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.38"]},
    defines=["Q_1", "Q_2"],
    versions={"malloc": "GLIBC_2.38", "second": "Q_2", "third": "-Q_2"},
)


def read(image: Image | bytes) -> Symbols:
    with opened(bytes(image)) as file:
        return read_symbols(ElfFile(file))


def offered(**more: str) -> Symbols:
    """Of an object that defines `symbol`, by default with its first version."""
    versions = {"symbol": "Q_1"} | more
    return read(Image(soname="q", defined=["symbol"], defines=["Q_1", "Q_2"], versions=versions))


UNVERSIONED = read(Image(defined=["symbol"]))

# -- where the loader writes an address ------------------------------------------------------------


def test_slot_of_a_symbol_is_where_its_relocation_says() -> None:
    with opened(bytes(FULL)) as file:
        elf = ElfFile(file)
        assert {slot_of(elf, name) for name in ("malloc", "trace", "first", "free")} == {
            elf_images.BASE
        }
        assert slot_of(elf, "unused") is None
        assert slot_of(elf, "lloc") is None


def test_slots_of_real_libraries_are_what_readelf_says() -> None:
    for library in libraries()[:20]:
        listed = readelf("--relocs", library)
        found = re.findall(
            r"(?m)^([0-9a-f]+) .*_JUMP_SLOT\s+[0-9a-f]+ (\w+)(?:@\S*)? \+ 0$", listed
        )
        twice = re.findall(r"_(?:GLOB_DAT|64)\s+[0-9a-f]+ (\w+)", listed)
        first = {name: int(place, 16) for place, name in reversed(found) if name not in twice}
        with library.open("rb") as file:
            assert {name: slot_of(ElfFile(file), name) for name in first} == first


# -- what is wanted --------------------------------------------------------------------------------


def test_symbols_that_relocations_name_are_wanted_once_with_their_version() -> None:
    assert read(FULL).wanted == (Wanted("malloc", "GLIBC_2.38"), Wanted("free", ""))


def test_symbol_that_no_relocation_names_is_not_wanted() -> None:
    assert read(Image(undefined=["malloc"])).wanted == ()


def test_weak_symbol_is_not_wanted() -> None:
    assert read(Image(weak=["trace"], relocated=["trace"], called=["trace"])).wanted == ()


def test_symbol_that_is_defined_here_is_not_wanted() -> None:
    assert read(Image(defined=["own"], relocated=["own"])).wanted == ()


def test_relocations_without_a_symbol_are_left_out() -> None:
    image = Image(undefined=["malloc"], relocated=["malloc"])
    at = offset_of(image, elf_images.DT_RELA)
    assert read(patched(bytes(image), at + 8, bytes(8))).wanted == ()


def test_relative_relocations_are_skipped_by_their_count() -> None:
    count = (elf_images.DT_RELACOUNT, 1)
    image = Image(undefined=["a", "b"], relocated=["a", "b"], extra_dynamic=[count])
    assert read(image).wanted == (Wanted("b", ""),)


def test_more_relative_relocations_than_there_are_leave_none() -> None:
    count = (elf_images.DT_RELACOUNT, 2**60)
    assert read(Image(undefined=["a"], relocated=["a"], extra_dynamic=[count])).wanted == ()


@pytest.mark.parametrize(
    ("wanted", "text"),
    [(Wanted("malloc", "GLIBC_2.38"), "malloc, version GLIBC_2.38"), (Wanted("free", ""), "free")],
)
def test_wanted_symbol_is_named_with_its_version(wanted: Wanted, text: str) -> None:
    assert str(wanted) == text


# -- what is offered -------------------------------------------------------------------------------

ANY, FIRST, SECOND = (Wanted("symbol", version) for version in ("", "Q_1", "Q_2"))


@pytest.mark.parametrize(
    ("symbols", "served"),
    [
        (UNVERSIONED, {ANY, FIRST, SECOND}),
        (offered(symbol="Q_1"), {ANY, FIRST}),
        (offered(symbol="Q_2"), {ANY, SECOND}),
        (offered(symbol="-Q_1"), {ANY, FIRST}),
        (offered(symbol="-Q_2"), {SECOND}),
        (offered(symbol=""), {ANY, FIRST, SECOND}),
        (offered(symbol="-"), {ANY}),
    ],
    ids=["no table", "first", "later", "hidden first", "hidden later", "global", "hidden global"],
)
def test_symbol_serves_whom_the_linker_would_let_have_it(
    symbols: Symbols, served: set[Wanted]
) -> None:
    assert {wanted for wanted in (ANY, FIRST, SECOND) if symbols.offers(wanted)} == served


def test_what_is_not_defined_is_not_offered() -> None:
    symbols = read(FULL)
    for name in ("malloc", "trace", "nothing", ""):
        assert not symbols.offers(Wanted(name, ""))


def test_symbol_without_a_value_is_offered_only_if_it_is_absolute() -> None:
    image = Image(defined=["symbol"])
    at = offset_of(image, elf_images.DT_SYMTAB) + 24
    nothing = patched(bytes(image), at + 8, bytes(8))
    assert not read(nothing).offers(ANY)
    assert read(patched(nothing, at + 6, struct.pack("<H", 0xFFF1))).offers(ANY)


def test_local_symbol_is_not_offered() -> None:
    image = Image(defined=["symbol"])
    at = offset_of(image, elf_images.DT_SYMTAB) + 24
    assert not read(patched(bytes(image), at + 4, b"\x02")).offers(ANY)


def test_static_executable_wants_and_offers_nothing() -> None:
    assert read(Image(dynamic=False)) == Symbols((), frozenset())


# -- files that make no sense ----------------------------------------------------------------------


def test_truncation_at_every_length_is_refused_or_does_no_harm() -> None:
    whole, right = bytes(FULL), read(FULL)
    for length in range(len(whole)):
        if refusal(whole[:length], read_symbols) == "":
            assert read(whole[:length]) == right


@given(MUTATIONS)
@settings(max_examples=500)
def test_changed_bytes_are_answered_or_refused(changes: list[tuple[int, bytes]]) -> None:
    refusal(mutated(bytes(FULL), changes), read_symbols)


@pytest.mark.parametrize(
    "tag",
    [elf_images.DT_STRTAB, elf_images.DT_SYMTAB, elf_images.DT_VERSYM, elf_images.DT_RELASZ],
)
def test_entry_that_is_not_there_is_survived_or_an_error(tag: int) -> None:
    content = bytes(FULL).replace(
        struct.pack("<QQ", tag, ElfFile(opened(bytes(FULL))).tags[tag]),
        struct.pack("<QQ", 0x77, 0),
    )
    assert refusal(content, read_symbols) in ("", f"no dynamic entry {tag:#x}")


def test_relocation_of_a_symbol_outside_of_the_file_is_refused() -> None:
    at = offset_of(FULL, elf_images.DT_RELA)
    content = patched(bytes(FULL), at + 8, struct.pack("<Q", 2**63))
    assert "is not in the file" in refusal(content, read_symbols)


def test_name_without_an_end_is_refused() -> None:
    size = (elf_images.DT_STRSZ, ElfFile(opened(bytes(FULL))).tags[elf_images.DT_STRSZ])
    content = bytes(FULL).replace(struct.pack("<QQ", *size), struct.pack("<QQ", size[0], 3))
    assert refusal(content, read_symbols) != ""


def test_names_that_overlap_cost_no_more_than_the_table_is_long() -> None:
    """Each of the symbols is called by what is left of the same long text."""
    count = 1000
    calls = b"".join(struct.pack("<QQq", 0, (n + 1) << 32, 0) for n in range(count))
    image = Image(undefined=["x" * 2000, *("y" for _ in range(count))], constants=calls)
    rela = [(elf_images.DT_RELA, 0), (elf_images.DT_RELASZ, len(calls))]
    place = bytes(replace(image, extra_dynamic=rela)).index(calls) + elf_images.BASE
    image = replace(image, extra_dynamic=[(elf_images.DT_RELA, place), rela[1]])
    content, at = bytes(image), offset_of(image, elf_images.DT_SYMTAB)
    for number in range(count):
        content = patched(content, at + 24 * (number + 1), struct.pack("<I", 1 + number))
    assert "overlap" in refusal(content, read_symbols)


@pytest.mark.parametrize(
    ("start", "length"),
    [
        (elf_images.DT_RELA, elf_images.DT_RELASZ),
        (elf_images.DT_JMPREL, elf_images.DT_PLTRELSZ),
    ],
)
def test_sparse_file_with_more_than_any_real_one_has_is_refused_unread(
    tmp_path: Path, start: int, length: int
) -> None:
    size, far = 2**40, 2**41
    whole = RawSegment(elf_images.PT_LOAD, elf_images.PF_R, 0, far, size, size)
    wrong = [(start, far), (length, 2**31)]
    content = bytes(Image(defined=["a"], extra_dynamic=wrong, extra_segments=[whole]))
    whole_file = sparse(tmp_path / "image", content, size)
    with whole_file.open("rb") as file, pytest.raises(ElfError, match="more than any real file"):
        read_symbols(ElfFile(file))


# -- the real thing --------------------------------------------------------------------------------


def dynamic_symbols(path: Path) -> tuple[set[str], set[str]]:
    """(wanted, offered) as readelf prints them: NAME, NAME@VERSION, NAME@@VERSION."""
    wanted, offered = set(), set()
    line = re.compile(r" *\d+: ([0-9a-f]+) +\w+ (\w+) +(GLOBAL|WEAK|UNIQUE) +\w+ +(\w+) (\S+)")
    for value, kind, binding, section, name in line.findall(readelf("--dyn-syms", path)):
        if section == "UND":
            if binding == "GLOBAL":
                wanted.add(name)
        elif int(value, 16) or section == "ABS" or kind == "TLS":
            offered.add(name)
    return wanted, offered


@pytest.mark.parametrize("path", libraries(), ids=lambda path: path.name)
def test_library_wants_and_offers_what_readelf_sees(path: Path) -> None:
    wanted, offered = dynamic_symbols(path)
    with path.open("rb") as file:
        found = read_symbols(ElfFile(file))
    ours = {f"{w.name}@{w.version}" if w.version else w.name for w in found.wanted}
    assert ours <= wanted
    assert found.wanted or not wanted
    for name, _, version in (entry.replace("@@", "@").partition("@") for entry in offered):
        assert found.offers(Wanted(name, version)), name
