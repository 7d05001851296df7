# SPDX-License-Identifier: Apache-2.0
"""Guests of hosts where holdover came too late: it gets their modules back from somewhere.

The packages of the older build are the archive's own. Nothing is installed in a rescue, and what
apt and dpkg know is the same before and after it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from lab.distributions import CROSSINGS
from lab.kinds import KINDS
from unit.schemas import check

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest
from holdover.demo.root import install_holdover

pytestmark = pytest.mark.e2e

WORKS_TWICE = (ATTACHED, ATTACHED)
CACHE = "/var/cache/apt/archives"
PACKAGE_STATE = """
cd / && sha256sum var/lib/dpkg/status var/lib/apt/extended_states
find var/lib/apt/lists var/cache/apt var/lib/dpkg -type f -printf '%p %s %T@\\n' | sort
"""


@dataclass
class Answer:
    """What a rescue said."""

    code: int
    json: dict[str, Any]

    def of(self, guest: Guest) -> dict[str, Any]:
        (found,) = (p for p in self.json["processes"] if p["pid"] == guest.pid)
        process: dict[str, Any] = found
        return process

    @property
    def origins(self) -> dict[str, str]:
        return {module["name"]: module["origin"] for module in self.json["modules"]}


def rescue(lab: Lab, *words: str) -> Answer:
    done = lab.holdover("rescue", *words, "--json")
    assert done.stdout, done.stderr
    answer = json.loads(done.stdout)
    check(answer)
    return Answer(done.returncode, answer)


def tried(guest: Guest) -> dict[str, tuple[str, str]]:
    return {what: guest.probe_twice(what) for what in PROBES}


ALL_WORK = dict.fromkeys(PROBES, WORKS_TWICE)


# -- upgraded within the release, holdover installed afterwards ------------------------------------


@dataclass
class Late:
    """A host where holdover was installed after the upgrade, and its guests were rescued."""

    lab: Lab
    guests: dict[str, Guest] = field(default_factory=dict)
    twin: Guest | None = None
    poisoned: Guest | None = None
    """It failed one attach after the upgrade."""
    package_state: tuple[str, str] = ("", "")
    answer: Answer | None = None
    shown: str = ""


@pytest.fixture(scope="module")
def late(base: Path, scratch: Path) -> Iterator[Late]:
    with Lab.stock(base, scratch) as lab:
        made = Late(lab)
        made.guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        made.twin, made.poisoned = (Guest.start(lab.root, n) for n in ("twin", "poisoned"))
        lab.upgrade()
        assert made.poisoned.probe("https disk") == REFUSED
        install_holdover(lab.root.root)
        before = lab.run("sh", "-c", PACKAGE_STATE).stdout
        made.answer = rescue(lab, "--all")
        made.package_state = before, lab.run("sh", "-c", PACKAGE_STATE).stdout
        made.shown = lab.holdover("rescue", "--all").stdout
        lab.root.run("holdover", "release", "--force", str(made.twin.pid))
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_guest_is_protected_and_loads_everything_twice(late: Late, kind: str) -> None:
    guest = late.guests[kind]
    assert late.answer is not None
    assert late.answer.of(guest)["state"] == late.lab.status(guest.pid)["state"] == "protected"
    assert tried(guest) == ALL_WORK, guest.log


def test_guest_that_failed_an_attach_is_named_and_left_untouched(late: Late) -> None:
    assert late.answer is not None
    assert late.poisoned is not None
    told = late.answer.of(late.poisoned)
    assert (told["state"], told["delivery"], told["changed"]) == ("poisoned", None, False)
    assert late.answer.code == 1
    assert late.poisoned.probe("ssh disk") == DIED


def test_twin_that_was_not_rescued_dies(late: Late) -> None:
    assert late.twin is not None
    assert late.twin.probe_twice("https disk") == (REFUSED, DIED)


def test_nothing_of_the_package_managers_state_changed(late: Late) -> None:
    before, after = late.package_state
    assert before
    assert after == before


def test_it_is_said_where_each_module_came_from(late: Late) -> None:
    assert late.answer is not None
    packages = {
        f"{package['file_name']} (package cache)" for package in late.answer.json["packages"]
    }
    assert {origin.split("_")[0] for origin in packages} >= {
        "qemu-block-extra",
        "qemu-system-common",
    }
    origins = late.answer.origins
    assert origins["block-rbd"] in packages
    mapped = {name for name, origin in origins.items() if origin.startswith("mapped by process")}
    assert mapped == {"accel-tcg-x86_64"}  # that is what these guests start with
    assert {origins[name] for name in origins.keys() - mapped} <= packages
    assert late.answer.json["bytes_downloaded"] == 0


def test_who_is_protected_needs_no_rescue(late: Late) -> None:
    assert "held" in late.shown
    assert "came from" not in late.shown


def test_nothing_is_left_of_the_packages(late: Late) -> None:
    assert list(late.lab.path("/usr/lib/holdover/rescue").iterdir()) == []
    assert all(snapshot["leases"] for snapshot in late.lab.held())


# -- a host without network; a module package that came later --------------------------------------


@dataclass
class Offline:
    """One guest that was started before qemu-block-extra was installed, and each attempt."""

    lab: Lab
    guest: Guest
    twin: Guest
    empty_handed: Answer
    harmless: dict[str, tuple[str, str]]
    corrupted: Answer
    substituted: Answer
    right: Answer


OLD_PACKAGES = "/srv/old"


@pytest.fixture(scope="module")
def offline(base: Path, scratch: Path) -> Iterator[Offline]:
    with Lab.stock(base, scratch) as lab:
        lab.root.apt("remove", "qemu-block-extra")
        guest, twin = (Guest.start(lab.root, name) for name in ("early", "twin"))
        lab.upgrade()
        install_holdover(lab.root.root)
        old, new = (version.partition(":")[2] for version in (lab.older, lab.newer))
        move = f"mkdir {OLD_PACKAGES}; mv {CACHE}/qemu-*%3a{old}_*.deb {OLD_PACKAGES}"
        lab.root.run("sh", "-c", move)
        (extra,) = lab.path(OLD_PACKAGES).glob("qemu-block-extra_*")
        content = extra.read_bytes()
        attempt = [str(guest.pid), "-o", "rescue.network=no"]
        empty_handed = rescue(lab, *attempt)
        harmless = {what: guest.probe_twice(what) for what in ("https disk", "rbd disk")}
        extra.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        corrupted = rescue(lab, *attempt, "--from", OLD_PACKAGES)
        (newer,) = lab.path(CACHE).glob(f"qemu-block-extra_*{new}_*")
        extra.write_bytes(newer.read_bytes())
        substituted = rescue(lab, *attempt, "--from", OLD_PACKAGES)
        extra.write_bytes(content)
        right = rescue(lab, *attempt, "--from", OLD_PACKAGES)
        yield Offline(lab, guest, twin, empty_handed, harmless, corrupted, substituted, right)


def test_without_network_the_exact_files_are_listed(offline: Offline) -> None:
    answer = offline.empty_handed
    assert answer.code == 1
    listed = {Path(file["file_name"]).name: file for file in answer.json["missing"]}
    there = {path.name for path in offline.lab.path(OLD_PACKAGES).iterdir()}
    assert {name.split("_")[0] for name in listed} == {name.split("_")[0] for name in there}
    assert all(file["digest"].startswith("sha256:") for file in listed.values())
    assert all(file["version"] == offline.lab.older for file in listed.values())


def test_who_cannot_be_rescued_yet_is_defused(offline: Offline) -> None:
    assert offline.empty_handed.of(offline.guest)["state"] == "defused"
    assert set(offline.harmless.values()) == {(REFUSED, REFUSED)}


@pytest.mark.parametrize("attempt", ["corrupted", "substituted"])
def test_wrong_package_file_is_refused_with_its_name_and_both_hashes(
    offline: Offline, attempt: str
) -> None:
    answer: Answer = getattr(offline, attempt)
    assert answer.code == 1
    assert answer.of(offline.guest)["state"] == "defused"
    (expected,) = {
        file["digest"].removeprefix("sha256:")
        for file in offline.empty_handed.json["missing"]
        if file["name"] == "qemu-block-extra"
    }
    told = " ".join([*answer.json["notes"], answer.of(offline.guest)["reason"]])
    assert "qemu-block-extra_" in told
    assert expected in told
    assert (
        len({word.strip(";,.").removeprefix("sha256:") for word in told.split() if len(word) >= 64})
        >= 2
    )


def test_right_files_from_a_directory_rescue(offline: Offline) -> None:
    assert offline.right.code == 0, offline.right.json
    assert offline.right.of(offline.guest)["state"] == "protected"
    assert OLD_PACKAGES in offline.right.origins["block-rbd"]
    assert tried(offline.guest) == ALL_WORK, offline.guest.log


def test_twin_of_the_early_guest_dies(offline: Offline) -> None:
    assert offline.twin.probe_twice("rbd disk") == (REFUSED, DIED)


# -- after an upgrade of the distribution ----------------------------------------------------------


@pytest.fixture(scope="module")
def crossed(cache: Path, scratch: Path) -> Iterator[Late]:
    """Debian 12 guests on a host that is Debian 13, and only knows packages of that."""
    base = archive.prepare_base(cache, print, CROSSINGS["bookworm-to-trixie"].recipe)
    with Lab.stock(base, scratch) as lab:
        made = Late(lab)
        made.guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        made.twin = Guest.start(lab.root, "twin")
        assert lab.full_upgrade().returncode == 0
        install_holdover(lab.root.root)
        before = lab.run("sh", "-c", PACKAGE_STATE).stdout
        made.answer = rescue(lab, "--all")
        made.package_state = before, lab.run("sh", "-c", PACKAGE_STATE).stdout
        lab.root.run("holdover", "release", "--force", str(made.twin.pid))
        yield made


@pytest.mark.distributions
@pytest.mark.parametrize("kind", KINDS)
def test_guest_of_the_release_before_loads_everything_twice(crossed: Late, kind: str) -> None:
    guest = crossed.guests[kind]
    assert crossed.answer is not None
    assert crossed.answer.code == 0, crossed.answer.json
    assert (
        crossed.answer.of(guest)["state"] == crossed.lab.status(guest.pid)["state"] == "protected"
    )
    assert tried(guest) == ALL_WORK, guest.log


@pytest.mark.distributions
def test_modules_and_libraries_of_the_release_before_are_from_its_packages(crossed: Late) -> None:
    assert crossed.answer is not None
    (snapshot,) = {module["snapshot"] for module in crossed.answer.json["modules"]}
    files = crossed.lab.json("show", snapshot)["files"]
    libraries = {file["path"]: file["origin"] for file in files if "/" in file["path"]}
    assert libraries["lib/librbd.so.1"].startswith("librbd1_16.")
    packages = {package["file_name"] for package in crossed.answer.json["packages"]}
    assert {origin.partition(" (")[0] for origin in libraries.values()} <= packages
    assert crossed.answer.json["bytes_downloaded"] > 0


@pytest.mark.distributions
def test_release_before_leaves_no_trace_in_the_package_managers_state(crossed: Late) -> None:
    before, after = crossed.package_state
    assert before
    assert after == before


@pytest.mark.distributions
def test_twin_of_the_release_before_loses_its_disks(crossed: Late) -> None:
    assert crossed.twin is not None
    assert crossed.twin.probe_twice("rbd disk") == (REFUSED, REFUSED)
