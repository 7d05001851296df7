# SPDX-License-Identifier: Apache-2.0
"""Which objects a process has loaded, and what it can map to make that hard to tell."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from unit.elf_images import BASE, PF_R, PF_X, Image, RawSegment
from unit.hosts import Host

from holdover.errors import UnsupportedError
from holdover.loaded import libc, start_up_libraries

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
    with libc(host.proc, PID, maps) as loaded:
        assert loaded.base == maps[1].start - BASE
    assert [at.base for at in start_up_libraries(host.proc, PID, maps, ("libc.so.6",))] == [
        maps[1].start - BASE
    ]


def test_object_that_is_mapped_at_more_places_than_any_loader_maps_is_nowhere(
    host: Host, path: Path
) -> None:
    host.process(PID, path)
    first = host.proc.maps(PID)[1]
    maps = tuple(replace(first, start=first.start + n * 4096) for n in range(60_000))
    with pytest.raises(UnsupportedError, match="no glibc"), libc(host.proc, PID, maps):
        pytest.fail("it was found")


def test_object_with_more_segments_than_any_linker_makes_is_nowhere(host: Host) -> None:
    same = RawSegment(1, PF_R | PF_X, 0, BASE, 1, 1)
    content = bytes(Image(soname="libc.so.6", flags=PF_R | PF_X, extra_segments=[same] * 500))
    host.process(PID, host.write("lib/libc.so.6", content))
    with (
        pytest.raises(UnsupportedError, match="no glibc"),
        libc(host.proc, PID, host.proc.maps(PID)),
    ):
        pytest.fail("it was found")


def test_what_is_mapped_and_is_no_file_is_no_object(host: Host, path: Path) -> None:
    host.process(PID, path)
    path.unlink()
    os.mkfifo(path)
    with (
        pytest.raises(UnsupportedError, match="no glibc"),
        libc(host.proc, PID, host.proc.maps(PID)),
    ):
        pytest.fail("it was found")
