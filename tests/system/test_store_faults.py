# SPDX-License-Identifier: Apache-2.0
"""The store on file systems that are full, read-only, or not those of the modules."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from holdover.errors import CommandError, HoldoverError, StoreError
from holdover.held import HeldFile, Lease, Purpose, Snapshot
from holdover.identity import ProcessId
from holdover.run import run
from holdover.store import Store

pytestmark = pytest.mark.system

ID = "qemu-aaaaaaaaaaaa"


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    """A file system of its own; the test is skipped where none can be mounted."""
    directory.mkdir(parents=True)
    try:
        run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory))
    except CommandError as error:
        pytest.skip(str(error))
    try:
        yield directory
    finally:
        run("umount", "--lazy", str(directory))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """On a file system of 64 KiB, with its manifests and leases elsewhere."""
    before = os.umask(0o022)
    with mounted(tmp_path / "usr", "size=64k,mode=755") as objects:
        yield Store(objects, tmp_path / "var", tmp_path / "run")
    os.umask(before)


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "modules" / "block-rbd.so"
    path.parent.mkdir()
    path.write_bytes(b"module" * 100)
    os.utime(path, ns=(1_000_000_007, 1_000_000_007))
    return path


def held(store: Store, origin: Path) -> HeldFile:
    with store.writing(0), store.staging() as staging:
        file = staging.hold(origin.name, origin)
        created = "2026-11-23T10:00:00Z"
        files = (file,)
        store.commit(staging, Snapshot(ID, Purpose.HOLD, "qemu", "", "", "", created, files, ()))
        return file


def assert_nothing_is_left(store: Store, origin: Path) -> None:
    assert store.holdings() == ()
    assert [path for path in store.objects.rglob("*") if path.parent != store.objects] == []
    assert [path for path in store.state.rglob("*") if path.is_file()] == []
    assert origin.stat().st_nlink == 1


def test_file_of_another_file_system_is_held_by_a_copy(store: Store, origin: Path) -> None:
    origin.chmod(0o640)
    assert held(store, origin).how == "copy"
    (holding,) = store.holdings()
    copy = holding.view / origin.name
    assert (holding.damage, store.damage(holding)) == ("", "")
    assert copy.read_bytes() == origin.read_bytes()
    assert copy.stat().st_mode == origin.stat().st_mode
    assert copy.stat().st_mtime_ns == origin.stat().st_mtime_ns
    assert store.bytes_held((holding,)) == {ID: copy.stat().st_blocks * 512}


def test_copy_does_not_care_what_happens_to_its_origin(store: Store, origin: Path) -> None:
    held(store, origin)
    origin.write_bytes(b"something else")
    (holding,) = store.holdings()
    assert (holding.damage, store.damage(holding)) == ("", "")


def test_set_id_file_of_another_file_system_is_not_held(store: Store, origin: Path) -> None:
    origin.chmod(0o4755)
    with pytest.raises(StoreError, match="set-id"):
        held(store, origin)
    assert_nothing_is_left(store, origin)


def test_fifo_of_another_file_system_is_refused_without_waiting_for_it(
    store: Store, tmp_path: Path
) -> None:
    fifo = tmp_path / "block-odd.so"
    os.mkfifo(fifo)

    def waited(_signal: int, _frame: FrameType | None) -> None:
        pytest.fail("it was opened, which waits for somebody to write to it")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(2)
    try:
        with pytest.raises(StoreError):
            held(store, fifo)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert_nothing_is_left(store, fifo)


def test_symbolic_link_to_another_file_system_is_refused(
    store: Store, origin: Path, tmp_path: Path
) -> None:
    link = tmp_path / "block-odd.so"
    link.symlink_to(origin)
    with pytest.raises(StoreError):
        held(store, link)
    assert_nothing_is_left(store, origin)


def test_full_file_system_is_named_and_nothing_half_made_is_left(
    store: Store, origin: Path
) -> None:
    origin.write_bytes(b"x" * 128 * 1024)
    with pytest.raises(StoreError, match="No space left") as caught:
        held(store, origin)
    assert "make room" in caught.value.hint
    assert_nothing_is_left(store, origin)


def test_full_file_system_of_the_manifests_leaves_no_view(tmp_path: Path, origin: Path) -> None:
    with mounted(tmp_path / "var", "size=64k,mode=755") as state:
        store = Store(tmp_path / "usr", state, tmp_path / "run")
        with store.writing(0):
            (state / "filler").write_bytes(b"x" * 64 * 1024)
        with pytest.raises(StoreError, match="No space left"):
            held(store, origin)
        (state / "filler").unlink()
        assert store.holdings() == ()
        held(store, origin)
        assert [holding.damage for holding in store.holdings()] == [""]


def test_full_file_system_of_the_leases_leaves_the_leases_that_are_there(tmp_path: Path) -> None:
    with mounted(tmp_path / "run", "size=64k,mode=755") as volatile:
        store = Store(tmp_path / "usr", tmp_path / "var", volatile)
        first = Lease(ProcessId(1, 2), ID, "first", "environment")
        second = Lease(ProcessId(3, 4), ID, "second", "environment")
        with store.writing(0):
            store.add_lease(first)
            with pytest.raises(OSError, match="No space left"):
                (volatile / "filler").write_bytes(b"x" * 64 * 1024)
            with pytest.raises(StoreError, match="No space left"):
                store.add_lease(second)
        assert store.leases() == (first,)


def test_read_only_file_system_is_named_and_can_still_be_read(store: Store, origin: Path) -> None:
    held(store, origin)
    run("mount", "-o", "remount,ro", str(store.objects))
    with pytest.raises(StoreError, match="Read-only") as caught, store.writing(0), store.staging():
        pytest.fail("it was written to")
    assert "writable" in caught.value.hint
    assert [store.damage(holding) for holding in store.holdings()] == [""]


def test_read_only_file_system_is_named_before_anything_was_made(
    store: Store, origin: Path
) -> None:
    run("mount", "-o", "remount,ro", str(store.objects))
    with pytest.raises(StoreError, match="Read-only"):
        held(store, origin)
    assert store.holdings() == ()


def test_file_system_that_becomes_read_only_under_a_writer_is_named(
    store: Store, origin: Path
) -> None:
    def interrupted() -> None:
        with store.writing(0), store.staging() as staging:
            staging.hold(origin.name, origin)
            run("mount", "-o", "remount,ro", str(store.objects))
            staging.add_decoys(("block-ssh",))

    with pytest.raises(HoldoverError, match="Read-only"):
        interrupted()
    assert store.holdings() == ()
    run("mount", "-o", "remount,rw", str(store.objects))
    with store.writing(0):
        assert list((store.objects / "staging").iterdir()) == []


def test_immutable_file_is_held_by_a_copy(tmp_path: Path, origin: Path) -> None:
    store = Store(tmp_path / "usr", tmp_path / "var", tmp_path / "run")
    try:
        run("chattr", "+i", str(origin))
    except CommandError as error:
        pytest.skip(str(error))
    try:
        assert held(store, origin).how in ("copy", "reflink")
    finally:
        run("chattr", "-i", str(origin))
    assert [holding.damage for holding in store.holdings()] == [""]
