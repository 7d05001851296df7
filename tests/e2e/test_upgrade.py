# SPDX-License-Identifier: Apache-2.0
"""The main job: every kind of guest keeps every late load across a real upgrade, and back."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.kinds import KINDS

from holdover.demo.guest import ATTACHED, DIED, PROBES, Guest

pytestmark = pytest.mark.e2e

WORKS_TWICE = (ATTACHED, ATTACHED)


@dataclass
class Crossing:
    """A system on which guests of each kind were started, and then apt upgraded QEMU."""

    lab: Lab
    guests: dict[str, Guest]
    said: str


@pytest.fixture(scope="module")
def protected(base: Path, scratch: Path) -> Iterator[Crossing]:
    """With holdover's hooks enabled and nothing else done."""
    with Lab.with_holdover(base, scratch) as lab:
        lab.root.run("holdover", "enable")
        guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        yield Crossing(lab, guests, lab.upgrade().stdout)


@pytest.fixture(scope="module")
def unprotected(base: Path, scratch: Path) -> Iterator[Crossing]:
    """The twins, without holdover; and one guest for each kind of late load."""
    with Lab.stock(base, scratch) as lab:
        guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        guests |= {what: Guest.start(lab.root, what.replace(" ", "-")) for what in PROBES}
        yield Crossing(lab, guests, lab.upgrade().stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_protected_guest_loads_everything_twice(protected: Crossing, kind: str) -> None:
    guest = protected.guests[kind]
    seen = {what: guest.probe_twice(what) for what in PROBES}
    assert seen == dict.fromkeys(PROBES, WORKS_TWICE)
    assert guest.lives()


@pytest.mark.parametrize("kind", KINDS)
def test_unprotected_twin_dies_of_its_second_attempt(unprotected: Crossing, kind: str) -> None:
    guest = unprotected.guests[kind]
    assert guest.probe("https disk") == "refused"
    assert guest.probe("ssh disk") == DIED


@pytest.mark.parametrize("what", PROBES)
def test_every_late_load_kills_an_unprotected_guest(unprotected: Crossing, what: str) -> None:
    seen = unprotected.guests[what].probe_twice(what)
    assert ATTACHED not in seen
    assert seen[1] == DIED


def test_hook_says_whom_it_protected(protected: Crossing) -> None:
    line = next(line for line in protected.said.splitlines() if line.startswith("holdover:"))
    for kind, guest in protected.guests.items():
        assert f"{kind} ({guest.pid})" in line


@pytest.mark.parametrize("kind", KINDS)
def test_status_knows_the_guest_by_its_name(protected: Crossing, kind: str) -> None:
    seen = protected.lab.status(protected.guests[kind].pid)
    assert (seen["name"], seen["state"], seen["delivery"]) == (kind, "protected", "environment")
    assert protected.lab.older.partition(":")[2] in seen["version"]


def test_guest_started_after_the_upgrade_is_current(protected: Crossing) -> None:
    guest = Guest.start(protected.lab.root, "newer")
    assert protected.lab.status(guest.pid)["state"] == "current"
    guest.kill()


def test_downgrade_under_guests_of_both_builds(base: Path, scratch: Path) -> None:
    with Lab.with_holdover(base, scratch) as lab:
        lab.root.run("holdover", "enable")
        first = Guest.start(lab.root, "first")
        lab.upgrade()
        second = Guest.start(lab.root, "second")
        lab.downgrade()
        third = Guest.start(lab.root, "third")
        assert lab.status(second.pid)["state"] == "protected"
        assert lab.status(third.pid)["state"] == "current"
        for guest in (first, second, third):
            assert {guest.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
        assert len(lab.held()) == 2


def test_downgrade_kills_the_unprotected_twin(stock: Lab) -> None:
    stock.upgrade()
    twin = Guest.start(stock.root, "twin")
    stock.downgrade()
    assert twin.probe("https disk") == "refused"
    assert twin.probe("https disk") == DIED
