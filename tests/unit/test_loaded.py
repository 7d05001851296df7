# SPDX-License-Identifier: Apache-2.0
"""Which objects a process has loaded, and what it can map to make that hard to tell."""

import os
from pathlib import Path

import pytest
from unit.elf_images import BASE, PF_R, PF_X, Image, RawSegment
from unit.hosts import Host

from holdover.errors import UnsupportedError
from holdover.identity import FileId
from holdover.loaded import is_loaded, libc, mapped_objects, start_up_libraries
from holdover.procfs import parse_maps

PID = 4711


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def path(host: Host) -> Path:
    """A libc of one segment, as it is mapped."""
    return host.library("libc.so.6", flags=PF_R | PF_X)


def test_libc_is_where_its_segment_is_mapped(host: Host, path: Path) -> None:
    host.process(PID, path)
    maps = host.proc.maps(PID)
    assert libc(host.proc, PID, maps).base == maps[1].start - BASE
    assert [at.base for at in start_up_libraries(host.proc, PID, maps, ("libc.so.6",))] == [
        maps[1].start - BASE
    ]


def test_object_that_is_mapped_at_more_places_than_any_loader_maps_is_nowhere(
    host: Host, path: Path
) -> None:
    host.process(PID, path)
    first = host.proc.maps(PID)[1]
    maps = tuple(first._replace(start=first.start + n * 4096) for n in range(60_000))
    with pytest.raises(UnsupportedError, match="no glibc"):
        libc(host.proc, PID, maps)


def test_object_with_more_segments_than_any_linker_makes_is_nowhere(host: Host) -> None:
    same = RawSegment(1, PF_R | PF_X, 0, BASE, 1, 1)
    content = bytes(Image(soname="libc.so.6", flags=PF_R | PF_X, extra_segments=[same] * 500))
    host.process(PID, host.write("lib/libc.so.6", content))
    with pytest.raises(UnsupportedError, match="no glibc"):
        libc(host.proc, PID, host.proc.maps(PID))


def test_what_is_mapped_and_is_no_file_is_no_object(host: Host, path: Path) -> None:
    host.process(PID, path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UnsupportedError, match="no glibc"):
        libc(host.proc, PID, host.proc.maps(PID))


MAPS = """\
10000-11000 r--p 00000000 08:01 1 /usr/lib/libq.so.1
11000-12000 r-xp 00001000 08:01 1 /usr/lib/libq.so.1
20000-21000 r--p 00000000 08:01 2 /usr/lib/libicudata.so.72.1 (deleted)
21000-22000 r--p 00001000 08:01 2 /usr/lib/libicudata.so.72.1 (deleted)
30000-31000 r--p 00000000 08:01 3 /usr/lib/locale/index.sorted
40000-41000 r-xp 00000000 08:01 4 /usr/bin/program
50000-51000 r-xp 00000000 00:00 0 [vdso]
"""


def test_each_object_is_told_once_by_its_code_or_else_by_its_name() -> None:
    found = [(first.start, len(own)) for first, own in mapped_objects(parse_maps(MAPS))]
    assert found == [(0x11000, 2), (0x20000, 2), (0x40000, 1)]


@pytest.mark.parametrize(
    ("flags", "file", "expected"),
    [(PF_R | PF_X, 1, True), (PF_R, 2, True), (PF_R | PF_X, 2, False)],
    ids=["code", "nothing but data", "mapped to be read"],
)
def test_object_with_code_is_loaded_only_if_its_code_is_mapped(
    host: Host, flags: int, file: int, expected: bool
) -> None:
    own = [m for m in parse_maps(MAPS) if m.file == FileId(os.makedev(8, 1), file)]
    with host.library("libq.so.1", flags=flags).open("rb") as content:
        assert is_loaded(own, content) == expected
