# SPDX-License-Identifier: Apache-2.0
"""Letting go errs to keep."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from unit.factories import lease, process, scan, store_below, take, write_modules

from holdover.errors import UnreadableError
from holdover.held import Lease
from holdover.identity import FileId, ProcessId
from holdover.model import Scan, Unreadable
from holdover.steps.collect import Collected, collect
from holdover.store import Store

FIRST, SECOND = "qemu-first", "qemu-second"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Two snapshots, each of a module of its own."""
    before = os.umask(0o022)
    store = store_below(tmp_path / "store")
    origins = write_modules(tmp_path / "modules", "block-rbd", "block-curl")
    with store.writing(0):
        take(store, origins[:1], FIRST)
        take(store, origins[1:], SECOND)
    yield store
    os.umask(before)


@pytest.fixture
def origins(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "modules" / "block-rbd.so", tmp_path / "modules" / "block-curl.so"


def alive(_: Lease) -> bool:
    return True


def dead(_: Lease) -> bool:
    return False


def collected(
    store: Store,
    seen: Scan,
    is_alive: Callable[[Lease], bool | None] = alive,
    *,
    dry_run: bool = False,
) -> Collected:
    with store.writing(0):
        return collect(store, seen, is_alive, dry_run=dry_run)


def ids(store: Store) -> set[str]:
    return {holding.snapshot.id for holding in store.holdings()}


def add(store: Store, *names: str) -> None:
    with store.writing(0):
        for pid, name in enumerate(names, 1):
            store.add_lease(lease(pid, name))


def test_what_nobody_needs_goes_altogether(store: Store, origins: tuple[Path, Path]) -> None:
    done = collected(store, scan())
    assert set(done.snapshots) == {FIRST, SECOND}
    assert (ids(store), list(store.views.iterdir())) == (set(), [])
    assert [origin.stat().st_nlink for origin in origins] == [1, 1]


def test_what_a_live_process_has_a_lease_of_stays(store: Store) -> None:
    add(store, FIRST)
    done = collected(store, scan())
    assert (done.snapshots, done.leases) == ((SECOND,), ())
    assert ids(store) == {FIRST}
    assert store.leases() == (lease(1, FIRST),)


def test_what_only_the_dead_had_a_lease_of_goes_with_the_lease(store: Store) -> None:
    add(store, FIRST, SECOND)
    done = collected(store, scan(), lambda known: known.process.pid == 1)
    assert (done.leases, done.snapshots) == ((lease(2, SECOND),), (SECOND,))
    assert store.leases() == (lease(1, FIRST),)


def test_pid_that_was_used_again_keeps_nothing(store: Store) -> None:
    add(store, FIRST)
    done = collected(store, scan(), lambda known: known.process == ProcessId(1, 999))
    assert FIRST in done.snapshots


def test_one_live_lease_among_dead_ones_is_enough(store: Store) -> None:
    add(store, FIRST, FIRST, FIRST)
    done = collected(store, scan(), lambda known: known.process.pid == 3)
    assert done.snapshots == (SECOND,)
    assert [left.process.pid for left in store.leases()] == [3]


def test_transaction_keeps_what_it_holds_while_it_runs(store: Store) -> None:
    transaction = replace(lease(99, FIRST), name="transaction", delivery="")
    with store.writing(0):
        store.add_lease(transaction)
    assert collected(store, scan()).snapshots == (SECOND,)
    assert collected(store, scan(), dead).snapshots == (FIRST,)


def test_process_that_is_pointed_at_a_view_without_a_lease_keeps_it(store: Store) -> None:
    done = collected(store, scan(process(chosen=(store.views / FIRST,))))
    assert done.snapshots == (SECOND,)


def test_process_that_is_pointed_at_a_view_in_second_place_keeps_it(store: Store) -> None:
    done = collected(store, scan(process(chosen=(Path("/opt"), store.views / FIRST))))
    assert done.snapshots == (SECOND,)


def test_process_that_is_covered_by_a_view_without_a_lease_keeps_it(store: Store) -> None:
    found = (store.views / FIRST).stat()
    done = collected(store, scan(process(covered_by=FileId(found.st_dev, found.st_ino))))
    assert done.snapshots == (SECOND,)


def test_view_that_a_fallback_directory_leads_to_without_a_lease_is_kept(store: Store) -> None:
    done = collected(store, scan(process(fallback=store.views / FIRST)))
    assert done.snapshots == (SECOND,)


def test_view_that_carries_the_mount_of_another_is_kept(store: Store) -> None:
    found = (store.views / SECOND).stat()
    upper = FileId(found.st_dev, found.st_ino)
    done = collected(store, scan(process(covered_by=upper, mounted=frozenset({FIRST}))))
    assert done.snapshots == ()


def test_nothing_goes_while_a_process_cannot_be_read(store: Store) -> None:
    add(store, FIRST, SECOND)
    done = collected(store, scan(unreadable=(Unreadable(7, "no"), Unreadable(8, "no"))), dead)
    assert done == Collected((), (), 0, "2 processes could not be read")
    assert ids(store) == {FIRST, SECOND}
    assert len(store.leases()) == 2


def test_leases_of_the_dead_go_even_if_a_process_cannot_be_read(store: Store) -> None:
    add(store, FIRST, SECOND, SECOND)
    unread = scan(unreadable=(Unreadable(7, "no"),))
    done = collected(store, unread, lambda known: known.process.pid < 3)
    assert done == Collected((lease(3, SECOND),), (), 0)
    assert len(store.leases()) == 2


def test_nothing_goes_if_it_cannot_be_told_who_lives(store: Store) -> None:
    def unknown(known: Lease) -> bool:
        raise UnreadableError(f"process {known.process.pid}: stat cannot be read")

    add(store, FIRST)
    with pytest.raises(UnreadableError):
        collected(store, scan(), unknown)
    assert ids(store) == {FIRST, SECOND}


def test_nothing_goes_while_leases_are_of_another_namespace(store: Store) -> None:
    """Of an earlier run of this container, or of the host: there its process may live."""
    add(store, FIRST, FIRST)
    done = collected(store, scan(), lambda known: None if known.process.pid == 1 else False)
    assert done == Collected((), (), 0, done.kept_because)
    assert done.kept_because.startswith("1 leases are of another pid or time namespace")
    assert "rm /run/holdover/lease/*" in done.kept_because
    assert (ids(store), len(store.leases())) == ({FIRST, SECOND}, 2)


def test_damaged_snapshot_stays_while_it_is_needed_and_goes_when_not(store: Store) -> None:
    for view in (FIRST, SECOND):
        next((store.views / view).glob("block-[cr]*")).unlink()
    add(store, FIRST)
    assert collected(store, scan()).snapshots == (SECOND,)
    assert ids(store) == {FIRST}


def test_view_that_is_gone_does_not_stop_the_collection(store: Store) -> None:
    (store.views / FIRST).rename(store.objects / "gone")
    assert set(collected(store, scan()).snapshots) == {FIRST, SECOND}
    assert ids(store) == set()


@pytest.mark.parametrize("is_alive", [alive, dead])
def test_dry_run_says_the_same_and_changes_nothing(
    store: Store, is_alive: Callable[[Lease], bool | None]
) -> None:
    add(store, FIRST)
    told = collected(store, scan(), is_alive, dry_run=True)
    assert ids(store) == {FIRST, SECOND}
    assert store.leases() == (lease(1, FIRST),)
    assert collected(store, scan(), is_alive) == told


def test_second_collection_finds_nothing_to_do(store: Store) -> None:
    collected(store, scan(), dead)
    assert collected(store, scan(), dead) == Collected((), (), 0)


def test_empty_store_has_nothing_to_collect(tmp_path: Path) -> None:
    assert collected(store_below(tmp_path / "empty"), scan()) == Collected((), (), 0)


# -- bytes -------------------------------------------------------------------------------------


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_nothing_is_freed_while_the_origins_are_there(store: Store) -> None:
    assert collected(store, scan()).bytes_freed == 0


def test_what_only_the_store_held_is_freed(store: Store, origins: tuple[Path, Path]) -> None:
    add(store, FIRST)
    size = on_disk(origins[1])
    for origin in origins:
        origin.unlink()
    assert collected(store, scan()).bytes_freed == size


def shared(store: Store, origin: Path) -> int:
    """Hold `origin` a second time and then only in the store; returns its bytes."""
    with store.writing(0):
        take(store, (origin,), "qemu-third")
    size = on_disk(origin)
    origin.unlink()
    return size


def test_file_that_another_snapshot_still_holds_is_not_freed(
    store: Store, origins: tuple[Path, Path]
) -> None:
    shared(store, origins[0])
    add(store, FIRST)
    done = collected(store, scan())
    assert set(done.snapshots) == {SECOND, "qemu-third"}
    assert done.bytes_freed == 0


def test_file_of_two_snapshots_is_freed_once(store: Store, origins: tuple[Path, Path]) -> None:
    size = shared(store, origins[0])
    assert collected(store, scan()).bytes_freed == size
