# SPDX-License-Identifier: Apache-2.0
"""Rewriting a module: what changes, what must not, and that the loader and the tools accept it."""

import shutil
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.elf_images import (
    BASE,
    DT_STRSZ,
    DT_STRTAB,
    HEADER_SIZE,
    PT_LOAD,
    Image,
    RawSegment,
    build_id_note,
    opened,
)

from holdover.elf import ET_EXEC, ElfFile
from holdover.errors import ElfError, OtherMachineError
from holdover.hashtables import HashedSymbols
from holdover.rewrite import rewrite

RPATH = "$ORIGIN/lib"
PROGRAM_HEADERS, COUNT = slice(32, 40), slice(56, 58)


def rewritten(image: bytes, *needed: str) -> bytes:
    with opened(image) as file:
        return rewrite(file, RPATH, needed)


def read(image: bytes) -> ElfFile:
    return ElfFile(opened(image))


def test_needed_is_appended_in_the_order_given() -> None:
    image = bytes(Image(needed=["libc.so.6", "libz.so.1"]))
    assert read(rewritten(image, "libq.so", "liba.so")).needed == (
        *("libc.so.6", "libz.so.1"),
        *("libq.so", "liba.so"),
    )


def test_what_is_needed_already_is_not_repeated() -> None:
    image = bytes(Image(needed=["libc.so.6"]))
    assert read(rewritten(image, "libc.so.6", "liba.so", "liba.so")).needed == (
        *("libc.so.6", "liba.so"),
    )


def test_module_that_needs_nothing_is_extended_too() -> None:
    assert read(rewritten(bytes(Image()), "liba.so")).needed == ("liba.so",)


@pytest.mark.parametrize("old", [Image(rpath="/old"), Image(runpath="/old")])
def test_old_path_makes_room_for_the_new_one(old: Image) -> None:
    changed = read(rewritten(bytes(old)))
    assert (changed.rpath, changed.runpath) == (RPATH, "")


def test_identity_and_symbols_stay() -> None:
    image = bytes(Image(soname="m.so", defined=["init"], notes=[build_id_note(b"\xab" * 20)]))
    old, new = read(image), read(rewritten(image, "liba.so"))
    assert (new.build_id, new.soname) == ("ab" * 20, "m.so")
    assert HashedSymbols(new).find("init") == HashedSymbols(old).find("init")


def test_nothing_that_was_there_moves() -> None:
    image = bytes(Image(needed=["libc.so.6"], defined=["init"]))
    kept = bytearray(rewritten(image, "liba.so")[: len(image)])
    for field in (PROGRAM_HEADERS, COUNT):  # where the new headers are, and how many
        kept[field] = image[field]
    assert bytes(kept) == image


def test_second_rewrite_still_reads() -> None:
    twice = read(rewritten(rewritten(bytes(Image(needed=["libc.so.6"])), "liba.so"), "libb.so"))
    assert twice.needed == ("libc.so.6", "liba.so", "libb.so")
    assert [tag for tag, _ in twice.dynamic].count(15) == 1


def test_static_file_is_an_error() -> None:
    with pytest.raises(ElfError, match="dynamic"):
        rewritten(bytes(Image(dynamic=False)), "liba.so")


def test_executable_is_an_error() -> None:
    """Its addresses are fixed, and none of them is ours to take."""
    with pytest.raises(ElfError, match="no shared object"):
        rewritten(bytes(Image(type=ET_EXEC, needed=["libc.so.6"])), "liba.so")


@pytest.mark.parametrize(("at", "value"), [(4, 1), (5, 2), (4, 0)])
def test_other_machines_are_an_error_of_their_own(at: int, value: int) -> None:
    image = bytearray(bytes(Image(needed=["libc.so.6"])))
    image[at] = value
    with pytest.raises(OtherMachineError):
        rewritten(bytes(image), "liba.so")


ABSURD = {
    "program headers": (56, b"\xff\xff"),
    "section headers": (60, b"\xff\xff"),
    "size of a section header": (58, b"\x01\x00"),
    "place of the program headers": (32, b"\xff" * 8),
}


