# SPDX-License-Identifier: Apache-2.0
"""What preview says before an upgrade is what happens to a guest without holdover in it."""

from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from lab.distributions import CROSSINGS, full_upgrade, turn_to_the_next
from lab.kinds import KINDS
from lab.libraries import RECIPE, change_library, changeable

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, PROBES, REFUSED, Guest
from holdover.demo.root import ThrowawayRoot

pytestmark = pytest.mark.e2e

NEEDS = {
    "https disk": "block-curl",
    "rbd disk": "block-rbd",
    "ssh disk": "block-ssh",
    "iscsi disk": "block-iscsi",
    "nfs disk": "block-nfs",
}
QEMU = ("install", "qemu-system-x86", "qemu-system-common", "qemu-block-extra")


def broken(lab: Lab, guest: Guest, *words: str) -> dict[str, str]:
    """For each module that would be lost, why."""
    return reasons(previewed(lab, *words), guest)


def reasons(answer: dict[str, Any], guest: Guest) -> dict[str, str]:
    (process,) = [p for p in answer["processes"] if p["pid"] == guest.pid]
    return {entry["module"]: entry["reason"] for entry in process["breaks"]}


def previewed(lab: Lab, *words: str) -> dict[str, Any]:
    return lab.json("preview", *words)


def everything(root: ThrowawayRoot) -> str:
    """Names, sizes and times of all files that holdover or apt could have touched."""
    places = ("/usr", "/etc", "/var/lib/dpkg", "/var/lib/holdover", "/run")
    found = root.run("find", *places, "-printf", "%p %s %T@ %i\\n", check=False)
    return found.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_preview_says_what_would_be_done_and_changes_nothing(lab: Lab, kind: str) -> None:
    guest = KINDS[kind].start(lab.root, kind)
    broken(lab, guest, *QEMU)  # whatever Python caches is cached now
    before = everything(lab.root)
    (process,) = previewed(lab, *QEMU)["processes"]
    assert everything(lab.root) == before
    lab.root.run("holdover", "protect")
    (snapshot,) = lab.held()
    files = process["modules"] + process["libraries"]
    assert (process["delivery"], files) == ("environment", snapshot["files"])
    assert 0 < process["bytes_written"] == snapshot["bytes_written"] < process["bytes_held"]


def test_what_would_break_breaks(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    would = broken(lab, guest, *QEMU)
    assert set(NEEDS.values()) <= would.keys()
    assert "replaces it by one of another build" in would["block-rbd"]
    lab.upgrade()
    assert guest.probe("rbd disk") == REFUSED


def test_change_of_something_else_breaks_nothing(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    assert broken(lab, guest, "remove", "gpgv") == {}


def test_library_that_fits_breaks_nothing_and_one_not_at_hand_might(
    cache: Path, scratch: Path
) -> None:
    base = archive.prepare_base(cache, print, RECIPE)
    with Lab.with_holdover(base, scratch) as lab:
        guest = Guest.start(lab.root, "guest")
        package = changeable(lab.root)[0]
        assert broken(lab, guest, "install", package) == {}
        lab.root.apt("clean")
        (reason,) = set(broken(lab, guest, "install", package).values())
        assert "cannot be told without the package" in reason
        change_library(lab, package)
        assert {guest.probe_twice(what) for what in NEEDS} == {(ATTACHED, ATTACHED)}


def test_distribution_upgrade_is_foreseen_module_by_module(cache: Path, scratch: Path) -> None:
    base = archive.prepare_base(cache, print, CROSSINGS["bookworm-to-trixie"].recipe)
    with Lab.with_holdover(base, scratch) as lab:
        guests = {what: Guest.start(lab.root, f"g{n}") for n, what in enumerate(NEEDS)}
        turn_to_the_next(lab.root)
        answer = previewed(lab, "full-upgrade")
        assert full_upgrade(lab.root).returncode == 0
        for what, guest in guests.items():
            assert NEEDS[what] in reasons(answer, guest)
            assert ATTACHED not in guest.probe_twice(what)


def test_removal_is_foreseen(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    would = broken(lab, guest, "purge", "librbd1")
    assert would == dict.fromkeys(would, "qemu-block-extra is removed")
    lab.root.apt("purge", "librbd1")
    lost = {what for what in NEEDS if guest.probe(what) == REFUSED}
    assert {NEEDS[what] for what in lost} == would.keys() & set(NEEDS.values())
    kept = set(PROBES) - lost
    assert all(guest.probe(what) == ATTACHED for what in kept - {"gluster disk"})
