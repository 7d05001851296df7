# SPDX-License-Identifier: Apache-2.0
"""The store keeps what it was given or nothing, whenever its writer is killed."""

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from unit.factories import (
    STAMP,
    build,
    held_file,
    lease,
    snapshot,
    store_below,
    take,
    write_modules,
)

from holdover import durable, leads, staging
from holdover import store as store_module
from holdover.errors import BusyError, StoreError, UntrustedError
from holdover.held import Purpose
from holdover.identity import ProcessId
from holdover.model import Capture
from holdover.steps.capture import _describe
from holdover.store import Store

ID = "qemu-aaaaaaaaaaaa"
OTHER_ID = "qemu-bbbbbbbbbbbb"
KILLED = 9


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    before = os.umask(0o022)
    yield store_below(tmp_path / "store")
    os.umask(before)


@pytest.fixture
def origins(tmp_path: Path) -> tuple[Path, ...]:
    return write_modules(tmp_path / "modules", "block-rbd", "block-curl")


def held(store: Store, origins: tuple[Path, ...], snapshot_id: str = ID) -> None:
    with store.writing(0):
        take(store, origins, snapshot_id)


def staged(store: Store) -> list[Path]:
    return list((store.objects / "staging").iterdir())


def manifest_of(store: Store, snapshot_id: str = ID) -> Path:
    return store.state / "snapshot" / f"{snapshot_id}.json"


# -- holding -----------------------------------------------------------------------------------


