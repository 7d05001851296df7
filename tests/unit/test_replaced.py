# SPDX-License-Identifier: Apache-2.0
"""What is held of files that were replaced since, however it is held."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from unit.factories import holding, snapshot

from holdover.held import HeldFile, Holding
from holdover.replaced import Now, replaced


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    (tmp_path / "lib").mkdir()
    path = tmp_path / "lib/libz.so.1"
    path.write_bytes(b"old")
    return path


def held(origin: Path, how: str) -> Holding:
    """A snapshot of this one file, held like that."""
    view = origin.parents[1] / "view/qemu-aaaaaaaaaaaa"
    view.mkdir(parents=True)
    if how == "link":
        (view / origin.name).hardlink_to(origin)
    else:
        shutil.copy2(origin, view / origin.name)
    file = HeldFile(origin.name, str(origin), 3, origin.stat().st_mtime_ns, "0" * 64, how)
    return replace(holding(snapshot(files=[file])), view=view)


def upgrade(path: Path) -> None:
    """As package managers do: another file takes the name."""
    new = path.with_name("new")
    new.write_bytes(b"new")
    os.utime(new, ns=(1, path.stat().st_mtime_ns + 1))
    new.rename(path)


@pytest.mark.parametrize("how", ["link", "copy", "rewritten", "reflink"])
def test_file_is_told_from_the_moment_it_is_replaced(origin: Path, how: str) -> None:
    kept = held(origin, how)
    assert replaced(kept) == ()
    upgrade(origin)
    (entry,) = replaced(kept)
    assert (entry.held.origin, entry.now) == (str(origin), Now.ANOTHER)
    origin.unlink()
    (entry,) = replaced(kept)
    assert entry.now is Now.GONE


def test_file_of_the_same_time_is_another_all_the_same(origin: Path) -> None:
    kept = held(origin, "link")
    time = origin.stat().st_mtime_ns
    upgrade(origin)
    os.utime(origin, ns=(time, time))
    assert [entry.now for entry in replaced(kept)] == [Now.ANOTHER]


@pytest.mark.parametrize("taken_from", ["qemu-block-extra 1:7.2 (archive)", "mapped by process 7"])
def test_what_was_rescued_is_nowhere_else(origin: Path, taken_from: str) -> None:
    kept = held(origin, "copy")
    (file,) = kept.snapshot.files
    rescued = replace(kept, snapshot=snapshot(files=[replace(file, origin=taken_from)]))
    assert [entry.now for entry in replaced(rescued)] == [Now.GONE]


def test_what_was_taken_over_from_another_snapshot_was_replaced_before(origin: Path) -> None:
    kept = held(origin, "link")
    (file,) = kept.snapshot.files
    inside = replace(file, origin=str(kept.view / file.path))
    again = replace(kept, snapshot=snapshot(files=[inside]))
    assert [entry.now for entry in replaced(again)] == [Now.GONE]