@pytest.mark.parametrize(("at", "value"), ABSURD.values(), ids=ABSURD)
def test_absurd_count_in_the_header_is_an_error(at: int, value: bytes) -> None:
    image = bytearray(bytes(Image(needed=["libc.so.6"])))
    image[40:48] = HEADER_SIZE.to_bytes(8, "little")  # sections, of which there is one
    image[58:62] = (64).to_bytes(2, "little") + (1).to_bytes(2, "little")
    assert rewritten(bytes(image), "liba.so")
    image[at : at + len(value)] = value
    with pytest.raises(ElfError):
        rewritten(bytes(image), "liba.so")


@pytest.mark.parametrize(
    "segment",
    [
        RawSegment(PT_LOAD, 4, 0, 1 << 47, 0, 8),
        RawSegment(PT_LOAD, 4, 0, BASE, 0, (1 << 64) - 1),
        RawSegment(PT_LOAD, 4, 0, BASE, 1 << 60, 1 << 60),
    ],
    ids=["far away", "huge in memory", "huge in the file"],
)
def test_absurd_segment_is_an_error(segment: RawSegment) -> None:
    with pytest.raises(ElfError):
        rewritten(bytes(Image(needed=["libc.so.6"], extra_segments=[segment])), "liba.so")


@pytest.mark.parametrize("entry", [(DT_STRSZ, 1 << 60), (DT_STRTAB, 1 << 60)])
def test_absurd_string_table_is_an_error(entry: tuple[int, int]) -> None:
    image = bytearray(bytes(Image(needed=["libc.so.6"])))
    old = next(value for tag, value in read(bytes(image)).dynamic if tag == entry[0])
    at = image.index(struct.pack("<QQ", entry[0], old))
    image[at : at + 16] = struct.pack("<QQ", *entry)
    with pytest.raises(ElfError):
        rewritten(bytes(image), "liba.so")


@given(cut=st.integers(min_value=0, max_value=2000))
def test_truncated_file_is_rewritten_whole_or_an_error(cut: int) -> None:
    image = bytes(Image(needed=["libc.so.6"], defined=["init"]))[:-1]
    with suppress(ElfError):  # and nothing else
        assert read(rewritten(image[:cut], "liba.so")).needed[-1] == "liba.so"


@given(at=st.integers(min_value=0, max_value=400), value=st.integers(0, 255))
def test_damaged_byte_is_survived_or_an_error(at: int, value: int) -> None:
    image = bytearray(bytes(Image(needed=["libc.so.6"], defined=["init"])))
    image[at % len(image)] = value
    with suppress(ElfError):  # and nothing else
        assert len(rewritten(bytes(image), "liba.so")) > len(image)


# -- real libraries --------------------------------------------------------------------------------


def real_libraries() -> list[Path]:
    """Whatever this interpreter has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sorted({Path(line.split(None, 5)[5]) for line in lines if ".so" in line})


LOAD = """
import ctypes, sys
print(ctypes.CDLL(sys.argv[1]).adler32(1, b"abc", 3), open("/proc/self/maps").read())
"""


def load(module: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: what is mapped there once is found again by its name."""
    command = [sys.executable, "-c", LOAD, str(module)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_loader_finds_what_was_added_and_only_there(tmp_path: Path) -> None:
    zlib = next(path for path in real_libraries() if path.name.startswith("libz.so"))
    helper, module = tmp_path / "lib/only-here.so", tmp_path / "module.so"
    helper.parent.mkdir()
    for target, needed in ((helper, ()), (module, ("only-here.so",))):
        with zlib.open("rb") as file:
            target.write_bytes(rewrite(file, RPATH, needed))
    done = load(module)
    assert done.stdout.startswith(str(0x024D0127)), done.stderr
    assert str(helper) in done.stdout
    helper.unlink()
    assert "only-here.so" in load(module).stderr


def test_readelf_accepts_real_libraries(tmp_path: Path) -> None:
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    libraries = real_libraries()
    assert libraries
    for path in libraries:
        with path.open("rb") as file:
            (tmp_path / "x.so").write_bytes(rewrite(file, RPATH, ["libadded.so.1"]))
        done = subprocess.run(
            ["readelf", "--wide", "--all", tmp_path / "x.so"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        assert "[libadded.so.1]" in done.stdout
        assert f"Library rpath: [{RPATH}]" in done.stdout
