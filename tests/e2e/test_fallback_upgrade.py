# SPDX-License-Identifier: Apache-2.0
"""Guests of Debian 11 live through an upgrade to 12 with nothing but their fallback directory.

Tried with `make test-distributions`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.distributions import CROSSINGS
from lab.kinds import KINDS as USUAL
from lab.kinds import Kind

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, PROBES, Guest

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

CROSSING = CROSSINGS["bullseye-to-bookworm"]
WORKS_TWICE = (ATTACHED, ATTACHED)
LOST = ("https disk", "rbd disk", "ssh disk")
"""Debian 11 saves the modules, and they find libraries of Debian 12."""
KINDS = {name: USUAL[name] for name in ("host-namespace", "unprivileged", "sandboxed")} | {
    "slave-namespace": Kind(wrapper=("unshare", "--mount", "--propagation", "slave"))
}


@dataclass
class Crossed:
    lab: Lab
    offered: tuple[str, ...]
    guests: dict[str, Guest]


@pytest.fixture(scope="module")
def crossing_base(cache: Path) -> Path:
    return archive.prepare_base(cache, print, CROSSING.recipe)


@pytest.fixture(scope="module")
def crossed(crossing_base: Path, base: Path, scratch: Path) -> Iterator[Crossed]:
    with Lab.with_holdover(crossing_base, scratch, base) as lab:
        lab.path("/etc/holdover").mkdir()
        lab.path("/etc/holdover/holdover.toml").write_text('deliveries = ["fallback-dir"]\n')
        lab.root.run("holdover", "enable")
        fresh = Guest.start(lab.root, "fresh")
        offered = tuple(what for what in PROBES if fresh.probe_twice(what) == WORKS_TWICE)
        fresh.kill()
        guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        assert lab.full_upgrade().returncode == 0
        yield Crossed(lab, offered, guests)


@pytest.mark.parametrize("kind", KINDS)
def test_guest_loads_everything_twice(crossed: Crossed, kind: str) -> None:
    guest = crossed.guests[kind]
    seen = crossed.lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("protected", "fallback-dir")
    assert set(crossed.offered) >= set(LOST)
    found = {what: guest.probe_twice(what) for what in crossed.offered}
    assert found == dict.fromkeys(crossed.offered, WORKS_TWICE), guest.log
    assert guest.lives()


def test_unprotected_twin_loses_its_disks(crossing_base: Path, scratch: Path) -> None:
    """In a system of its own: the directory serves all guests of a build."""
    with Lab.stock(crossing_base, scratch) as stock:
        twin = Guest.start(stock.root, "twin")
        assert stock.full_upgrade().returncode == 0
        assert {what for what in LOST if ATTACHED in twin.probe_twice(what)} == set(), twin.log


def test_nothing_is_held_when_the_last_guest_is_gone(crossed: Crossed) -> None:
    """The last test: it ends them all."""
    for guest in crossed.guests.values():
        guest.kill()
    crossed.lab.root.run("holdover", "gc")
    assert crossed.lab.held() == []
    place = crossed.lab.path("/run/qemu")
    assert not [path for path in place.rglob("*") if path.is_symlink()]
