# SPDX-License-Identifier: Apache-2.0
"""A rescue of several builds: what goes wrong with one of them, and what then becomes of all."""

import errno
import os
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from unit.elf_images import Image
from unit.factories import OTHER_BUILD_ID, STAMP, build, process, scan, store_below

from holdover.errors import BusyError, CommandError, HoldoverError
from holdover.flow import Holdover
from holdover.model import Delivery, Item, LateLoad, Outcome, Process, Result, Scan, State
from holdover.packages.fetch import Fetched, PackageFile, Progress, Sources, Wanted
from holdover.procfs import ProcFs
from holdover.rescuing import Rescue, rescue
from holdover.steps.collect import Collected
from holdover.steps.plan import Aim, Touches, always

ONE = process(1)
OTHER = process(2, build=build(OTHER_BUILD_ID))
Fetch = Callable[[Wanted, Path], Fetched]


class Machine(Holdover):
    """Nothing is held for its guests, and what is got back for one protects it."""

    def __init__(self, store: Path, *guests: Process) -> None:
        super().__init__(proc=ProcFs(store / "proc"), store=store_below(store))
        self.guests = guests
        self.unserved: dict[int, str] = {}
        """Why libraries of this system are of no use to some, by pid."""
        self.left: set[int] = set()
        """Who is passed over in silence: it ended, or cannot be foreseen any more."""
        self.in_the_way: dict[str, HoldoverError] = {}
        self.served: list[tuple[tuple[int, ...], list[Path | None]]] = []
        """Whom, and whose libraries were there for them."""

    def status(
        self, pids: Collection[int] = (), *, workers: bool = True
    ) -> tuple[Scan, tuple[Item, ...]]:
        chosen = [guest for guest in self.guests if not pids or guest.id.pid in pids]
        seen = scan(*(replace(guest, own=self.own(guest)) for guest in chosen))
        items = (Item(guest, State.DEFUSED, "defused", Delivery.ENVIRONMENT) for guest in chosen)
        return seen, tuple(items)

    def own(self, guest: Process) -> tuple[LateLoad, ...]:
        """Those that were got back for its build."""
        found = self.rescued.get(guest.build.build_id)
        problem = "" if found and found.root else self.unserved.get(guest.id.pid, "")
        return tuple(LateLoad(m.name, m.path, problem) for m in found.modules) if found else ()

    def carry_out(
        self,
        aim: Aim,
        pids: Collection[int] = (),
        touches: Touches = always,
        transaction: object = None,
    ) -> Result:
        if error := self.in_the_way.get("carry_out"):
            raise error
        self.served.append((tuple(pids), [found.root for found in self.rescued.values()]))
        guests = [g for g in self.guests if g.id.pid in pids and g.id.pid not in self.left]
        by = Delivery.ENVIRONMENT
        done = (Outcome(g, State.PROTECTED, "held", by, "x", changed=True) for g in guests)
        return Result(tuple(done))

    def collect(self, *, dry_run: bool = False, transaction: object = None) -> Collected:
        if error := self.in_the_way.get("collect"):
            raise error
        return Collected((), (), 0)


def rescued(machine: Machine, monkeypatch: pytest.MonkeyPatch, fetch: Fetch) -> Rescue:
    """By packages that `fetch` gets."""

    def fetched(
        wanted: Wanted, place: Path, _: Sources, *, dependencies: bool, progress: Progress
    ) -> Fetched:
        return fetch(wanted, place)

    monkeypatch.setattr("holdover.rescuing.fetch", fetched)
    monkeypatch.setattr("holdover.rescuing._held", lambda *_: [])
    monkeypatch.setattr("holdover.rescuing.modules_on_this_machine", lambda *_: {})
    return rescue(machine, (), Sources(), rehearse=False)


def unpacked(wanted: Wanted, place: Path, *more: str) -> Fetched:
    directory = place / str(wanted.directories[0])[1:]
    directory.mkdir(parents=True)
    (directory / "block-rbd.so").write_bytes(bytes(Image(defined=[STAMP])))
    package = PackageFile("a", "1", "amd64", "a.deb", "sha256:0", 1, "")
    return Fetched(place, (package,), MappingProxyType({}), 0)


def states(done: Rescue) -> dict[int, State]:
    return {pid: outcome.state for pid, outcome in done.outcomes.items()}


def full(wanted: Wanted, place: Path) -> Fetched:
    """There is no room for the first build's packages."""
    if wanted.build_id == ONE.build.build_id:
        (place / "half").write_bytes(b"a package")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place / "half"))
    assert not list(place.parents[1].rglob("half"))
    return unpacked(wanted, place)


