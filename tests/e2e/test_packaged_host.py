# SPDX-License-Identifier: Apache-2.0
"""The life of the package on a host with systemd and libvirt: installed, upgraded, removed."""

import shutil
from pathlib import Path

import pytest
from lab import BootedLab
from lab.image import IMAGE
from lab.packaged import LATER

pytestmark = pytest.mark.e2e

PROTECTED = "b946be0bd003408cba962f085ef6882a"  # MESSAGE_ID


def install(lab: BootedLab, package: Path) -> str:
    shutil.copy(package, lab.root / "srv")
    return lab.run("apt-get", "install", "--yes", f"/srv/{package.name}").stdout


def loads(lab: BootedLab, name: str, *targets: str) -> bool:
    """Network disks are attached and read; the second would kill a stock guest."""
    return all(
        lab.attach_http_disk(name, target).returncode == 0
        and lab.read_disk(name, target, 4096) == IMAGE[:4096]
        for target in targets
    )


def test_guest_of_libvirt_outlives_upgrade_and_removal_of_holdover(
    booted: BootedLab, deb: Path, later_deb: Path
) -> None:
    install(booted, deb)
    assert booted.run("systemctl", "is-active", "holdover.timer").stdout == "active\n"
    assert not (booted.root / "etc/systemd/system/holdover.timer").exists()  # the package has it
    catalogued = booted.run("journalctl", "--list-catalog", PROTECTED).stdout
    assert "A guest is protected" in catalogued
    for name in ("guest", "twin"):
        booted.define_guest(name)
    booted.run("holdover", "protect")
    install(booted, later_deb)
    assert LATER in booted.run("holdover", "--version").stdout
    booted.upgrade_qemu()
    booted.run("holdover", "release", "--force", str(booted.guest_pid("twin")))
    assert loads(booted, "guest", "vdb", "vdc")

    told = booted.run("apt-get", "purge", "--yes", "holdover").stdout
    assert f"stays, for guest ({booted.guest_pid('guest')})" in told
    assert "they go at the next boot" in told
    assert loads(booted, "guest", "vdd", "vde")
    for _ in range(2):
        booted.attach_http_disk("twin", "vdb")
    assert booted.domain_state_after("running", "twin") == "shut off (crashed)"

    booted.run("virsh", "destroy", "guest")
    booted.run("systemd-tmpfiles", "--remove", "--boot", "holdover-left.conf")
    left = booted.run("find", "/etc", "/usr", "/var/lib", "-iname", "*holdover*").stdout
    assert left == ""
    assert booted.run("systemctl", "list-units", "--all", "holdover*", "--no-legend").stdout == ""


def test_timer_that_an_operator_disabled_stays_so_in_an_upgrade(
    booted: BootedLab, deb: Path, later_deb: Path
) -> None:
    def timer() -> list[str]:
        words = ("is-enabled", "is-active")
        return [booted.run("systemctl", w, "holdover.timer", check=False).stdout for w in words]

    install(booted, deb)
    booted.run("systemctl", "disable", "--now", "holdover.timer")
    said = install(booted, later_deb)
    assert "/etc/apt/apt.conf.d/90holdover: updated" in said
    assert timer() == ["disabled\n", "inactive\n"]
    booted.run("holdover", "enable")
    assert timer() == ["enabled\n", "active\n"]
