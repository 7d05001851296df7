# SPDX-License-Identifier: Apache-2.0
"""What an executable and a module say about themselves, on images built by hand."""

import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.elf_images import (
    BASE,
    PF_R,
    PF_W,
    PF_X,
    PT_LOAD,
    Image,
    RawSegment,
    build_id_note,
    opened,
)
from unit.hostile import sparse

from holdover.builds import read_build, read_module_names, read_module_stamp
from holdover.elf import DT_RELA, DT_RELASZ
from holdover.errors import ElfError
from holdover.model import Build
from holdover.programs import load_programs

QEMU = next(p for p in load_programs() if p.name == "qemu")
STAMP = "qemu_stamp_" + "0123456789abcdef0123456789abcdef01234567"
DIRECTORY = "/usr/lib/x86_64-linux-gnu/qemu"
CONSTANTS = "\0".join(
    [
        "QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u13)",
        STAMP,
        "QEMU_MODULE_DIR",
        DIRECTORY,
        "/usr/share/qemu",
        "block-rbd",
        "ui-spice-core",
        "block-",
        "not-a-module",
    ]
).encode()


def build_of(constants: bytes, flags: int = PF_R) -> Build:
    image = Image(constants=constants, flags=flags, notes=[build_id_note(b"\xab\xcd")])
    with opened(bytes(image)) as file:
        return read_build(file, QEMU)


def names_of(*strings: str) -> frozenset[str]:
    with opened(bytes(Image(constants="\0".join(strings).encode()))) as file:
        return read_module_names(file, QEMU)


def stamp_of(*defined: str, undefined: tuple[str, ...] = (), hash_table: str = "gnu") -> str:
    with opened(bytes(Image(defined=defined, undefined=undefined, hash=hash_table))) as file:
        return read_module_stamp(file, QEMU)


# -- executables -----------------------------------------------------------------------------------


def test_a_build_is_read_from_constant_data() -> None:
    version = "7.2.17 (Debian 1:7.2+dfsg-7+deb12u13)"
    assert build_of(CONSTANTS) == Build("qemu", "abcd", STAMP, version, (Path(DIRECTORY),))


LAST = "/var/run/qemu/%s"
GOES_ON = "Failed to initialize module: %s\n"
NAMED = "Debian 1:5.2+dfsg-11+deb11u5"


def fallback_of(number: str = "5.2.0", named: str = NAMED, *without: str) -> Path | None:
    version = f"QEMU emulator version {number} ({named})\nCopyright"
    strings = [text for text in (version, STAMP, named, LAST, GOES_ON) if text not in without]
    return build_of("\0".join(["", *strings, ""]).encode()).fallback


@pytest.mark.parametrize(
    ("number", "named", "directory"),
    [
        ("5.2.0", NAMED, "Debian_1_5.2+dfsg-11+deb11u5"),
        ("6.2.0", "Debian 1:6.2+dfsg-2ubuntu6.22", "Debian_1_6.2+dfsg-2ubuntu6.22"),
        ("7.1.0", "qemu-7.1.0-3.fc37", "qemu-7.1.0-3.fc37"),
        ("5.0.1", "5.0.1 <ours>~é", "5.0.1__ours_~_"),
    ],
)
def test_a_build_that_goes_on_has_a_fallback_directory(
    number: str, named: str, directory: str
) -> None:
    assert fallback_of(number, named) == Path("/run/qemu") / directory


@pytest.mark.parametrize(
    ("number", "named"),
    [
        ("4.2.1", "Debian 1:4.2-3"),
        ("7.2.0", "Debian 1:7.2+dfsg-1"),
        ("7.1.90", "v7.2.0-rc0, 7.1.90"),  # 7.2 in all but its name
        ("10.0.2", "Debian 1:10.0.2+ds-2"),
        ("5.2.0", "v1"),  # a later build may have that name, too
        ("5.2.0", "../5.2"),
        ("5.2.0", ""),
    ],
)
def test_other_builds_have_none(number: str, named: str) -> None:
    assert fallback_of(number, named) is None


@pytest.mark.parametrize("missing", [LAST, GOES_ON, NAMED])
def test_a_build_that_does_not_say_so_itself_has_none(missing: str) -> None:
    assert fallback_of() is not None
    assert fallback_of("5.2.0", NAMED, missing) is None


@pytest.mark.parametrize(
    "text",
    [
        "QEMU emulator version {}\nCopyright (c) 2003-2022 Fabrice Bellard",
        "qemu-storage-daemon version {}\nCopyright (c)",
        "%s {}\nWritten by Anthony Liguori.",  # qemu-nbd
    ],
)
def test_each_executable_says_its_version_in_its_own_way(text: str) -> None:
    version = "7.2.17 (Debian 1:7.2+dfsg-7+deb12u13)"
    assert build_of(f"{text.format(version)}\0{STAMP}".encode()).version == version


def test_with_an_old_linker_the_constants_are_among_the_code() -> None:
    assert build_of(CONSTANTS, flags=PF_R | PF_X).stamp == STAMP


def test_data_that_can_be_written_is_not_looked_at() -> None:
    assert build_of(CONSTANTS, flags=PF_R | PF_W).stamp is None


@pytest.mark.parametrize("stamp", ["", "qemu_stamp_0123", STAMP.upper(), "qemu_stamp_" + "g" * 40])
def test_an_executable_without_a_stamp_has_none(stamp: str) -> None:
    build = build_of(stamp.encode())
    assert (build.stamp, build.version, build.directories) == (None, "", ())


