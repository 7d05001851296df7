# SPDX-License-Identifier: Apache-2.0
"""A guest of libvirt, confined as libvirt confines it, in a system that was really booted."""

from pathlib import Path

import pytest
from lab import BootedLab
from lab.image import IMAGE

from holdover.demo.root import install_holdover

pytestmark = pytest.mark.e2e


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


def test_unprotected_twin_crashes(booted: BootedLab) -> None:
    booted.define_guest("twin")
    booted.upgrade_qemu()
    first = booted.attach_http_disk("twin", "vdb")
    assert "Unknown driver 'http'" in first.stderr
    assert booted.attach_http_disk("twin", "vdb").returncode != 0
    assert booted.domain_state_after("running", "twin") == "shut off (crashed)"


def test_lab_runs_the_newest_of_two_builds(booted: BootedLab) -> None:
    older, newer = booted.qemu_versions
    assert older != newer
    assert Path(booted.root / "usr/bin/qemu-system-x86_64").exists()
