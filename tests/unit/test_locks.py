# SPDX-License-Identifier: Apache-2.0
"""Locks that are waited for, that somebody removes, that one who hangs holds; and a hook's time."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from unit.factories import store_below

from holdover.cli import budget, glance, transactions
from holdover.cli.listing import Listing
from holdover.cli.transactions import mark, marked, unmark
from holdover.errors import BudgetError, BusyError
from holdover.identity import ProcessId
from holdover.locks import take, take_file
from holdover.packages import Change, aptlist
from holdover.procfs import ProcFs

FOREVER = 20.0  # seconds; nothing here takes as long unless it fails


@contextmanager
def held(path: Path) -> Iterator[None]:
    lock = os.open(path, os.O_RDONLY)
    take(lock, 0)
    try:
        yield
    finally:
        os.close(lock)


# -- the store's lock ------------------------------------------------------------------------------


def test_lock_is_waited_for_as_long_as_asked(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.touch()
    with held(lock), pytest.raises(BusyError, match="another holdover is at work") as caught:
        take_file(lock, time.monotonic() + 0.05)
    assert caught.value.hint == "try again when it has finished"
    free = threading.Event()

    def hold() -> None:
        with held(lock):
            free.set()
            time.sleep(0.05)

    holder = threading.Thread(target=hold)
    holder.start()
    free.wait()
    taken = take_file(lock, time.monotonic() + FOREVER)
    holder.join()
    assert taken is not None
    os.close(taken)


@pytest.mark.parametrize("others", [False, True])
def test_lock_that_was_removed_while_it_was_waited_for_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: bool
) -> None:
    lock = tmp_path / "lock"

    def removed_meanwhile(_lock: int, _deadline: float) -> None:
        lock.unlink()
        if others:
            lock.touch()  # the next one made his

    monkeypatch.setattr("holdover.locks.take", removed_meanwhile)
    assert take_file(lock, 0) is None


def test_writer_whose_lock_was_removed_with_its_directory_is_alone_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, removals = store_below(tmp_path), [store_below(tmp_path).run]

    def removed_once(lock: int, deadline: float) -> None:
        while removals:
            shutil.rmtree(removals.pop())
        take(lock, deadline)

    monkeypatch.setattr("holdover.locks.take", removed_once)
    with store.writing(0):
        assert removals == []
        with pytest.raises(BusyError), store.writing(0):
            pytest.fail("there are two writers")


# -- the marker of transactions --------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "run/transaction"


@pytest.fixture
def all_live(monkeypatch: pytest.MonkeyPatch) -> ProcFs:
    monkeypatch.setattr(ProcFs, "is_alive", lambda *_: True)
    return ProcFs()


def at_once(monkeypatch: pytest.MonkeyPatch, *changes: Callable[[], None]) -> None:
    """Each has read the marker before one of them writes, if nothing keeps them from it."""
    read, everybody = marked, threading.Barrier(len(changes))

    def read_and_wait(marker: Path) -> tuple[ProcessId, ...]:
        found = read(marker)
        with suppress(threading.BrokenBarrierError):
            everybody.wait(0.1)
        return found

    monkeypatch.setattr(transactions, "marked", read_and_wait)
    threads = [threading.Thread(target=change) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_transactions_that_begin_at_the_same_moment_are_both_marked(
    marker: Path, all_live: ProcFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = ProcessId(1, 1), ProcessId(2, 2)
    at_once(monkeypatch, *(lambda each=each: mark(each, all_live, marker) for each in (one, other)))
    assert set(marked(marker)) == {one, other}


def test_transaction_that_begins_as_another_ends_stays_marked(
    marker: Path, all_live: ProcFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its last hook would not be run, and who started meanwhile would not be protected."""
    ours, other = all_live.identity(os.getppid()), ProcessId(2, 2)
    mark(ours, all_live, marker)
    at_once(
        monkeypatch,
        lambda: unmark(all_live, marker),
        lambda: mark(other, all_live, marker),
    )
    assert marked(marker) == (other,)


def test_hook_that_is_halted_as_it_marks_stops_nobody_else(
    marker: Path, all_live: ProcFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "_PATIENCE", 0.0)
    marker.parent.mkdir()
    with held(marker.parent):
        mark(ProcessId(1, 1), all_live, marker)
    assert marked(marker) == (ProcessId(1, 1),)


def test_marker_that_is_gone_with_its_directory_is_no_error(marker: Path, all_live: ProcFs) -> None:
    unmark(all_live, marker)
    assert not marker.parent.exists()


# -- the time of a hook ----------------------------------------------------------------------------


@pytest.fixture
def timer() -> Iterator[None]:
    before = signal.getsignal(signal.SIGALRM)
    yield
    budget.stop()
    signal.signal(signal.SIGALRM, before)


def hang() -> None:
    deadline = time.monotonic() + FOREVER
    while time.monotonic() < deadline:
        time.sleep(0.01)
    pytest.fail("it was not given up")


@pytest.mark.usefixtures("timer")
def test_time_that_is_over_while_python_hears_of_nothing_is_over_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", dropped.append)
    monkeypatch.setattr(budget, "_AGAIN", 0.02)

    class Hangs:
        def __del__(self) -> None:
            hang()

    def hang_twice() -> None:
        Hangs()
        hang()

    budget.start(0.02)
    with pytest.raises(BudgetError):
        hang_twice()
    budget.stop()
    assert [type(each.exc_value) for each in dropped] == [BudgetError]


@pytest.mark.usefixtures("timer")
def test_first_look_at_a_transaction_that_hangs_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a list of dpkg's lies on a file system that does not answer."""

    def hangs(*_: object) -> Change:
        hang()
        return Change((), "")

    monkeypatch.setattr(glance, "_BUDGET", 0.02)
    monkeypatch.setattr(aptlist, "read_change", hangs)
    (tmp_path / "list").touch()
    with (tmp_path / "list").open() as listing:
        assert not glance._concerns_nobody(Listing(listing.fileno()))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
