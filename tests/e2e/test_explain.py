# SPDX-License-Identifier: Apache-2.0
"""A library alone is replaced by one that does not fit; explain and status see it, and are right.

The library is the next release's: it needs a newer libc than the one that a running guest has.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from lab.distributions import CROSSINGS
from lab.kinds import KINDS

from holdover.demo import archive
from holdover.demo.guest import ATTACHED, REFUSED, Guest

pytestmark = pytest.mark.e2e

NEXT_CURL = "dpkg --force-all --unpack /var/cache/apt/archives/libcurl3*-gnutls_*.deb"
OTHERS = "hw-s390x-virtio-gpu-ccw"
"""A module of another executable."""


@dataclass
class Misfit:
    """Guests were protected, the twin was not, and then libcurl became too new for all of them."""

    lab: Lab
    guests: dict[str, Guest]
    twin: Guest
    before: tuple[int, dict[str, Any]]


def explained(lab: Lab, guest: Guest, *names: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and what is said of each module."""
    modules = lab.json("explain", str(guest.pid), *names)["modules"]
    done = lab.holdover("explain", str(guest.pid), *names)
    return done.returncode, {module["name"]: module for module in modules}


@pytest.fixture(scope="module")
def misfit(cache: Path, scratch: Path) -> Iterator[Misfit]:
    base = archive.prepare_base(cache, print, CROSSINGS["bookworm-to-trixie"].recipe)
    with Lab.with_holdover(base, scratch) as lab:
        guests = {name: kind.start(lab.root, name) for name, kind in KINDS.items()}
        twin = Guest.start(lab.root, "twin")
        before = explained(lab, twin)
        lab.root.run("holdover", "protect", *(str(guest.pid) for guest in guests.values()))
        lab.root.run("sh", "-c", NEXT_CURL)
        yield Misfit(lab, guests, twin, before)


def test_everything_would_load_before(misfit: Misfit) -> None:
    code, modules = misfit.before
    assert code == 0
    assert {name for name, module in modules.items() if module["state"] == "blocked"} <= {OTHERS}
    assert modules["block-rbd"]["steps"][0]["name"] == "librbd.so.1"
    assert {step["why"] for step in modules["block-rbd"]["steps"]} == {
        *("ld.so.cache", "RUNPATH", "mapped already"),
    }


def test_module_of_another_executable_is_told_and_does_not_count(misfit: Misfit) -> None:
    code, modules = misfit.before
    if OTHERS not in modules:
        pytest.skip(f"this QEMU has no {OTHERS}")
    assert "which this executable has not" in modules[OTHERS]["reason"]
    assert explained(misfit.lab, misfit.twin, OTHERS)[0] == 1


def test_explain_says_why_the_twin_loses_its_disk_and_is_right(misfit: Misfit) -> None:
    code, modules = explained(misfit.lab, misfit.twin)
    assert code == 1
    failing = {name for name, module in modules.items() if module["state"] == "blocked"} - {OTHERS}
    assert failing == {"block-curl"}
    assert "libcurl-gnutls.so.4 needs " in modules["block-curl"]["reason"]
    assert misfit.twin.probe_twice("https disk") == (REFUSED, REFUSED)
    assert misfit.twin.probe_twice("rbd disk") == (ATTACHED, ATTACHED)


def test_status_sees_it_too(misfit: Misfit) -> None:
    seen = misfit.lab.status(misfit.twin.pid)
    assert seen["state"] == "at-risk"
    assert "1 of its own modules would not load, block-curl: libcurl-gnutls.so.4" in seen["reason"]
    states = {module["name"]: module["state"] for module in seen["modules"]}
    assert (states["block-curl"], states["block-ssh"]) == ("blocked", "loads")
    assert misfit.lab.holdover("status").returncode == 1


@pytest.mark.parametrize("kind", KINDS)
def test_protected_guest_has_its_own(misfit: Misfit, kind: str) -> None:
    guest = misfit.guests[kind]
    assert misfit.lab.status(guest.pid)["state"] == "protected"
    code, modules = explained(misfit.lab, guest, "block-curl")
    assert (code, modules["block-curl"]["state"]) == (0, "loads")
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_way_of_the_linker_is_shown_with_what_is_not_held(misfit: Misfit) -> None:
    guest = next(iter(misfit.guests.values()))
    done = misfit.lab.holdover("explain", "-v", str(guest.pid), "block-rbd")
    assert "/lib/librbd.so.1" in done.stdout
    assert "libceph-common.so.2 opens files whose names it makes up" in done.stdout


def test_module_that_is_nowhere_is_a_usage_error(misfit: Misfit) -> None:
    done = misfit.lab.holdover("explain", str(misfit.twin.pid), "no-such-module")
    assert done.returncode == 2
    assert "no-such-module is no module" in done.stderr