def test_disk_that_one_build_has_filled_is_left_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = rescued(Machine(tmp_path, ONE, OTHER), monkeypatch, full)
    assert states(done) == {1: State.DEFUSED, 2: State.PROTECTED}
    assert "not rescued: could not look for the files" in done.outcomes[1].reason
    assert done.outcomes[1].failed


def test_packages_that_cannot_be_had_leave_no_room_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(wanted: Wanted, place: Path) -> Fetched:
        try:
            return full(wanted, place)
        except OSError as error:
            raise CommandError("packages cannot be fetched") from error

    done = rescued(Machine(tmp_path, ONE, OTHER), monkeypatch, fetch)
    assert states(done) == {1: State.DEFUSED, 2: State.PROTECTED}


def test_link_to_what_was_not_unpacked_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(wanted: Wanted, place: Path) -> Fetched:
        made = unpacked(wanted, place)
        (place / str(wanted.directories[0])[1:] / "block-curl.so").symlink_to("elsewhere")
        return made

    done = rescued(Machine(tmp_path, ONE), monkeypatch, fetch)
    assert states(done) == {1: State.PROTECTED}


def test_guest_that_nothing_was_done_for_in_the_end_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, ONE, OTHER)
    machine.left = {1}
    done = rescued(machine, monkeypatch, unpacked)
    assert states(done) == {1: State.DEFUSED, 2: State.PROTECTED}
    assert done.outcomes[1].reason == "defused; not rescued: it ended meanwhile"
    assert done.outcomes[1].failed


def test_what_was_done_is_told_when_the_store_is_busy_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, ONE)
    machine.in_the_way["collect"] = BusyError("another holdover is at work")
    done = rescued(machine, monkeypatch, unpacked)
    assert states(done) == {1: State.PROTECTED}
    assert not done.outcomes[1].failed
    assert done.notes == ["another holdover is at work"]


def test_store_that_is_busy_meanwhile_is_the_reason_of_all_that_it_concerns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, ONE, OTHER)
    machine.in_the_way["carry_out"] = BusyError("another holdover is at work")
    done = rescued(machine, monkeypatch, full)
    assert states(done) == {1: State.DEFUSED, 2: State.DEFUSED}
    assert done.outcomes[1].reason.count("not rescued") == 1
    assert "not rescued: another holdover is at work" in done.outcomes[2].reason


STRANGE = process(3)


def test_who_is_served_by_this_systems_libraries_does_not_wait_for_those_who_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, ONE, STRANGE)
    machine.unserved[3] = "it has mapped something else"
    done = rescued(machine, monkeypatch, unpacked)
    assert states(done) == {1: State.PROTECTED, 3: State.PROTECTED}
    assert [pids for pids, _ in machine.served] == [(1,), (3,)]
    first, second = (roots for _, roots in machine.served)
    assert first == [None]
    assert second != [None]


def test_who_cannot_be_served_keeps_nobody_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(wanted: Wanted, place: Path) -> Fetched:
        if place.name == "system":
            raise CommandError("packages cannot be fetched")
        return unpacked(wanted, place)

    machine = Machine(tmp_path, STRANGE, ONE)
    machine.unserved[3] = "it has mapped something else"
    done = rescued(machine, monkeypatch, fetch)
    assert states(done) == {1: State.PROTECTED, 3: State.DEFUSED}
    assert "not rescued: packages cannot be fetched" in done.outcomes[3].reason
    assert not done.outcomes[1].failed


def test_name_that_a_user_has_given_the_executable_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(wanted: Wanted, place: Path) -> Fetched:
        assert wanted.executable == ONE.executable
        return unpacked(wanted, place)

    monkeypatch.setattr("holdover.rescuing.is_named_by_root", lambda _, pid, __: pid == 1)
    elsewhere = replace(STRANGE, executable=Path("/usr/bin/x/qemu-system-x86_64"))
    done = rescued(Machine(tmp_path, elsewhere, ONE), monkeypatch, fetch)
    assert states(done) == {1: State.PROTECTED, 3: State.PROTECTED}


def test_build_without_a_build_id_is_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, process(4, build=build("")), ONE)
    done = rescued(machine, monkeypatch, unpacked)
    assert states(done) == {1: State.PROTECTED, 4: State.DEFUSED}
    assert "not rescued: its executable has no build-id" in done.outcomes[4].reason
