# SPDX-License-Identifier: Apache-2.0
"""Symbol versions: as the loader reads them, and `ElfError`, cheaply, for what makes no sense."""

import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from unit import elf_images
from unit.elf_images import Image, opened
from unit.hostile import MUTATIONS, mutated, offset_of, patched, refusal
from unit.real import libraries, readelf

from holdover.elf import ElfFile
from holdover.versions import defined_versions, needed_versions, version_names

NEEDS = {"libc.so.6": ["GLIBC_2.2.5", "GLIBC_2.38"], "libm.so.6": ["GLIBC_2.29"]}
FULL = Image(
    soname="libq.so.1",
    wants=NEEDS,
    defines=["Q_1", "Q_2"],
    defined=["old", "new"],
    undefined=["malloc"],
    versions={"old": "Q_1", "new": "Q_2", "malloc": "GLIBC_2.38"},
)
NEXT_FILE, NEXT_VERSION, NEXT_DEFINITION = 12, 16 + 12, 16  # offsets in the tables


def read(image: Image | bytes) -> ElfFile:
    return ElfFile(opened(bytes(image)))


def everything(elf: ElfFile) -> object:
    return needed_versions(elf), defined_versions(elf), version_names(elf)


def with_number(tag: int, offset: int, value: int) -> bytes:
    """The full image with another number in one of its tables."""
    return patched(bytes(FULL), offset_of(FULL, tag) + offset, struct.pack("<I", value))


# -- right answers ---------------------------------------------------------------------------------


def test_needed_versions_are_in_file_order() -> None:
    assert needed_versions(read(FULL)) == (
        ("libc.so.6", "GLIBC_2.2.5"),
        ("libc.so.6", "GLIBC_2.38"),
        ("libm.so.6", "GLIBC_2.29"),
    )


def test_weak_version_is_not_insisted_on() -> None:
    image = Image(wants={"libc.so.6": ["?GLIBC_2.38", "GLIBC_2.4"]})
    assert needed_versions(read(image)) == (("libc.so.6", "GLIBC_2.4"),)


def test_defined_versions_are_those_of_the_object_and_its_own_name() -> None:
    assert defined_versions(read(FULL)) == {"libq.so.1", "Q_1", "Q_2"}


def test_object_without_versions_needs_and_defines_none() -> None:
    elf = read(Image(needed=["libc.so.6"], defined=["a"]))
    assert (needed_versions(elf), defined_versions(elf), version_names(elf)) == (
        (),
        frozenset(),
        {},
    )


def test_static_executable_has_no_versions() -> None:
    elf = read(Image(dynamic=False))
    assert (needed_versions(elf), defined_versions(elf)) == ((), frozenset())


def test_numbers_stand_for_versions_of_its_own_and_of_others() -> None:
    names = version_names(read(FULL))
    assert [names[number] for number in (1, 2, 3)] == ["libq.so.1", "Q_1", "Q_2"]
    assert set(names.values()) >= {*NEEDS["libc.so.6"], *NEEDS["libm.so.6"]}


# -- tables that make no sense ---------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2**32, 2**64 - 1])
def test_counts_are_not_looked_at_as_the_loader_does_not(count: int) -> None:
    content = bytes(FULL)
    for tag in (elf_images.DT_VERNEEDNUM, elf_images.DT_VERDEFNUM):
        right = struct.pack("<QQ", tag, read(FULL).tags[tag])
        content = content.replace(right, struct.pack("<QQ", tag, count))
    assert everything(read(content)) == everything(read(FULL))


@pytest.mark.parametrize(
    ("tag", "offset"),
    [
        (elf_images.DT_VERNEED, NEXT_FILE),
        (elf_images.DT_VERNEED, NEXT_VERSION),
        (elf_images.DT_VERDEF, NEXT_DEFINITION),
    ],
)
def test_entry_that_names_no_next_one_is_the_last(tag: int, offset: int) -> None:
    content = with_number(tag, offset, 0)
    assert refusal(content, everything) == ""
    assert everything(read(content)) != everything(read(FULL))


@pytest.mark.parametrize("tag", [elf_images.DT_VERNEED, elf_images.DT_VERDEF])
@pytest.mark.parametrize("offset", [NEXT_FILE, NEXT_VERSION, NEXT_DEFINITION, 8])
@pytest.mark.parametrize("value", [2**20, 2**31, 2**32 - 1])
def test_entry_outside_of_the_file_is_refused_or_not_reached(
    tag: int, offset: int, value: int
) -> None:
    message = refusal(with_number(tag, offset, value), everything)
    assert re.fullmatch("|(?:address|string) .*", message)


def test_definitions_without_end_are_refused() -> None:
    """Each names a next one, 20 bytes further on, for as long as the file is."""
    table = struct.pack("<HHHHIII", 1, 0, 2, 1, 0, 0, 20) * 2**17
    image = Image(soname="q", constants=table, extra_dynamic=[(elf_images.DT_VERDEF, 0)])
    at = bytes(image).index(table) + elf_images.BASE
    image = replace(image, extra_dynamic=[(elf_images.DT_VERDEF, at)])
    assert "more symbol versions" in refusal(bytes(image), everything)


def test_versions_whose_names_overlap_cost_no_memory() -> None:
    """Each name is what is left of the same long text."""
    count = 2000
    names = {f"file{number}": ["V"] for number in range(count)}
    image = Image(wants=names, needed=["x" * 4000])
    content, at = bytes(image), offset_of(image, elf_images.DT_VERNEED)
    long = read(image).dynamic[0][1]
    for number in range(count):
        content = patched(content, at + 32 * number + 4, struct.pack("<I", long + number))
    assert "characters" in refusal(content, needed_versions)


@pytest.mark.parametrize("index", [10**6, 2**31, 2**32 - 1])
@pytest.mark.parametrize("offset", [4, 16 + 8])
def test_name_outside_of_the_strings_is_refused(offset: int, index: int) -> None:
    content = with_number(elf_images.DT_VERNEED, offset, index)
    assert "outside the string table" in refusal(content, everything)


@pytest.mark.parametrize("tag", [elf_images.DT_VERNEED, elf_images.DT_VERDEF])
def test_table_outside_of_the_file_is_refused(tag: int) -> None:
    assert "is not in the file" in refusal(bytes(Image(extra_dynamic=[(tag, 2**40)])), everything)


def test_truncation_at_every_length_is_refused_or_does_no_harm() -> None:
    whole, right = bytes(FULL), everything(read(FULL))
    for length in range(len(whole)):
        if refusal(whole[:length], everything) == "":
            assert everything(read(whole[:length])) == right


@given(MUTATIONS)
@settings(max_examples=500)
def test_changed_bytes_are_answered_or_refused(changes: list[tuple[int, bytes]]) -> None:
    refusal(mutated(bytes(FULL), changes), everything)


# -- the real thing --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", libraries(), ids=lambda path: path.name)
def test_library_has_the_versions_that_readelf_sees(path: Path) -> None:
    told = readelf("-V", path)
    with path.open("rb") as file:
        elf = ElfFile(file)
        found = {name for _, name in needed_versions(elf)}
        defined = defined_versions(elf)
    wanted = re.findall(r"Name: (\S+)  Flags: (\S+)  Version:", told)
    assert found == {name for name, flags in wanted if flags != "WEAK"}
    own = re.findall(r"Index: \d+  Cnt: \d+  Name: (\S+)", told)
    assert defined == set(own)


def test_some_of_these_libraries_have_versions_of_their_own() -> None:
    defined = [defined_versions(read(path.read_bytes())) for path in libraries()]
    assert any("GLIBC_2.2.5" in names for names in defined)
