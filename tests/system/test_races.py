# SPDX-License-Identifier: Apache-2.0
"""Delivery by environment to processes that are busy, signalled, or left by a killed holdover."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from lab.between import Counting, is_killed_after, touch_here
from lab.longer import LongRun
from lab.outcomes import Record
from system.native import Native, build
from system.scratch import VARIABLE

from holdover.environ import Layout, room_needed
from holdover.errors import MalformedError, RefusedError, UnsupportedError

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
]

VIEWS = ("/run/views/aaaaaaaaaaaaaaaa", "/run/views/bbbbbbbbbbbbbbbb")
NEXT = "/run/views/cccccccccccccccc"
USUAL_DELIVERIES = 12
OWN = {f"OWN_{number}": "0" for number in range(16)}
MARK, IMAGE, POINTER = range(3)  # the writes of a delivery


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("races"))


@pytest.fixture
def target(program: Path) -> Iterator[Native]:
    with Native(program, **OWN) as made:
        yield made


def variables(target: Native) -> list[str]:
    """All but ours."""
    return [entry for entry in target.variables() if not entry.startswith(f"{VARIABLE}=")]


def assert_is_well(target: Native) -> None:
    """It lives, is delivered to, sets variables itself, and is released."""
    target.deliver(VIEWS[0])
    target.ask("set AFTERWARDS 1")
    target.deliver(VIEWS[1])
    assert (target.getenv(), target.getenv("AFTERWARDS")) == (VIEWS[1], "1")
    assert target.getenv("EDITOR") == "vi"
    target.release()
    assert target.getenv() is None


class Deliveries:
    """Many, of two views in turn; what was refused is counted by what is said."""

    def __init__(self, target: Native, count: int) -> None:
        self.made = 0
        self.refused = 0
        self.said = ""
        for number in range(count):
            try:
                target.deliver(VIEWS[number % 2])
                self.made += 1
            except (RefusedError, MalformedError) as error:
                self.refused += 1
                self.said = error.message

    def __str__(self) -> str:
        refused = f", {self.refused:,} refused" if self.refused else ""
        return f"{self.made:,} deliveries{refused}"


# -- busy ------------------------------------------------------------------------------------------

BUSY = {
    "getenv": "threads in getenv",
    "setenv": "threads that set existing variables in bursts, and read",
    "malloc": "threads in malloc, realloc and free",
    "signals": "threads that get signals, with handlers that call getenv",
    "spawn": "threads that run programs (posix_spawn, a vfork)",
}


@pytest.mark.parametrize("kind", BUSY)
def test_busy_process_sees_old_or_new_and_lives(
    target: Native, kind: str, long_run: LongRun, record: Record
) -> None:
    threads = 2
    target.start(kind, threads)
    deliveries = Deliveries(target, long_run.rounds_or(USUAL_DELIVERIES))
    counts = target.stop_threads()
    assert (counts.wrong, counts.gone) == (0, 0)
    assert counts.rounds > threads
    assert deliveries.made, deliveries.said
    assert_is_well(target)
    outcome = f"{deliveries} during {counts.rounds:,} rounds, 0 wrong"
    record(BUSY[kind], outcome, deliveries.said)


def test_process_that_sets_and_unsets_names_without_pause_lives_and_misses_few(
    target: Native, long_run: LongRun, record: Record
) -> None:
    """What it changes within the microseconds around the store may be lost; nothing is garbage."""
    target.start("names", 2)
    deliveries = Deliveries(target, long_run.rounds_or(USUAL_DELIVERIES))
    counts = target.stop_threads()
    assert counts.wrong == 0
    assert deliveries.made, deliveries.said
    assert counts.gone <= deliveries.made
    assert_is_well(target)
    record(
        "threads that set and unset variables without any pause",
        f"{deliveries} during {counts.rounds:,} changes: {counts.gone} of these lost, 0 garbage",
        deliveries.said,
    )


def test_process_with_blocked_signals_is_delivered_to(target: Native, record: Record) -> None:
    target.ask("block")
    assert_is_well(target)
    record("all signals blocked", "delivered", "")


# -- stopped and continued -------------------------------------------------------------------------


@pytest.mark.parametrize("write", [MARK, IMAGE, POINTER])
@pytest.mark.parametrize("earlier", [0, 2])
def test_process_stopped_in_mid_delivery_goes_on_with_the_new_value(
    target: Native, monkeypatch: pytest.MonkeyPatch, write: int, earlier: int, record: Record
) -> None:
    for view in VIEWS[:earlier]:
        target.deliver(view)
    target.start("getenv", 1)

    class Stopping(Counting):
        written = 0

        def before(self, kind: str) -> None:
            if kind == "write":
                if Stopping.written == write:
                    target.stop()
                Stopping.written += 1

    with monkeypatch.context() as patch:
        touch_here(patch, Stopping)
        target.deliver(VIEWS[0])
    assert Stopping.written > write
    target.signal(signal.SIGCONT)
    assert target.getenv() == VIEWS[0]
    counts = target.stop_threads()
    assert (counts.wrong, counts.gone) == (0, 0)
    record("SIGSTOP between two writes of a delivery, SIGCONT after it", "delivered", "")


@contextmanager
def stopped_again_and_again(target: Native) -> Iterator[list[int]]:
    """The list counts how often."""
    stops, ending = [0], threading.Event()

    def stop_and_continue() -> None:
        while not ending.is_set():
            for number in (signal.SIGSTOP, signal.SIGCONT):
                target.signal(number)
                time.sleep(0.002)
            stops[0] += 1

    thread = threading.Thread(target=stop_and_continue)
    thread.start()
    try:
        yield stops
    finally:
        ending.set()
        thread.join()


def test_process_stopped_again_and_again_is_delivered_to_or_refused(
    target: Native, long_run: LongRun, record: Record
) -> None:
    target.start("getenv", 2)
    with stopped_again_and_again(target) as stops:
        deliveries = Deliveries(target, long_run.rounds_or(USUAL_DELIVERIES))
    counts = target.stop_threads()
    assert (counts.wrong, counts.gone) == (0, 0)
    assert deliveries.made, deliveries.said
    assert_is_well(target)
    outcome = f"{deliveries} during {stops[0]:,} stops, {counts.rounds:,} rounds, 0 wrong"
    record("SIGSTOP and SIGCONT without pause, threads in getenv", outcome, deliveries.said)


# -- its own environment ---------------------------------------------------------------------------


def test_string_that_is_the_programs_own_stays_its_own(target: Native, record: Record) -> None:
    """putenv(3): it may change the string whenever it likes."""
    target.ask("put MINE first")
    target.deliver(VIEWS[0])
    target.ask("put MINE second")
    target.deliver(VIEWS[1])
    assert (target.getenv(), target.getenv("MINE")) == (VIEWS[1], "second")
    target.ask("put MINE third")
    assert target.getenv("MINE") == "third"
    assert_is_well(target)
    record("putenv of memory of its own, changed in place", "delivered", "")


def test_program_that_changes_the_pointer_itself_is_delivered_to(
    target: Native, record: Record
) -> None:
    for number, view in enumerate(VIEWS * 3):
        target.ask(f"exchange MINE_{number}=1")
        target.deliver(view)
        assert (target.getenv(), target.getenv(f"MINE_{number}")) == (view, "1")
    assert_is_well(target)
    record("a program that points `environ` to arrays of its own", "delivered", "")


@pytest.mark.parametrize(
    ("command", "met"),
    [
        ("exchange MINE=1", "`environ` pointed elsewhere by the program"),
        ("set MINE 1", "a first setenv of a new name"),
        ("put MINE 1", "a first putenv of a new name"),
        ("unset OWN_3", "unsetenv"),
    ],
)
@pytest.mark.parametrize("write", [MARK, IMAGE, POINTER])
def test_change_between_two_writes_is_kept(
    target: Native,
    monkeypatch: pytest.MonkeyPatch,
    write: int,
    command: str,
    met: str,
    record: Record,
) -> None:
    change_before(monkeypatch, write, lambda: target.ask(command))
    with suppress(RefusedError):
        target.deliver(VIEWS[0])
    found = variables(target)
    assert "EDITOR=vi" in found
    if write == POINTER and not command.startswith("unset"):
        # a new array that is never heard of again: the store comes last, and wins
        record(f"{met}, within the microseconds before the store", "delivered; its own is lost", "")
    else:
        assert ("OWN_3=0" in found) == (command != "unset OWN_3")
        assert ("MINE=1" in found) == (command != "unset OWN_3")
        record(f"{met}, between two writes of a delivery", "delivered, and kept", "")
    assert_is_well(target)


@pytest.mark.parametrize("write", [MARK, IMAGE, POINTER])
def test_environment_cleared_in_mid_delivery_is_refused_or_comes_back(
    target: Native, monkeypatch: pytest.MonkeyPatch, write: int, record: Record
) -> None:
    change_before(monkeypatch, write, lambda: target.ask("clear"))
    if write == POINTER:
        target.deliver(VIEWS[0])
        assert (target.getenv(), target.getenv("EDITOR")) == (VIEWS[0], "vi")
        when, outcome, said = "within the microseconds before the store", "delivered; undone", ""
    else:
        with pytest.raises(UnsupportedError, match="cleared") as refused:
            target.deliver(VIEWS[0])
        assert target.variables() == []
        said = refused.value.message
        when, outcome = "between two writes of a delivery", "refused"
    record(f"clearenv, {when}", outcome, said)
    assert target.ask("set EDITOR vi") == 0
    assert_is_well(target)


def test_value_that_was_copied_from_the_new_array_is_not_kept_beside_it(
    target: Native, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    """A set right after the store copies our new array over the old one, which we look at again.

    Were our string taken for one of the program's, both halves would be in use for ever.
    """
    target.ask("set MINE_0 1")  # from now on, setenv uses this array again, while it has room
    target.ask("set MINE_4 1")
    for number, view in enumerate(VIEWS):
        target.deliver(view)
        target.ask(f"set MINE_{number + 1} 1")
    change_before(monkeypatch, POINTER + 1, lambda: target.ask("set MINE_3 1"))
    target.deliver(NEXT)
    assert [entry for entry in target.variables() if entry.startswith(VARIABLE)] == [
        f"{VARIABLE}={NEXT}"
    ]
    assert {f"MINE_{number}=1" for number in range(4)} <= set(target.variables())
    monkeypatch.undo()
    assert_is_well(target)
    record("setenv right after the store", "delivered, and kept", "")


def test_what_is_added_meanwhile_needs_room_too(
    target: Native, monkeypatch: pytest.MonkeyPatch, record: Record
) -> None:
    """The first array fits exactly; with what it missed, a second would end behind its half."""
    target.ask("exchange MINE_0=1")
    start, end = next(Layout(target.proc, target.pid, target.proc.maps(target.pid)).tails())
    size = (end - start - 8) // 32 * 16
    entries = len(target.variables()) + 1  # as they are once it is published
    view = "/" + "x" * (size - room_needed(entries, VARIABLE, "/"))
    change_before(monkeypatch, POINTER, lambda: [target.ask(f"append MINE_{n}=1") for n in (1, 2)])
    with pytest.raises(UnsupportedError, match="no room") as refused:
        target.deliver(view)
    assert target.getenv() == view
    assert target.getenv("EDITOR") == "vi"
    monkeypatch.undo()
    target.deliver(VIEWS[0])  # shorter
    assert_is_well(target)
    said = refused.value.message
    record("variables added in mid-delivery for which there is no room", "refused", said)


def test_half_that_was_live_a_moment_ago_is_waited_for(
    target: Native, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread may have lost the processor while it walked there."""
    waited: list[int] = []
    monkeypatch.setattr(
        "holdover.elsewhere.wait_until_elsewhere", lambda _, pid: waited.append(pid)
    )
    target.deliver(VIEWS[0])
    assert waited == []  # nobody was ever there
    change_before(monkeypatch, POINTER, lambda: target.ask("unset OWN_3"))
    target.deliver(VIEWS[1])
    assert waited == [target.pid]  # for the half of the first delivery, to make good what it missed
    assert "OWN_3=0" not in target.variables()