@pytest.mark.parametrize(
    "directory",
    [
        "/usr/lib/qemu",
        "/usr/lib64/qemu-kvm",
        "/usr/local/lib/qemu",
        "/usr/libexec/qemu",
        "/usr/lib/aarch64-linux-gnu/qemu",
    ],
)
def test_module_directories_are_known_by_their_form(directory: str) -> None:
    assert build_of(directory.encode()).directories == (Path(directory),)


@pytest.mark.parametrize(
    "directory", ["/usr/share/qemu", "/usr/lib/qemu/", "x/usr/lib/qemu", "/usr/lib/../tmp/qemu"]
)
def test_other_directories_are_none(directory: str) -> None:
    assert build_of(directory.encode()).directories == ()


def test_directories_are_in_order_and_once() -> None:
    names = ("/usr/lib64/qemu", "/usr/lib/qemu", "/usr/lib64/qemu")
    found = build_of("\0".join(names).encode()).directories
    assert found == (Path("/usr/lib64/qemu"), Path("/usr/lib/qemu"))


def test_an_executable_without_a_build_id_has_an_empty_one() -> None:
    with opened(bytes(Image(constants=CONSTANTS))) as file:
        assert read_build(file, QEMU).build_id == ""


def test_overlapping_segments_cost_no_more_than_a_few_times_the_file() -> None:
    """Many segments over the same data would be a cheap way to fill somebody's memory."""
    size = 2**16
    whole = RawSegment(PT_LOAD, PF_R, 0, BASE, size, size)
    with opened(Image(extra_segments=[whole] * 400).filled_to(size)) as file:
        tracemalloc.start()
        try:
            with suppress(ElfError):
                read_build(file, QEMU)
            assert tracemalloc.get_traced_memory()[1] < 8 * size
        finally:
            tracemalloc.stop()


# -- names of modules ------------------------------------------------------------------------------


def test_module_names_of_an_executable_are_found() -> None:
    assert names_of(*CONSTANTS.decode().split("\0")) == {"block-rbd", "ui-spice-core"}


def test_neighbours_are_both_found() -> None:
    names = ("block-rbd", "block-curl", "hw-usb-host", "audio-alsa", "accel-tcg-x86_64")
    assert names_of(*names) == set(names)


@pytest.mark.parametrize("string", ["a block-rbd", "block-rbd.so", "BLOCK-RBD", "block_rbd", ""])
def test_parts_of_other_strings_are_no_names(string: str) -> None:
    assert names_of(string) == frozenset()


@given(st.lists(st.sampled_from(["block-a", "ui-b", "x", "", "hw-c d"])))
def test_exactly_the_whole_strings_are_names(strings: list[str]) -> None:
    assert names_of(*strings) == set(strings) & {"block-a", "ui-b"}


def test_relocations_are_not_searched_and_what_is_around_them_is() -> None:
    inside = b"\0block-inside\0"
    constants = b"block-before\0" + inside + b"block-behind"
    at = BASE + bytes(Image(constants=constants)).index(inside)
    image = Image(constants=constants, extra_dynamic=((DT_RELA, at), (DT_RELASZ, len(inside))))
    with opened(bytes(image)) as file:
        assert read_module_names(file, QEMU) == {"block-before", "block-behind"}


# -- stamps of modules -----------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["gnu", "sysv", "both"])
def test_a_module_exports_its_stamp(table: str) -> None:
    assert stamp_of("block_init", STAMP, "other", hash_table=table) == STAMP


@pytest.mark.parametrize("name", ["block_init", STAMP[:-1], STAMP + "0", "x" + STAMP])
def test_a_library_without_a_stamp_has_none(name: str) -> None:
    assert stamp_of(name) == ""


def test_a_stamp_that_is_only_asked_for_is_not_carried() -> None:
    assert stamp_of("block_init", undefined=(STAMP,)) == ""


def test_an_object_without_a_dynamic_section_carries_no_stamp() -> None:
    with opened(bytes(Image(dynamic=False))) as file:
        assert read_module_stamp(file, QEMU) == ""


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", bytes(Image())[:100]])
def test_what_is_no_module_is_an_elf_error(content: bytes) -> None:
    with opened(content) as file:
        for read in (read_build, read_module_names, read_module_stamp):
            with pytest.raises(ElfError):
                read(file, QEMU)


@given(st.integers(0, 2**16), st.binary(min_size=1, max_size=8))
def test_changed_bytes_are_answered_or_refused(offset: int, new: bytes) -> None:
    content = bytearray(bytes(Image(constants=CONSTANTS, defined=[STAMP])))
    at = offset % (len(content) - len(new))
    content[at : at + len(new)] = new
    with opened(bytes(content)) as file:
        for read in (read_build, read_module_names, read_module_stamp):
            try:
                read(file, QEMU)
            except ElfError:
                continue


def test_constants_of_a_sparse_file_are_not_gigabytes(tmp_path: Path) -> None:
    """Each segment is as large as a file may have one, and there are many of them."""
    many = [RawSegment(1, 4, 0, 1 << 40, 1 << 27, 1 << 27)] * 8
    path = sparse(tmp_path / "qemu", bytes(Image(extra_segments=many)), 1 << 31)
    for read in (read_build, read_module_names):
        with path.open("rb") as file, pytest.raises(ElfError, match="to be looked through"):
            read(file, QEMU)


def test_version_that_has_no_end_is_none() -> None:
    """It would take hours to look for its end from each of its beginnings."""
    assert QEMU.version.search(b" 1.1.1 (" * 50_000) is None
