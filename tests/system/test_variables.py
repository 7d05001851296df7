# SPDX-License-Identifier: Apache-2.0
"""Delivery by variable, to small programs that keep the name of their module directory in one."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from lab.between import Counting, is_killed_after, touch_here
from lab.longer import LongRun
from lab.variables import read_text
from system.keeper import ARRAY, FIRST, OWN, POINTER, SECOND, Keeper, started, unchanged
from system.scratch import until

from holdover.errors import RefusedError, VanishedError
from holdover.memory import Memory
from holdover.programs import Variable
from holdover.variables import parse_name

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
]

KINDS = [
    pytest.param(ARRAY, (), id="array"),
    pytest.param(POINTER, ("-DPOINTER",), id="pointer"),
    pytest.param(ARRAY, ("-no-pie",), id="array-no-pie"),
    pytest.param(POINTER, ("-DPOINTER", "-no-pie"), id="pointer-no-pie"),
]
CYCLES = 1000

Before = Callable[[str, int, Callable[[], object]], None]


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Before:
    """before("write", 1, event): `event` happens right before a delivery's second write."""

    def arrange(kind: str, number: int, event: Callable[[], object]) -> None:
        left = {kind: number}

        def count(what: str) -> None:
            if what in left:
                left[what] -= 1
                if left[what] < 0:
                    del left[what]
                    event()

        class Interrupted(Counting):
            def before(self, kind: str) -> None:
                count(kind)

        touch_here(monkeypatch, Interrupted)

    return arrange


# -- as it should be -------------------------------------------------------------------------------


@pytest.mark.parametrize(("variable", "options"), KINDS)
def test_modules_are_found_where_the_variable_was_made_to_lead(
    place: Path, variable: Variable, options: tuple[str, ...]
) -> None:
    with started(place, variable, *options) as keeper:
        assert keeper.load() == OWN
        keeper.point_to(keeper.first)
        assert (keeper.text(), keeper.load()) == (keeper.led_to(keeper.first), FIRST)
        keeper.point_to(keeper.second)
        assert (keeper.text(), keeper.load()) == (keeper.led_to(keeper.second), SECOND)
        keeper.take_back()
        assert (keeper.text(), keeper.load()) == (str(keeper.own), OWN)


@pytest.mark.parametrize(("variable", "options"), KINDS)
def test_a_process_that_nobody_points_elsewhere_stays_with_its_own(
    place: Path, variable: Variable, options: tuple[str, ...]
) -> None:
    """The twin of the test above."""
    with started(place, variable, *options) as keeper:
        assert (keeper.text(), keeper.load()) == (str(keeper.own), OWN)


@pytest.mark.parametrize(("variable", "options"), KINDS)
def test_last_delivery_counts_and_the_first_name_comes_back_however_many_there_were(
    place: Path, variable: Variable, options: tuple[str, ...]
) -> None:
    with started(place, variable, *options) as keeper:
        for number in range(20):
            keeper.point_to((keeper.first, keeper.second)[number % 2])
            assert keeper.load() == (FIRST, SECOND)[number % 2]
        keeper.take_back()
        assert keeper.text() == str(keeper.own)


def test_same_delivery_twice_and_release_of_nothing_write_nothing(keeper: Keeper) -> None:
    with unchanged(keeper):
        keeper.take_back()
    keeper.point_to(keeper.first)
    with unchanged(keeper):
        keeper.point_to(keeper.first)


def test_what_is_written_is_what_others_read_there(array: Keeper) -> None:
    array.point_to(array.first)
    assert read_text(Path(f"/proc/{array.pid}"), "module_dir") == array.led_to(array.first)


def test_slash_at_the_end_comes_back(keeper: Keeper) -> None:
    keeper.start_with(f"{keeper.own}/")
    keeper.point_to(keeper.first)
    assert keeper.load() == FIRST
    keeper.take_back()
    assert keeper.text() == f"{keeper.own}/"


def test_own_name_with_steps_up_is_not_taken_for_one_that_leads_to_a_view(keeper: Keeper) -> None:
    own = f"{keeper.first}/../../own"
    keeper.start_with(own)
    with unchanged(keeper):
        keeper.take_back()
    keeper.point_to(keeper.second)
    assert keeper.load() == SECOND
    keeper.take_back()
    assert keeper.text() == own


@pytest.mark.parametrize("target", ["own", "view/../own", "/"])
def test_own_directory_may_be_a_link(
    keeper: Keeper, target: str, place: Path, tmp_path: Path
) -> None:
    """To a directory that lies deeper or less deep than the link itself."""
    link = tmp_path / "a/b/c/link"
    link.parent.mkdir(parents=True)
    link.symlink_to(place / target)
    keeper.start_with(link)
    keeper.point_to(keeper.first)
    assert keeper.load() == FIRST
    keeper.take_back()
    assert keeper.text() == str(link)


def test_a_pointer_that_the_program_set_anew_gets_that_name_back(pointer: Keeper) -> None:
    pointer.point_to(pointer.first)
    pointer.take_back()
    pointer.start_with(pointer.second)
    pointer.point_to(pointer.first)
    assert pointer.load() == FIRST
    pointer.take_back()
    assert pointer.text() == str(pointer.second)


