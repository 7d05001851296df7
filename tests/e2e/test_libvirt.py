# SPDX-License-Identifier: Apache-2.0
"""A guest of libvirt, confined as libvirt confines it, in a system that was really booted."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from lab import BootedLab
from lab.image import IMAGE

from holdover.demo.guest import ATTACHED, PROBES, Guest
from holdover.demo.root import ThrowawayRoot, install_holdover

pytestmark = pytest.mark.e2e

HTTPS = {"node-name": "x", "driver": "https", "url": "https://127.0.0.1:1/x"}
LATE_LOAD = json.dumps({"execute": "blockdev-add", "arguments": HTTPS})


def state_of(booted: BootedLab, pid: int) -> dict[str, Any]:
    done = booted.run("holdover", "status", "--json", str(pid), check=False)
    (process,) = json.loads(done.stdout)["processes"]
    found: dict[str, Any] = process
    return found


def poisoned_by(booted: BootedLab, pid: int) -> str | None:
    """Who keeps the log may be a moment behind."""
    deadline = time.monotonic() + 30
    while (seen := state_of(booted, pid))["state"] != "poisoned" and time.monotonic() < deadline:
        time.sleep(0.1)
    module: str | None = seen["poisoned_by"]
    return module


@pytest.mark.parametrize("delivery", ["environment", "mount"])
def test_network_disk_is_attached_and_read_after_the_upgrade(
    booted: BootedLab, delivery: str
) -> None:
    install_holdover(booted.root)
    booted.leave_guests_to_package_managers()
    for name in ("early", "late"):
        booted.define_guest(name)
    assert booted.attach_http_disk("early", "vdb").returncode == 0
    assert booted.read_disk("early", "vdb", 4096) == IMAGE[:4096]
    if delivery == "environment":
        booted.run("holdover", "enable")
    else:
        booted.run("holdover", "protect", "--delivery", "mount")

    upgraded = booted.upgrade_qemu()

    assert ("holdover: protected 2" in upgraded.stdout) == (delivery == "environment")
    for name in ("early", "late"):
        pid = str(booted.guest_pid(name))
        status = booted.run("holdover", "status", pid).stdout
        assert name in status
        assert "protected" in status
        assert delivery in status
        for disk in ("vdc", "vdd"):
            assert booted.attach_http_disk(name, disk).returncode == 0
            assert booted.read_disk(name, disk, 4096) == IMAGE[:4096]
        assert booted.domain_state(name).startswith("running")


WRAPPER = """\
#!/bin/sh
exec holdover run -- /usr/bin/qemu-system-x86_64 "$@"
"""
UNIT = ("systemd-run", "--quiet", "--unit=unit", "holdover", "run", "--")


def start_as_unit(lab: BootedLab) -> Guest:
    """As docs/running.md has it."""
    options = "-machine q35,accel=tcg -nodefaults -display none -S -name guest=unit"
    monitor = "-qmp unix:/tmp/unit.sock,server=on,wait=off -pidfile /tmp/unit.pid"
    lab.run(*UNIT, "qemu-system-x86_64", *options.split(), *monitor.split())
    pid = lab.run(
        "sh", "-c", "while ! test -s /tmp/unit.pid; do sleep 0.1; done; cat /tmp/unit.pid"
    )
    return Guest(ThrowawayRoot(lab.root, lab.leader), "unit", int(pid.stdout))


def test_guests_that_run_started_and_one_that_was_preloaded(booted: BootedLab) -> None:
    """An emulator of libvirt that is a script, a unit of systemd; and one asked through virsh."""
    install_holdover(booted.root)
    booted.leave_guests_to_package_managers()
    wrapper = booted.root / "usr/local/bin/qemu-held"
    wrapper.write_text(WRAPPER)
    wrapper.chmod(0o755)
    booted.define_guest("wrapped", emulator="/usr/local/bin/qemu-held")
    unit = start_as_unit(booted)
    booted.define_guest("asked")
    asked = str(booted.guest_pid("asked"))
    preloaded = booted.run("holdover", "protect", "--delivery", "preload", asked).stdout
    assert "libvirt has marked the domain as tainted" in preloaded
    booted.run("holdover", "enable")

    assert "holdover: protected 3" in booted.upgrade_qemu().stdout

    booted.run("holdover", "release", "--force", asked)
    for disk in ("vdc", "vdd"):
        assert booted.attach_http_disk("asked", disk).returncode == 0
        assert booted.read_disk("asked", disk, 4096) == IMAGE[:4096]
    pids = {"wrapped": booted.guest_pid("wrapped"), "unit": unit.pid}
    for name, pid in pids.items():
        status = booted.run("holdover", "status", str(pid)).stdout.splitlines()[1].split()
        assert status[1:4] == [name, "protected", "run"]
    for disk in ("vdc", "vdd"):
        assert booted.attach_http_disk("wrapped", disk).returncode == 0
        assert booted.read_disk("wrapped", disk, 4096) == IMAGE[:4096]
    assert booted.domain_state("wrapped").startswith("running")
    assert {unit.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}
    booted.define_guest("newer", emulator="/usr/local/bin/qemu-held")
    assert booted.attach_http_disk("newer", "vdc").returncode == 0


def test_guest_is_preloaded_through_libvirt_which_taints_its_domain(booted: BootedLab) -> None:
    install_holdover(booted.root)
    booted.define_guest("loaded")
    told = booted.run("holdover", "protect", "--delivery", "preload", check=False).stdout
    assert "tainted by it (custom-monitor)" in told
    booted.upgrade_qemu()
    for disk in ("vdb", "vdc"):
        assert booted.attach_http_disk("loaded", disk).returncode == 0
        assert booted.read_disk("loaded", disk, 4096) == IMAGE[:4096]
    assert booted.domain_state("loaded").startswith("running")
    assert "custom-monitor" in (booted.root / "var/log/libvirt/qemu/loaded.log").read_text()


def test_unprotected_twin_is_seen_to_be_poisoned_and_crashes(booted: BootedLab) -> None:
    """By the log that virtlogd keeps of it, or by the journal where a service started it."""
    install_holdover(booted.root)
    for name in ("twin", "calm"):
        booted.define_guest(name)
    service = booted.start_service("service")
    booted.upgrade_qemu()
    assert not state_of(booted, service)["reason"].endswith("not asked now")

    first = booted.attach_http_disk("twin", "vdb")
    assert "Unknown driver 'http'" in first.stderr
    assert "Unknown driver 'https'" in booted.ask_service("service", LATE_LOAD)

    for pid in (booted.guest_pid("twin"), service):
        assert poisoned_by(booted, pid) == "block-curl"
    seen = state_of(booted, booted.guest_pid("calm"))
    assert (seen["state"], seen["unheard"]) == ("at-risk", None)
    assert "failed" not in seen["reason"]

    assert booted.attach_http_disk("twin", "vdb").returncode != 0
    assert booted.domain_state_after("running", "twin") == "shut off (crashed)"
    booted.run("virsh", "start", "twin")  # with the log of the one that died
    seen = state_of(booted, booted.guest_pid("twin"))
    assert (seen["state"], seen["unheard"]) == ("current", None)


def test_lab_runs_the_newest_of_two_builds(booted: BootedLab) -> None:
    older, newer = booted.qemu_versions
    assert older != newer
    assert Path(booted.root / "usr/bin/qemu-system-x86_64").exists()
