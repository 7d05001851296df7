# SPDX-License-Identifier: Apache-2.0
"""Directories in which builds look last: what is made of them and put back, after a kill too."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from unit.factories import (
    OTHER_STAMP,
    build,
    held_file,
    holding,
    modules,
    process,
    scan,
    snapshot,
    store_below,
    take,
    write_modules,
)
from unit.test_store import killed_after

from holdover.delivering import in_place, tidy
from holdover.fallbacks import MARK, Fallbacks
from holdover.held import Holding
from holdover.model import Delivery, Process, Scan, Unreadable
from holdover.ondisk import OnDisk
from holdover.procfs import ProcFs
from holdover.steps.scan import _Look
from holdover.store import Store

VERSION = "Debian_1_5.2+dfsg-11"
MODULES = ("block-curl", "block-rbd")


@dataclass
class Place:
    """A /run, and a store with two snapshots of one build."""

    run: Path
    store: Store
    first: Holding
    second: Holding

    @property
    def directory(self) -> Path:
        return self.run / "qemu" / VERSION

    @property
    def fallbacks(self) -> Fallbacks:
        return self.store.fallbacks

    def names(self) -> set[str]:
        """Of all that lies beside the directory, and of it."""
        parent = self.directory.parent
        return {path.name for path in parent.iterdir()} if parent.exists() else set()

    def save_copies(self) -> None:
        """As a maintainer script does."""
        self.directory.mkdir(parents=True)
        (self.directory / "block-rbd.so").write_text("a copy")

    def process(self, pid: int = 1) -> Process:
        return process(pid, build=replace(build(), fallback=self.directory))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    before = os.umask(0o022)
    yield make_place(tmp_path)
    os.umask(before)


def make_place(root: Path) -> Place:
    (root / "run").mkdir(parents=True)
    store = store_below(root / "store")
    origins = write_modules(root / "modules", *MODULES)
    with store.writing(0):
        take(store, origins, "qemu-first")
        take(store, origins[:1], "qemu-second")
    first, second = sorted(store.holdings(), key=lambda held: held.snapshot.id)
    return Place(root / "run", store, first, second)


def leads_to(place: Place, held: Holding) -> bool:
    """Whether all that is held is there, and nothing else."""
    links = {path.name: path.readlink() for path in place.directory.iterdir()}
    expected = {f"{name}.so": held.view / f"{name}.so" for name in held.snapshot.modules}
    return links == expected | {MARK: held.view}


def test_directory_leads_to_what_is_held_and_to_no_decoy(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    assert leads_to(place, place.first)
    assert place.fallbacks.all() == {place.directory: place.first.view}
    assert place.directory.stat().st_mode & 0o777 == 0o755


def test_nothing_is_left_of_it_not_even_the_directory_above(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    place.fallbacks.remove(place.directory)
    assert (list(place.run.iterdir()), place.fallbacks.all()) == ([], {})
    assert list(place.fallbacks.records.iterdir()) == []


def test_directory_above_that_somebody_else_made_stays(place: Place) -> None:
    place.directory.parent.mkdir()
    place.fallbacks.put(place.directory, place.first.view)
    place.fallbacks.remove(place.directory)
    assert list(place.run.iterdir()) == [place.directory.parent]


def test_directory_above_in_which_somebody_else_put_something_stays(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    place.directory.with_name("other").mkdir()
    place.fallbacks.remove(place.directory)
    assert place.names() == {"other"}


def test_another_view_takes_the_place_of_the_first(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    place.fallbacks.put(place.directory, place.second.view)
    assert leads_to(place, place.second)
    assert place.names() == {VERSION}


def test_what_lay_there_is_put_back(place: Place) -> None:
    place.save_copies()
    for held in (place.first, place.second):
        place.fallbacks.put(place.directory, held.view)
        assert leads_to(place, held)
    place.fallbacks.remove(place.directory)
    assert (place.directory / "block-rbd.so").read_text() == "a copy"
    assert place.names() == {VERSION}


def test_what_was_saved_later_counts_more_than_what_lay_there(place: Place) -> None:
    place.save_copies()
    place.fallbacks.put(place.directory, place.first.view)
    place.directory.rename(place.run / "away")
    place.save_copies()
    (place.directory / "block-rbd.so").write_text("a newer copy")
    place.fallbacks.remove(place.directory)
    assert (place.directory / "block-rbd.so").read_text() == "a newer copy"
    assert place.names() == {VERSION}


@pytest.mark.parametrize("saved", [False, True])
def test_kill_while_it_is_made_is_made_good(tmp_path: Path, saved: bool) -> None:
    """At each step: either the directory leads to one view or the other, or it can be tidied."""
    steps, killed = 0, True
    while killed:
        place = make_place(tmp_path / str(steps))
        if saved:
            place.save_copies()
        place.fallbacks.put(place.directory, place.first.view)
        put = place.fallbacks.put
        killed = killed_after(steps, lambda: put(place.directory, place.second.view))  # noqa: B023
        tidy(place.store, scan(place.process()), everybody=True)
        if place.directory.exists() and place.fallbacks.view_at(place.directory):
            assert leads_to(place, place.first) or leads_to(place, place.second)
        place.fallbacks.put(place.directory, place.first.view)
        assert leads_to(place, place.first)
        place.fallbacks.remove(place.directory)
        assert place.names() == ({VERSION} if saved else set())
        steps += 1
    assert steps > 5  # else the steps were not seen


@pytest.mark.parametrize("saved", [False, True])
def test_kill_while_it_is_removed_is_made_good(tmp_path: Path, saved: bool) -> None:
    steps, killed = 0, True
    while killed:
        place = make_place(tmp_path / str(steps))
        if saved:
            place.save_copies()
        place.fallbacks.put(place.directory, place.first.view)
        remove = place.fallbacks.remove
        killed = killed_after(steps, lambda: remove(place.directory))  # noqa: B023
        tidy(place.store, scan(), everybody=True)
        assert (place.names(), place.fallbacks.all()) == ({VERSION} if saved else set(), {})
        assert not saved or (place.directory / "block-rbd.so").read_text() == "a copy"
        steps += 1
    assert steps > 5  # else the steps were not seen


# -- when it goes ------------------------------------------------------------------------------


def tidied(place: Place, seen: Scan, *, everybody: bool = True) -> bool:
    """Whether the directory goes."""
    place.fallbacks.put(place.directory, place.first.view)
    tidy(place.store, seen, everybody=everybody)
    return not place.directory.exists()


def test_directory_stays_while_somebody_looks_there(place: Place) -> None:
    assert not tidied(place, scan(place.process()))


def test_directory_goes_with_the_last_who_looks_there(place: Place) -> None:
    assert tidied(place, scan(process()))
    assert not tidied(place, scan(process()), everybody=False)  # others were not looked at


def test_directory_stays_if_somebody_cannot_be_seen(place: Place) -> None:
    assert not tidied(place, scan(unreadable=(Unreadable(5, "no"),)))


def test_directory_goes_while_modules_of_the_build_lie_on_disk(place: Place) -> None:
    """The scripts of their package may write through the links."""
    for everybody in (False, True):
        there = scan(place.process(), modules=modules("block-rbd"))
        assert tidied(place, there, everybody=everybody)
        others = scan(place.process(), modules=modules("block-rbd", stamp=OTHER_STAMP))
        assert not tidied(place, others, everybody=everybody)


def test_directory_goes_with_its_view(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    place.store.remove(place.first.snapshot.id)
    tidy(place.store, scan(place.process()), everybody=False)
    assert not place.directory.exists()


# -- who shares it -----------------------------------------------------------------------------


def test_what_is_there_serves_another_executable_of_the_build(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    for wanted in (place.first, place.second):
        assert in_place(place.store, place.process(), wanted) == place.first


def test_what_is_there_does_not_serve_who_needs_more(place: Place) -> None:
    place.fallbacks.put(place.directory, place.second.view)
    assert in_place(place.store, place.process(), place.first) == place.first


def test_what_is_there_does_not_serve_another_build(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    of = build(stamp=OTHER_STAMP)
    wanted = holding(snapshot("qemu-other", [held_file("block-curl")], of))
    assert in_place(place.store, place.process(), wanted) == wanted


def test_damage_does_not_serve_anybody(place: Place) -> None:
    place.fallbacks.put(place.directory, place.first.view)
    (place.first.view / "block-curl.so").write_text("changed")
    assert in_place(place.store, place.process(), place.second) == place.second


# -- who cannot use it -------------------------------------------------------------------------


@pytest.mark.parametrize("made", [Path.mkdir, Path.touch, lambda _: None])
def test_var_run_that_is_no_link_keeps_nobody_from_another_delivery(
    tmp_path: Path, made: Callable[[Path], None]
) -> None:
    (tmp_path / "42/root/var").mkdir(parents=True)
    made(tmp_path / "42/root/var/run")
    (tmp_path / "self").symlink_to("42")
    on_disk = OnDisk((), tmp_path, {})
    how = (Delivery.FALLBACK,)
    look = _Look(ProcFs(tmp_path), (), how, tmp_path, None, None, None, on_disk, again=False)
    old = replace(build(), fallback=Path("/run/qemu", VERSION))
    assert look._no_fallback(42, old) == "/var/run is not /run in its mount namespace"