def test_array_may_lie_at_any_address(place: Path) -> None:
    """As long as the word that holds its name's end is in it."""
    for at in range(16):
        with started(place, ARRAY, f"-DARRAY_AT={at}") as keeper:
            for view, answer in ((keeper.first, FIRST), (keeper.second, SECOND)):
                keeper.point_to(view)
                assert keeper.load() == answer
            keeper.take_back()
            assert (keeper.text(), keeper.load()) == (str(keeper.own), OWN)


# -- whoever reads it meanwhile --------------------------------------------------------------------


def test_readers_see_one_of_the_two_names(keeper: Keeper, long_run: LongRun) -> None:
    keeper.start("resting", 3)
    for _ in range(long_run.rounds_or(CYCLES)):
        keeper.point_to(keeper.first)
        keeper.take_back()
    rounds, torn = keeper.stop_threads()
    assert torn == 0
    assert rounds > CYCLES


def test_readers_notice_a_name_that_is_written_in_pieces(array: Keeper) -> None:
    """The twin of the test above."""
    names = [os.fsencode(name) for name in (array.own, array.led_to(array.first))]
    at, torn = array.ask("at"), 0
    assert isinstance(at, int)
    with Memory(array.proc, array.pid, writable=True) as memory:
        while not torn:  # on a busy machine they rest longer than it takes to write
            array.start("resting", 3)
            for name in names * 50:
                for number, byte in enumerate(name + b"\0"):
                    memory.write(at + number, bytes([byte]))
            torn = array.stop_threads()[1]


def test_readers_of_a_pointer_that_never_rest_see_one_of_the_names(pointer: Keeper) -> None:
    pointer.start("restless", 2)
    for _ in range(50):
        pointer.point_to(pointer.first)
        pointer.point_to(pointer.second)
        pointer.take_back()
    rounds, torn = pointer.stop_threads()
    assert torn == 0
    assert rounds > CYCLES


def test_array_that_is_always_read_is_given_one_view_and_no_other(array: Keeper) -> None:
    """The first needs no rest; to exchange it, or to take it back, does."""
    array.start("restless", 1)
    array.point_to(array.first)
    with pytest.raises(RefusedError, match="never at rest"):
        array.point_to(array.second)
    with pytest.raises(RefusedError, match="never at rest"):
        array.take_back()
    assert array.stop_threads()[1] == 0
    assert array.load() == FIRST
    array.take_back()
    assert array.text() == str(array.own)


# -- what happens at the same moment ---------------------------------------------------------------


@pytest.mark.parametrize("event", [("read", 0), ("read", 1), ("write", 0), ("write", 1)])
def test_process_that_ends_meanwhile_has_vanished(
    keeper: Keeper, before: Before, event: tuple[str, int]
) -> None:
    def kill() -> None:
        keeper.signal(signal.SIGKILL)
        until(lambda: keeper.state() == "Z")

    before(*event, kill)
    with pytest.raises(VanishedError):
        keeper.point_to(keeper.first)


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("step", ["first", "second", "back"])
@pytest.mark.parametrize(("variable", "options"), KINDS[:2])
def test_holdover_killed_after_each_access_leaves_old_or_new(
    place: Path, variable: Variable, options: tuple[str, ...], step: str, kind: str
) -> None:
    """And the next run works, whatever was left behind."""
    for number in itertools.count(1):
        with started(place, variable, *options) as keeper:
            if step != "first":
                keeper.point_to(keeper.first)
            old, new = keeper.text(), keeper.led_to(keeper.second)
            action: Callable[[], None] = functools.partial(keeper.point_to, keeper.second)
            if step == "back":
                new, action = str(keeper.own), keeper.take_back
            killed = is_killed_after(kind, number, action)
            assert keeper.text() in ((old, new) if killed else (new,))
            action()
            assert (keeper.text(), keeper.load()) == (new, OWN if step == "back" else SECOND)
            if not killed:
                break
    assert number > 1


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("step", ["first", "second", "back"])
def test_name_that_the_process_sets_itself_is_never_mixed_with_ours(
    keeper: Keeper, before: Before, step: str, number: int
) -> None:
    """Whatever moment it chooses: it has its own name then, or the one that was delivered."""
    mine = str(keeper.second.parent)
    if step != "first":
        keeper.point_to(keeper.first)
    before("read", number, lambda: keeper.start_with(mine))
    refused = ""
    try:
        if step == "back":
            keeper.take_back()
        else:
            keeper.point_to(keeper.second)
    except RefusedError as error:
        refused = error.message
    name, wanted = parse_name(os.fsencode(keeper.text())), None if step == "back" else keeper.second
    if refused or keeper.text() == mine:
        assert keeper.text() == mine
        assert not refused or "at the same moment" in refused
    else:
        assert os.fsdecode(name.before) in (str(keeper.own), mine)
        assert name.led_to == wanted