def change_before(
    monkeypatch: pytest.MonkeyPatch, write: int, change: Callable[[], object]
) -> None:
    """`change` happens right before the nth write of the next delivery, once.

    One after the last is right after that: before the next read.
    """

    written = 0

    class Changing(Counting):
        def before(self, kind: str) -> None:
            nonlocal written
            if written == write and (kind == "write" or write == POINTER + 1):
                written += kind == "read"
                change()
            written += kind == "write"

    touch_here(monkeypatch, Changing)


# -- holdover is killed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("earlier", "last", "kind"),
    [
        *((earlier, "deliver", "write") for earlier in (0, 1, 2)),
        *((earlier, "release", "write") for earlier in (1, 2)),
        *((1, last, "read") for last in ("deliver", "release")),
    ],
)
def test_holdover_killed_after_each_access_leaves_old_or_new(
    program: Path, earlier: int, last: str, kind: str, record: Record
) -> None:
    kills = 0
    for number in itertools.count(1):
        with Native(program, **OWN) as target:
            for view in VIEWS[:earlier]:
                target.deliver(view)
            old, new = target.getenv(), None if last == "release" else NEXT
            own = sorted(variables(target))
            action = target.release if new is None else functools.partial(target.deliver, new)
            if not is_killed_after(kind, number, action):
                break
            kills += 1
            assert target.getenv() in (old, new)
            assert sorted(variables(target)) == own
            action()
            assert target.getenv() == new
            assert sorted(variables(target)) == own
            assert_is_well(target)
    assert kills
    record(
        f"holdover killed after each {kind} of a {last}, with {earlier} deliveries before",
        f"{kills} kills: old or new value, own variables whole, the next run works",
        "",
    )