def test_file_is_held_by_a_link_to_its_inode(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    (holding,) = store.holdings()
    assert {file.how for file in holding.snapshot.files} == {"link"}
    assert (holding.view / "block-rbd.so").samefile(origins[0])


def test_what_is_held_outlives_its_origin(store: Store, origins: tuple[Path, ...]) -> None:
    content = origins[0].read_bytes()
    held(store, origins)
    for origin in origins:
        origin.unlink()
    (holding,) = store.holdings()
    assert (holding.damage, store.damage(holding)) == ("", "")
    assert (holding.view / "block-rbd.so").read_bytes() == content


def test_manifest_says_again_what_was_committed(store: Store, origins: tuple[Path, ...]) -> None:
    with store.writing(0):
        committed = take(store, origins)
    (holding,) = store.holdings()
    assert holding.snapshot == committed
    assert holding.snapshot.modules == {"block-rbd", "block-curl"}
    found = holding.view.stat()
    assert holding.view_file is not None
    assert (holding.view_file.device, holding.view_file.inode) == (found.st_dev, found.st_ino)


def test_view_can_be_searched_by_a_process_that_is_not_root(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    assert (store.views / ID).stat().st_mode & 0o777 == 0o755


def test_decoys_are_one_empty_file_under_many_names(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    first, second = (store.views / ID / name for name in ("block-ssh.so", "block-nfs.so"))
    assert first.samefile(second)
    assert first.stat().st_size == 0


def test_snapshot_without_files_and_decoys_is_one_too(store: Store) -> None:
    with store.writing(0):
        take(store, (), decoys=())
    (holding,) = store.holdings()
    assert (holding.damage, list(holding.view.iterdir())) == ("", [])


@pytest.mark.parametrize("bit", [0o4000, 0o2000, 0o6000], ids=["uid", "gid", "both"])
def test_set_id_file_is_never_held(store: Store, origins: tuple[Path, ...], bit: int) -> None:
    origins[0].chmod(0o755 | bit)
    with store.writing(0), pytest.raises(StoreError, match="set-id"):
        take(store, origins)
    assert (store.holdings(), staged(store), list(store.views.iterdir())) == ((), [], [])
    assert origins[0].stat().st_nlink == 1


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_link(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.write_bytes(b"a module")
    path.symlink_to(target)


def make_dangling_link(path: Path) -> None:
    path.symlink_to("/no/such/file")


def make_nothing(path: Path) -> None:
    assert not path.exists()


@pytest.mark.parametrize(
    "make", [make_fifo, make_link, make_dangling_link, Path.mkdir, make_nothing]
)
def test_origin_that_is_no_regular_file_is_refused(
    store: Store, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "block-odd.so")
    with store.writing(0), pytest.raises(StoreError):
        take(store, (tmp_path / "block-odd.so",))
    assert (store.holdings(), staged(store)) == ((), [])


def test_staging_that_is_not_committed_vanishes(store: Store, origins: tuple[Path, ...]) -> None:
    with store.writing(0):
        with store.staging() as staging:
            staging.hold("block-rbd.so", origins[0])
        assert staged(store) == []
    assert store.holdings() == ()
    assert origins[0].stat().st_nlink == 1


# -- committing --------------------------------------------------------------------------------


def test_same_content_of_the_same_build_is_the_same_snapshot() -> None:
    wanted = Capture(build(), Purpose.HOLD, Path("/proc/1/exe"), (), "")
    files = (held_file("block-rbd"),)
    again = (replace(files[0], origin="/elsewhere/block-rbd.so", how="copy", mtime_ns=2),)
    other = (replace(files[0], sha256="1" * 64),)
    first = _describe(wanted, files, ("a",)).id
    assert _describe(wanted, again, ("a",)).id == first
    assert _describe(wanted, other, ("a",)).id != first
    assert _describe(wanted, files, ("a", "b")).id != first
    assert _describe(replace(wanted, build=build("cc")), files, ("a",)).id != first


def test_decoys_that_defuse_are_another_snapshot_than_a_hold_of_nothing() -> None:
    hold = Capture(build(), Purpose.HOLD, Path("/proc/1/exe"), (), "")
    defuse = replace(hold, purpose=Purpose.DEFUSE)
    assert _describe(hold, (), ("a",)).id != _describe(defuse, (), ("a",)).id


def test_commit_keeps_the_snapshot_that_is_there(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    before = (store.views / ID).stat().st_ino, manifest_of(store).stat().st_ino
    held(store, origins)
    assert ((store.views / ID).stat().st_ino, manifest_of(store).stat().st_ino) == before
    assert staged(store) == []
    assert origins[0].stat().st_nlink == 2


def test_damaged_snapshot_stays_where_it_is_and_a_sound_one_gets_another_id(
    store: Store, origins: tuple[Path, ...]
) -> None:
    """Somebody may be pointed at it."""
    held(store, origins)
    (store.views / ID / "block-rbd.so").unlink()
    for _ in range(2):
        held(store, origins)
        damage = {holding.snapshot.id: holding.damage for holding in store.holdings()}
        assert damage == {ID: "block-rbd.so is gone", f"{ID}-2": ""}
    assert (store.views / ID).is_dir()


def test_snapshots_are_listed_oldest_first(store: Store) -> None:
    with store.writing(0):
        for day in ("03", "01", "02"):
            made = replace(snapshot(f"qemu-{day}"), created=f"2026-11-{day}T00:00:00Z")
            with store.staging() as staging:
                store.commit(staging, made)
    assert [h.snapshot.id for h in store.holdings()] == ["qemu-01", "qemu-02", "qemu-03"]


def test_removed_snapshot_leaves_nothing_and_touches_no_origin(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    with store.writing(0):
        store.remove(ID)
    assert store.holdings() == ()
    assert list(store.views.iterdir()) == []
    assert [origin.stat().st_nlink for origin in origins] == [1, 1]


def test_snapshot_whose_view_is_gone_can_be_removed(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    (store.views / ID).rename(store.objects / "gone")
    assert store.holdings()[0].damage == "its view is gone"
    with store.writing(0):
        store.remove(ID)
    assert store.holdings() == ()


# -- killed at any moment ----------------------------------------------------------------------

WATCHED = {module.__file__ for module in (durable, leads, staging, store_module)}
CHANGES = ("open", "os.", "shutil.", "tempfile.")
"""Audit events of what changes files; see the table of audit events in Python's library."""


def in_child(action: Callable[[], None], at_event: Callable[[str, tuple[Any, ...]], None]) -> int:
    """Exit code of a child that does `action` and tells `at_event` each step of it."""
    child = os.fork()
    if child == 0:
        try:
            _watch(at_event)
            action()
            os._exit(0)
        except BaseException:
            sys.settrace(None)
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _watch(at_event: Callable[[str, tuple[Any, ...]], None]) -> None:
    """Each line of the store, and inside of it each call that touches a file."""

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line":
            at_event("line", ())
        return trace

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event.startswith(CHANGES):
            at_event(event, args)

    sys.addaudithook(audit)
    sys.settrace(trace)


def killed_after(steps: int, action: Callable[[], None]) -> bool:
    """Do `action` in a child that dies after so many steps; False if it came to its end."""
    left = [steps]

    def count(_event: str, _args: tuple[Any, ...]) -> None:
        if left[0] == 0:
            os._exit(KILLED)
        left[0] -= 1

    code = in_child(action, count)
    assert code in (0, KILLED)
    return code == KILLED


def crashes(
    directory: Path, prepare: Callable[[Store], None], act: Callable[[Store], None]
) -> Iterator[Store]:
    """One store for each step at which the writer can die."""
    steps = 0
    while True:
        store = store_below(directory / str(steps))
        prepare(store)
        killed = killed_after(steps, lambda store=store: act(store))  # type: ignore[misc]
        yield store
        if not killed:
            break
        steps += 1
    assert steps > 20  # else the steps were not seen


def assert_all_or_nothing(store: Store, origins: tuple[Path, ...]) -> None:
    """What a reader finds, whether the next writer has come or not."""
    holdings = store.holdings()
    for holding in holdings:
        assert (holding.damage, store.damage(holding)) == ("", "")
        assert holding.snapshot.modules == {origin.stem for origin in origins}
        decoys = {f"{name}.so" for name in holding.snapshot.decoys}
        names = {origin.name for origin in origins}
        assert {path.name for path in holding.view.iterdir()} == decoys | names


def assert_swept(store: Store, origins: tuple[Path, ...]) -> None:
    """What the next writer leaves of it."""
    with store.writing(0):
        assert_all_or_nothing(store, origins)
        ids = {holding.snapshot.id for holding in store.holdings()}
        assert {view.name for view in store.views.iterdir()} == ids
        assert staged(store) == []
        assert {origin.stat().st_nlink for origin in origins} == {1 + len(ids)}


def nothing(store: Store) -> None:
    assert not store.objects.exists()


def test_writer_killed_while_it_holds_leaves_the_snapshot_or_nothing(tmp_path: Path) -> None:
    seen = set()
    names = ("block-rbd", "block-curl")
    origins = write_modules(tmp_path / "modules", *names)
    for store in crashes(tmp_path, nothing, lambda store: held(store, origins)):
        assert_all_or_nothing(store, origins)
        assert_swept(store, origins)
        seen.add(len(store.holdings()))
        with store.writing(0):
            take(store, origins)  # whatever was left is no obstacle
        assert len(store.holdings()) == 1
        with store.writing(0):
            store.remove(ID)
    assert seen == {0, 1}


def test_writer_killed_while_it_removes_leaves_the_snapshot_or_nothing(tmp_path: Path) -> None:
    seen = set()
    origins = write_modules(tmp_path / "modules", "block-rbd", "block-curl")

    def remove(store: Store) -> None:
        with store.writing(0):
            store.remove(ID)

    for store in crashes(tmp_path, lambda store: held(store, origins), remove):
        assert_all_or_nothing(store, origins)
        assert_swept(store, origins)
        seen.add(len(store.holdings()))
        if store.holdings():
            remove(store)
    assert seen == {0, 1}


def test_writer_killed_while_it_leases_leaves_the_lease_or_nothing(tmp_path: Path) -> None:
    seen = set()

    def add(store: Store) -> None:
        with store.writing(0):
            store.add_lease(lease())

    for store in crashes(tmp_path, nothing, add):
        assert store.leases() in ((), (lease(),))
        seen.add(len(store.leases()))
        add(store)
        assert store.leases() == (lease(),)
    assert seen == {0, 1}


def test_next_writer_removes_half_written_manifests_and_leases(tmp_path: Path) -> None:
    origins = write_modules(tmp_path / "modules", "block-rbd")

    def act(store: Store) -> None:
        held(store, origins)
        store.add_lease(lease())

    for store in crashes(tmp_path, nothing, act):
        with store.writing(0):
            left = [*store.state.rglob(".*.new"), *store.run.rglob(".*.new")]
        assert left == []


# -- one writer, any number of readers ---------------------------------------------------------


def test_second_writer_is_refused_and_takes_nothing_from_the_first(
    store: Store, origins: tuple[Path, ...]
) -> None:
    with store.writing(0), store.staging() as staging:
        file = staging.hold("block-rbd.so", origins[0])
        with pytest.raises(BusyError), store.writing(0):
            pytest.fail("two writers at once")
        store.commit(staging, snapshot(ID, (file,)))
    assert store.damage(store.holdings()[0]) == ""


def test_lock_ends_with_the_writer_even_if_that_fails(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), store.writing(0):
        raise ZeroDivisionError
    with store.writing(0):
        assert store.holdings() == ()


def test_lock_ends_with_a_writer_that_is_killed(store: Store) -> None:
    def die() -> None:
        with store.writing(0):
            os._exit(KILLED)

    assert in_child(die, lambda *_: None) == KILLED
    with store.writing(0):
        assert store.leases() == ()


def test_writers_are_at_work_during_a_rescue_and_leave_its_directory_alone(store: Store) -> None:
    with store.rescuing(0) as place:
        (place / "package.deb").touch()
        with store.writing(0):
            pass
        assert (place / "package.deb").exists()
        assert place.stat().st_mode & 0o777 == 0o755
    assert list((store.objects / "rescue").iterdir()) == []


def test_directory_of_a_killed_rescue_goes_with_the_next_writer(store: Store) -> None:
    child = os.fork()
    if child == 0:
        with store.rescuing(0) as place:
            (place / "package.deb").touch()
            os._exit(KILLED)
    os.waitpid(child, 0)
    assert list((store.objects / "rescue").glob("*/package.deb"))
    with store.writing(0):
        assert list((store.objects / "rescue").iterdir()) == []


def test_rescue_that_ends_while_a_writer_looks_is_in_nobodys_way(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends_now(directory: Path) -> Iterator[Path]:
        yield from listed(directory)
        if directory.name == "rescue":
            yield directory / "it was here a moment ago"

    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", ends_now)
    with store.writing(0):
        pass


def test_readers_need_no_lock(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    with store.writing(0):
        store.add_lease(lease())
        assert len(store.holdings()) == 1
        assert len(store.leases()) == 1
        assert store.damage(store.holdings()[0]) == ""


def test_reader_needs_no_store_at_all(store: Store) -> None:
    assert (store.holdings(), store.leases(), store.bytes_held(())) == ((), (), {})
    assert not store.objects.exists()


def test_snapshot_that_is_removed_while_a_reader_looks_is_no_error(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)

    def remove_it(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[0]) == str(manifest_of(store)):
            manifest_of(store).unlink(missing_ok=True)

    def read() -> None:
        assert store.holdings() == ()

    assert in_child(read, remove_it) == 0


def test_lease_that_is_dropped_while_a_reader_looks_is_no_error(store: Store) -> None:
    with store.writing(0):
        store.add_lease(lease())

    def drop_it(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and "lease" in str(args[0]):
            Path(args[0]).unlink(missing_ok=True)

    def read() -> None:
        assert store.leases() == ()

    assert in_child(read, drop_it) == 0


# -- leases ------------------------------------------------------------------------------------


def test_leases_are_added_and_dropped_one_by_one(store: Store) -> None:
    first, second, third = lease(1), lease(2), lease(1, OTHER_ID)
    with store.writing(0):
        for added in (second, first, third):
            store.add_lease(added)
        assert store.leases() == (first, third, second)
        store.drop_lease(first)
        assert store.leases() == (third, second)


def test_adding_and_dropping_a_lease_twice_is_the_same_as_once(store: Store) -> None:
    with store.writing(0):
        store.add_lease(lease())
        store.add_lease(lease())
        assert store.leases() == (lease(),)
        store.drop_lease(lease())
        store.drop_lease(lease())
        assert store.leases() == ()


def test_lease_of_a_pid_used_again_is_another_one(store: Store) -> None:
    with store.writing(0):
        store.add_lease(lease(start_time=1))
        store.add_lease(lease(start_time=2))
        store.drop_lease(lease(start_time=1))
        assert store.leases() == (lease(start_time=2),)


@pytest.mark.parametrize("name", ["", 'quo"te', "../../etc", "new\nline", "\udcff", "ü" * 1000])
def test_lease_keeps_whatever_name_a_guest_has(store: Store, name: str) -> None:
    with store.writing(0):
        store.add_lease(replace(lease(), name=name))
        assert [found.name for found in store.leases()] == [name]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"process": 1}',
        '{"process": {"pid": 1}}',
        '{"process": {"pid": 1, "start_time": 2}, "snapshot": "x", "name": "y"}',
        "\0",
        "[" * 100_000,
    ],
    ids=range(10),
)
def test_lease_that_is_damaged_is_one_all_the_same(store: Store, text: str) -> None:
    """What counts is in its name."""
    with store.writing(0):
        (store.run / "lease" / "1-2-x").write_text(text)
        (found,) = store.leases()
        assert (found.process, found.snapshot) == (ProcessId(1, 2), "x")


# -- damage ------------------------------------------------------------------------------------


def damage_of_unknown(store: Store) -> str:
    """Of one whose manifest tells nothing: it is kept, and no build is said to be its own."""
    (holding,) = store.holdings()
    assert (holding.snapshot.id, holding.snapshot.build_id, holding.view_file) == (ID, "", None)
    return holding.damage


def test_manifest_that_is_cut_off_anywhere_is_damaged(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    whole = manifest_of(store).read_bytes()
    for length in range(len(whole)):
        manifest_of(store).write_bytes(whole[:length])
        assert damage_of_unknown(store) != ""
    manifest_of(store).write_bytes(whole)
    assert len(store.holdings()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "holdover.snapshot/99"},
        {"schema": None},
        {"files": None},
        {"files": 7},
        {"files": ["block-rbd.so"]},
        {"files": [{"path": "block-rbd.so"}]},
        {"purpose": "keep"},
        {"decoys": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_manifest_that_says_something_else_is_damaged(
    store: Store, origins: tuple[Path, ...], change: dict[str, object]
) -> None:
    held(store, origins)
    data = json.loads(manifest_of(store).read_text())
    manifest_of(store).write_text(json.dumps(data | change))
    assert damage_of_unknown(store) != ""


LATER = {"unheld", "library_path"}


def test_manifest_from_before_libraries_were_held_is_sound(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    data = json.loads(manifest_of(store).read_text())
    for key in LATER:
        del data[key]
    manifest_of(store).write_text(json.dumps(data))
    assert store.holdings()[0].damage == ""


@pytest.mark.parametrize("key", sorted({*snapshot().__dataclass_fields__, "schema"} - LATER))
def test_manifest_that_lacks_something_is_damaged(
    store: Store, origins: tuple[Path, ...], key: str
) -> None:
    held(store, origins)
    data = json.loads(manifest_of(store).read_text())
    del data[key]
    manifest_of(store).write_text(json.dumps(data))
    assert damage_of_unknown(store) != ""


def test_damaged_manifest_is_no_leave_to_sweep_the_view(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    manifest_of(store).write_text("{")
    with store.writing(0):
        assert (store.views / ID / "block-rbd.so").exists()


def test_file_that_was_written_to_is_told_by_its_size(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    with origins[0].open("ab") as file:
        file.write(b"!")
    assert store.holdings()[0].damage.startswith("block-rbd.so was written to")


def test_file_that_was_written_to_is_told_by_its_time(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    os.utime(origins[0], ns=(0, 0))
    assert store.holdings()[0].damage.startswith("block-rbd.so was written to")


def test_file_that_was_written_to_behind_its_times_is_told_by_reading_it(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    found = origins[0].stat()
    with origins[0].open("r+b") as file:
        file.write(b"!")
    os.utime(origins[0], ns=(found.st_atime_ns, found.st_mtime_ns))
    (holding,) = store.holdings()
    assert holding.damage == ""
    assert store.damage(holding).startswith("block-rbd.so is not what was captured")


def test_file_that_is_gone_from_the_view_is_damage(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    (store.views / ID / "block-curl.so").unlink()
    (holding,) = store.holdings()
    assert holding.damage == "block-curl.so is gone"
    assert "block-curl.so" in store.damage(holding)


def test_file_that_became_another_kind_is_damage(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    path = store.views / ID / "block-curl.so"
    path.unlink()
    path.mkdir()
    assert store.holdings()[0].damage != ""


# -- rehearsals --------------------------------------------------------------------------------


def failure(store: Store) -> str:
    (holding,) = store.holdings()
    return holding.rehearsal_failure


@pytest.fixture
def failed(store: Store, origins: tuple[Path, ...]) -> Path:
    """The record that the one snapshot failed its rehearsal."""
    held(store, origins)
    with store.writing(0):
        store.record_rehearsal(ID, "block-rbd fails")
    return store.state / "rehearsal" / f"{ID}.json"


def test_failure_is_known_until_the_next_rehearsal(store: Store, failed: Path) -> None:
    assert failure(store) == "block-rbd fails"
    for text in ("block-curl fails", "", ""):
        with store.writing(0):
            store.record_rehearsal(ID, text)
        assert failure(store) == text
    assert not failed.exists()


def test_snapshot_that_was_never_rehearsed_has_not_failed(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    assert failure(store) == ""


def test_failure_goes_with_its_snapshot(store: Store, failed: Path) -> None:
    with store.writing(0):
        store.remove(ID)
    assert not failed.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": "x", "failure": "y"}'])
def test_record_that_cannot_be_read_is_no_good_news(store: Store, failed: Path, text: str) -> None:
    failed.write_text(text)
    assert failure(store) != ""


def test_writer_killed_while_it_removes_leaves_no_record_to_the_next(tmp_path: Path) -> None:
    origins = write_modules(tmp_path / "modules", "block-rbd")
    seen = set()

    def prepare(store: Store) -> None:
        held(store, origins)
        with store.writing(0):
            store.record_rehearsal(ID, "block-rbd fails")

    def remove(store: Store) -> None:
        with store.writing(0):
            store.remove(ID)

    for store in crashes(tmp_path, prepare, remove):
        with store.writing(0):
            left = {path.stem for path in (store.state / "rehearsal").iterdir()}
        assert left == {holding.snapshot.id for holding in store.holdings()}
        seen.add(len(left))
        if left:
            remove(store)
    assert seen == {0, 1}


def test_record_that_was_half_written_is_swept(store: Store, failed: Path) -> None:
    half = failed.with_name(f".{failed.name}.new")
    half.touch()
    with store.writing(0):
        assert not half.exists()
    assert failure(store) == "block-rbd fails"


# -- trust -------------------------------------------------------------------------------------

PARTS = (
    *("usr", "usr/view", "usr/staging", "var", "var/snapshot", "var/rehearsal"),
    *("run", "run/lease"),
)


@pytest.fixture
def part(store: Store, request: pytest.FixtureRequest) -> Path:
    """One directory of a store that was used before."""
    with store.writing(0):
        pass
    return store.objects.parent / str(request.param)


@pytest.mark.parametrize("part", PARTS, indirect=True)
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o757])
def test_store_that_others_can_write_to_is_not_used(store: Store, part: Path, mode: int) -> None:
    part.chmod(mode)
    with pytest.raises(UntrustedError, match=f"{part} can be written by others"), store.writing(0):
        pytest.fail("it was used")


@pytest.mark.parametrize("part", PARTS, indirect=True)
def test_store_that_belongs_to_somebody_else_is_not_used(store: Store, part: Path) -> None:
    try:
        os.chown(part, 65534, 65534)
    except PermissionError as error:
        pytest.skip(f"cannot give a directory away: {error}")
    with pytest.raises(UntrustedError, match=str(part)), store.writing(0):
        pytest.fail("it was used")


def test_store_below_a_directory_of_somebody_else_is_not_used(store: Store) -> None:
    """He may put another in its place."""
    below = replace(store, objects=store.objects.parent / "his" / "holdover")
    below.objects.mkdir(parents=True)
    below.objects.parent.chmod(0o777)
    with pytest.raises(UntrustedError, match="his: others can write to it"), below.writing(0):
        pytest.fail("it was used")


@pytest.mark.parametrize("part", PARTS, indirect=True)
def test_store_behind_a_symbolic_link_is_not_used(store: Store, part: Path) -> None:
    part.rename(part.with_name("elsewhere"))
    part.symlink_to(part.with_name("elsewhere"))
    with pytest.raises(UntrustedError, match=str(part)), store.writing(0):
        pytest.fail("it was used")


@pytest.mark.parametrize("part", PARTS, indirect=True)
def test_store_with_a_file_in_its_place_cannot_be_used(store: Store, part: Path) -> None:
    part.rename(part.with_name("elsewhere"))
    part.touch()
    with pytest.raises(StoreError), store.writing(0):
        pytest.fail("it was used")


# -- bytes -------------------------------------------------------------------------------------


def on_disk(*paths: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in paths)


def test_holding_costs_nothing_while_the_origins_exist(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    assert store.bytes_held(store.holdings()) == {ID: 0}


def test_file_is_counted_once_its_origin_is_gone(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    origins[0].unlink()
    assert store.bytes_held(store.holdings()) == {ID: on_disk(store.views / ID / "block-rbd.so")}


def test_file_of_two_snapshots_is_counted_for_each_when_only_they_hold_it(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins[:1])
    held(store, origins[:1], OTHER_ID)
    assert store.bytes_held(store.holdings()) == {ID: 0, OTHER_ID: 0}
    origins[0].unlink()
    size = on_disk(store.views / ID / "block-rbd.so")
    assert store.bytes_held(store.holdings()) == {ID: size, OTHER_ID: size}


def test_file_under_two_names_is_counted_once(store: Store, origins: tuple[Path, ...]) -> None:
    second = origins[0].with_name("block-alias.so")
    second.hardlink_to(origins[0])
    held(store, (origins[0], second))
    origins[0].unlink()
    second.unlink()
    assert store.bytes_held(store.holdings()) == {ID: on_disk(store.views / ID / "block-rbd.so")}


def test_damaged_snapshot_can_still_be_counted(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    (store.views / ID / "block-rbd.so").unlink()
    assert store.bytes_held(store.holdings()) == {ID: 0}


def test_stamp_of_the_build_is_kept(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    assert store.holdings()[0].snapshot.stamp == STAMP


# -- directories of `holdover run` -------------------------------------------------------------


PLACE = "qemu-abcd"


def test_place_leads_to_a_view_in_whatever_root_it_is_seen(
    store: Store, origins: tuple[Path, ...]
) -> None:
    held(store, origins)
    place = store.leads.directory / PLACE
    assert store.leads.view(place) is None
    with store.writing(0):
        store.leads.lead(place, store.views / ID)
    assert (place.readlink(), store.leads.view(place)) == (Path(f"../view/{ID}"), store.views / ID)
    assert place.samefile(store.views / ID)


def test_place_goes_with_its_snapshot_and_no_other(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    held(store, origins[:1], OTHER_ID)
    places = {store.leads.directory / name: of for name, of in (("a", ID), ("b", OTHER_ID))}
    with store.writing(0):
        for place, of in places.items():
            store.leads.lead(place, store.views / of)
        store.remove(ID)
    assert [path.name for path in store.leads.directory.iterdir()] == ["b"]


def test_place_that_leads_nowhere_is_swept(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    place = store.leads.directory / PLACE
    half = store.leads.directory / f".{PLACE}.new"
    with store.writing(0):
        store.leads.lead(place, store.views / ID)
        half.symlink_to("../view/nowhere")
    manifest_of(store).unlink()
    with store.writing(0):
        assert list(store.leads.directory.iterdir()) == []


def test_writer_killed_while_it_leads_leaves_the_earlier_view_or_the_next(tmp_path: Path) -> None:
    seen = set()
    origins = write_modules(tmp_path / "modules", "block-rbd", "block-curl")

    def lead(store: Store, to: str) -> None:
        with store.writing(0):
            store.leads.lead(store.leads.directory / PLACE, store.views / to)

    def prepare(store: Store) -> None:
        held(store, origins)
        held(store, origins[:1], OTHER_ID)
        lead(store, ID)

    for store in crashes(tmp_path, prepare, lambda store: lead(store, OTHER_ID)):
        view = store.leads.view(store.leads.directory / PLACE)
        assert view is not None
        assert (store.leads.directory / PLACE).samefile(view)
        seen.add(view.name)
        with store.writing(0):
            assert [path.name for path in store.leads.directory.iterdir()] == [PLACE]
    assert seen == {ID, OTHER_ID}


# -- what is damaged, or is not ours ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"2026-11-23T10:00:00Z"', "5"),
        ('"2026-11-23T10:00:00Z"', '"soon"'),
        ('"2026-11-23T10:00:00Z"', '"2026-11-23T10:00:00"'),
        (f'"{ID}"', '"../../../etc"'),
        ('"block-rbd.so"', '"../x"'),
        ('"block-rbd.so"', '"/etc/passwd"'),
        ('"block-rbd.so"', '"a\\u0000b"'),
        ('"block-rbd.so"', '"\\ud800"'),
        ('"block-rbd.so"', "null"),
        ('"link"', "[]"),
        ('"size": ', '"size": 1.5, "unknown": '),
        ('"block-ssh"', "17"),
    ],
)
def test_manifest_with_a_value_that_makes_no_sense_harms_no_other(
    store: Store, origins: tuple[Path, ...], old: str, new: str
) -> None:
    held(store, origins)
    held(store, origins, OTHER_ID)
    manifest = manifest_of(store)
    assert old in manifest.read_text()
    manifest.write_text(manifest.read_text().replace(old, new, 1))
    damage = {holding.snapshot.id: holding.damage for holding in store.holdings()}
    assert damage[OTHER_ID] == ""
    assert str(manifest) in damage[ID]


def test_manifest_that_has_no_end_is_not_read(store: Store, origins: tuple[Path, ...]) -> None:
    held(store, origins)
    os.truncate(manifest_of(store), 1 << 40)
    (holding,) = store.holdings()
    assert "too long" in holding.damage


def test_what_has_no_name_of_a_lease_is_none(store: Store) -> None:
    with store.writing(0):
        store.add_lease(lease())
        for name in ("1x-2-y", "1-2z-y", "1_0-2-y", f"{'1' * 100}-2-y"):
            (store.run / "lease" / name).touch()
        assert store.leases() == (lease(),)
