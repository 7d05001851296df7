# SPDX-License-Identifier: Apache-2.0
"""Guests that failed a late load already: told from outside, and left as they are."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, REFUSED, Guest
from holdover.environ import read_environment
from holdover.memory import Memory
from holdover.procfs import ProcFs

pytestmark = pytest.mark.e2e

COMPLAINT = "failed to initialize module: /usr/lib/x86_64-linux-gnu/qemu/block-ssh.so"
TOLD = "it failed to load block-curl, and the next load of anything kills it"
UNKNOWN = "whether a load failed already cannot be known"


@dataclass(frozen=True)
class Host:
    """Four guests that nobody protected; QEMU was upgraded, and one was asked to load a module."""

    lab: Lab
    poisoned: Guest
    calm: Guest
    mute: Guest
    """Its stderr is /dev/null."""
    again: Guest
    """It appends to the log of an earlier run, which was poisoned."""

    def reason(self, guest: Guest, state: str) -> str:
        seen = self.lab.status(guest.pid)
        assert seen["state"] == state, seen["reason"]
        reason: str = seen["reason"]
        return reason


@pytest.fixture(scope="module")
def host(base: Path, scratch: Path) -> Iterator[Host]:
    with Lab.with_holdover(base, scratch) as lab:
        lab.path("/tmp/old.log").write_text(f"{COMPLAINT}\n")
        time.sleep(0.2)  # no run is as short as that
        made = Host(
            lab,
            Guest.start(lab.root, "poisoned"),
            Guest.start(lab.root, "calm"),
            Guest.start(lab.root, "mute", wrapper=("sh", "-c", 'exec "$@" 2>/dev/null', "sh")),
            Guest.start(lab.root, "again", wrapper=("sh", "-c", 'exec "$@" 2>>/tmp/old.log', "sh")),
        )
        lab.upgrade()
        assert made.poisoned.probe("https disk") == REFUSED
        yield made


def touched(lab: Lab, guest: Guest) -> object:
    """All of a guest that holdover could change."""
    proc = ProcFs(lab.root.inside / "proc")
    with Memory(proc, guest.pid) as memory:
        return read_environment(proc, guest.pid, memory)[1], proc.read(guest.pid, "mountinfo")


def test_a_failed_load_is_told_with_its_module(host: Host) -> None:
    assert host.reason(host.poisoned, "poisoned").startswith(TOLD)
    assert host.lab.status(host.poisoned.pid)["poisoned_by"] == "block-curl"
    assert host.lab.holdover("status", str(host.poisoned.pid)).returncode == 1
    explained = host.lab.holdover("explain", str(host.poisoned.pid), "block-ssh")
    assert "would fail  another load failed already: this one kills it" in explained.stdout


def test_who_tried_nothing_is_at_risk_without_doubt(host: Host) -> None:
    reason = host.reason(host.calm, "at-risk")
    assert "of 31 modules on disk are of another build" in reason
    assert "failed" not in reason
    assert host.lab.status(host.calm.pid)["unheard"] is None


def test_without_a_log_it_cannot_be_known(host: Host) -> None:
    assert host.reason(host.mute, "at-risk").endswith(f"; {UNKNOWN}: its stderr is /dev/null")


def test_the_words_of_an_earlier_run_are_doubt_and_no_more(host: Host) -> None:
    doubt = f"; {UNKNOWN}: its log tells that block-ssh failed, perhaps in an earlier run"
    assert host.reason(host.again, "at-risk").endswith(doubt)
    assert host.lab.holdover("defuse", str(host.again.pid)).returncode == 0
    assert host.reason(host.again, "defused").endswith(doubt)
    assert (host.again.probe("https disk"), host.again.probe("https disk")) == (REFUSED, REFUSED)


@pytest.mark.parametrize("command", ["protect", "defuse"])
def test_nothing_is_done_to_it(host: Host, command: str) -> None:
    before = touched(host.lab, host.poisoned)
    pid = str(host.poisoned.pid)
    assert "left as it is" in host.lab.holdover(command, pid, "--dry-run").stdout
    done = host.lab.holdover(command, pid)
    assert done.returncode == 1
    assert TOLD in done.stdout
    assert touched(host.lab, host.poisoned) == before


def test_the_old_files_cure_nobody_who_failed(host: Host) -> None:
    """And no transaction is stopped for that one. This ends the guests, so it comes last."""
    host.lab.downgrade()
    assert host.reason(host.poisoned, "poisoned").startswith(TOLD)
    assert host.reason(host.calm, "current") == "the modules on disk are its own"
    assert host.reason(host.mute, "current").endswith(f"; {UNKNOWN}: its stderr is /dev/null")
    host.lab.holdover("enable")
    settings = host.lab.path("/etc/holdover/holdover.toml")
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("hook.veto = true\n")
    before = touched(host.lab, host.poisoned)
    upgraded = host.lab.upgrade()
    assert "holdover: protected 3: " in upgraded.stdout
    assert f"holdover: poisoned ({host.poisoned.pid}) is left alone: {TOLD}" in upgraded.stderr
    assert touched(host.lab, host.poisoned) == before
    assert host.reason(host.poisoned, "poisoned").startswith(TOLD)
    for guest in (host.calm, host.mute, host.again):
        assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)
    assert host.poisoned.probe("ssh disk") == DIED


def test_one_that_is_pointed_at_a_view_can_be_released(lab: Lab) -> None:
    """It needs the view as little as anything else; until then it is kept."""
    guest = Guest.start(lab.root, "late")
    assert lab.holdover("protect").returncode == 0
    lab.upgrade()
    assert lab.holdover("release", str(guest.pid)).returncode == 1
    # as if it had failed before it was protected, and nobody could have known
    with lab.path("/tmp/late.log").open("a") as log:
        log.write(f"{COMPLAINT}\n")
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("poisoned", "environment")
    lab.holdover("gc")
    assert [held["id"] for held in lab.held()] == [seen["snapshot"]]
    assert lab.holdover("release", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["delivery"] is None
    lab.holdover("gc")
    assert lab.held() == []
