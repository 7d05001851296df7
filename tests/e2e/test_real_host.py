# SPDX-License-Identifier: Apache-2.0
"""A host as people have it: systemd, libvirt, and upgrades that go as upgrades go."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import BootedLab
from lab.booted import QEMU_PACKAGES, VAR_ELSEWHERE
from lab.image import IMAGE

from holdover.demo.root import install_holdover

pytestmark = pytest.mark.e2e

CRASHED = "shut off (crashed)"

# A package that stands in the middle of an upgrade: QEMU's modules are replaced before it is
# configured, and the transaction waits for it as long as /run/stalled is there.
CONTROL = """\
Package: {name}
Version: 1
Architecture: all
Maintainer: nobody <nobody@localhost>
Description: stands in the way
Pre-Depends: qemu-block-extra (= {version})
"""
STALLS_ONCE = (
    "test -e /srv/seen || touch /srv/seen /run/stalled; while test -e /run/stalled; do :; done"
)
FAILS_ONCE = "test -e /srv/seen || { touch /srv/seen; exit 1; }"
WITHOUT_ASKING = ("--no-install-recommends", "--allow-downgrades", "--yes", "--quiet")


def prepare(lab: BootedLab, *guests: str) -> None:
    """Install holdover, enable it and nothing else, and start guests."""
    install_holdover(lab.root)
    lab.leave_guests_to_package_managers()
    lab.run("holdover", "enable")
    for name in guests:
        lab.define_guest(name)


def state(lab: BootedLab, name: str) -> str:
    """What `holdover status` says of a guest."""
    shown = lab.run("holdover", "status", str(lab.guest_pid(name)), check=False).stdout
    return shown.splitlines()[1].split()[2]


def loads_twice(lab: BootedLab, name: str) -> bool:
    """A network disk is attached and read, and another one; the second kills a stock guest."""
    for target in ("vdb", "vdc"):
        if lab.attach_http_disk(name, target).returncode:
            return False
        if lab.read_disk(name, target, 4096) != IMAGE[:4096]:
            return False
    return lab.domain_state(name).startswith("running")


def dies_of_it(lab: BootedLab, name: str) -> bool:
    lab.attach_http_disk(name, "vdb")
    lab.attach_http_disk(name, "vdb")
    return lab.domain_state_after("running", name) == CRASHED


def version(lab: BootedLab) -> str:
    return lab.run("dpkg-query", "-W", "-f", "${Version}", "qemu-block-extra").stdout


def wait_until(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not truth():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


# -- the upgrade that nobody watches ---------------------------------------------------------------


def test_unattended_upgrade_at_night(booted: BootedLab) -> None:
    """The very service that a timer starts on every Debian."""
    prepare(booted, "guest")
    booted.run("systemctl", "start", "apt-daily-upgrade.service")
    assert version(booted) == booted.qemu_versions[1]
    assert state(booted, "guest") == "protected"
    assert loads_twice(booted, "guest")
    log = booted.root / "var/log/unattended-upgrades/unattended-upgrades-dpkg.log"
    assert "holdover: protected 1: guest" in log.read_text()


def test_doctor_finds_all_in_order_and_says_if_the_timer_is_not(booted: BootedLab) -> None:
    prepare(booted)
    assert "holdover.timer calls holdover" in booted.run("holdover", "doctor").stdout
    booted.run("systemctl", "disable", "--now", "holdover.timer")
    done = booted.run("holdover", "doctor", check=False)
    assert done.returncode == 1
    assert "holdover.timer is not enabled; systemctl enable --now holdover.timer" in done.stdout


def test_unattended_upgrade_without_holdover(booted: BootedLab) -> None:
    booted.define_guest("twin")
    booted.run("systemctl", "start", "apt-daily-upgrade.service")
    assert version(booted) == booted.qemu_versions[1]
    assert dies_of_it(booted, "twin")


def test_dpkg_by_hand(booted: BootedLab) -> None:
    prepare(booted, "guest")
    booted.run("sh", "-c", "dpkg --install /var/cache/apt/archives/*.deb")
    assert version(booted) == booted.qemu_versions[1]
    assert state(booted, "guest") == "protected"
    assert loads_twice(booted, "guest")


# -- the upgrade that is interrupted ---------------------------------------------------------------


def build_package(lab: BootedLab, name: str, postinst: str) -> str:
    """A package file that is installed after QEMU's modules of the newer build."""
    directory = lab.root / "srv" / name / "DEBIAN"
    directory.mkdir(parents=True)
    (directory / "control").write_text(CONTROL.format(name=name, version=lab.qemu_versions[1]))
    (directory / "postinst").write_text(f"#!/bin/sh\n{postinst}\n")
    (directory / "postinst").chmod(0o755)
    lab.run("dpkg-deb", "--build", f"/srv/{name}", f"/srv/{name}.deb")
    return f"/srv/{name}.deb"


def start_upgrade_that_stalls(lab: BootedLab) -> str:
    """The pid of an apt, the first of its process group, that has replaced the modules."""
    package = build_package(lab, "stalls", STALLS_ONCE)
    words = " ".join(("apt-get", "install", *WITHOUT_ASKING, *QEMU_PACKAGES, package))
    pid = lab.run("sh", "-c", f"setsid {words} </dev/null >/srv/apt.log 2>&1 & echo $!").stdout
    wait_until(lambda: (lab.root / "run/stalled").exists())
    return pid.strip()


def running(lab: BootedLab, *names: str) -> list[str]:
    """Pids of the processes of these names."""
    return lab.run("pgrep", "-x", "|".join(names), check=False).stdout.split()


def press_control_c(lab: BootedLab, apt: str) -> None:
    """A terminal sends it to all of its foreground."""
    lab.run("kill", "-INT", "--", f"-{apt}", *running(lab, "dpkg", "stalls.postinst"))


def kill_apt(lab: BootedLab, apt: str) -> None:
    """dpkg is left alone, and ends what it was told to do."""
    lab.run("kill", "-KILL", apt)
    wait_until(lambda: not running(lab, "apt-get"))
    assert running(lab, "dpkg")
    (lab.root / "run/stalled").unlink()


def kill_both(lab: BootedLab, apt: str) -> None:
    lab.run("kill", "-KILL", apt, *running(lab, "dpkg"))


@pytest.mark.parametrize("interrupt", [press_control_c, kill_apt, kill_both])
def test_upgrade_that_is_interrupted_and_then_made_good(
    booted: BootedLab, interrupt: Callable[[BootedLab, str], None]
) -> None:
    prepare(booted, "early", "late")
    apt = start_upgrade_that_stalls(booted)
    assert version(booted) == booted.qemu_versions[1]
    assert state(booted, "early") == "protected"
    interrupt(booted, apt)
    wait_until(lambda: not running(booted, "apt-get", "dpkg"))
    (booted.root / "run/stalled").unlink(missing_ok=True)
    assert (booted.root / "run/holdover/transaction").exists() == (interrupt is not press_control_c)
    assert loads_twice(booted, "early")

    booted.run("dpkg", "--configure", "-a")
    booted.run("apt-get", "-qy", "-f", "install")
    booted.upgrade_qemu()
    audit = booted.run("dpkg", "--audit")
    assert audit.stdout == ""
    assert not (booted.root / "run/holdover/transaction").exists()
    for name in ("early", "late"):
        assert state(booted, name) == "protected"
    assert loads_twice(booted, "late")
    booted.define_guest("new")
    assert state(booted, "new") == "current"
    leases = sorted(
        path.name.split("-")[0] for path in (booted.root / "run/holdover/lease").iterdir()
    )
    assert leases == sorted(str(booted.guest_pid(name)) for name in ("early", "late"))


def test_upgrade_that_is_interrupted_without_holdover(booted: BootedLab) -> None:
    booted.define_guest("twin")
    start_upgrade_that_stalls(booted)
    assert dies_of_it(booted, "twin")
    (booted.root / "run/stalled").unlink()


def test_maintainer_script_of_another_package_fails_and_the_next_run_mends_it(
    booted: BootedLab,
) -> None:
    prepare(booted, "early", "late")
    package = build_package(booted, "fails", FAILS_ONCE)
    words = ("apt-get", "install", *WITHOUT_ASKING, *QEMU_PACKAGES, package)
    assert booted.run(*words, check=False).returncode == 100
    assert version(booted) == booted.qemu_versions[1]
    assert state(booted, "early") == "protected"
    assert loads_twice(booted, "early")
    booted.run("apt-get", "-qy", "-f", "install")
    booted.run(*words)
    assert booted.run("dpkg", "--audit").stdout == ""
    assert state(booted, "late") == "protected"
    assert loads_twice(booted, "late")


# -- other ways to lose one's modules --------------------------------------------------------------


def downgrade(lab: BootedLab) -> None:
    wanted = (f"{package}={lab.qemu_versions[0]}" for package in QEMU_PACKAGES)
    lab.run("apt-get", "install", *WITHOUT_ASKING, *wanted)


def test_downgrade(booted: BootedLab) -> None:
    booted.upgrade_qemu()
    prepare(booted, "guest")
    downgrade(booted)
    assert version(booted) == booted.qemu_versions[0]
    assert state(booted, "guest") == "protected"
    assert loads_twice(booted, "guest")


def test_downgrade_without_holdover(booted: BootedLab) -> None:
    booted.upgrade_qemu()
    booted.define_guest("twin")
    downgrade(booted)
    assert dies_of_it(booted, "twin")


def purge(lab: BootedLab) -> None:
    lab.run("apt-get", "purge", "--yes", "--quiet", *QEMU_PACKAGES)
    assert not list(lab.root.glob("usr/lib/*/qemu/block-*.so"))


def test_purge_of_qemu(booted: BootedLab) -> None:
    prepare(booted, "guest")
    purge(booted)
    assert state(booted, "guest") == "protected"
    assert loads_twice(booted, "guest")
    booted.run("virsh", "destroy", "guest")
    booted.run("holdover", "gc")
    assert "Nothing is held." in booted.run("holdover", "list").stdout


def test_purge_of_qemu_without_holdover(booted: BootedLab) -> None:
    booted.define_guest("twin")
    purge(booted)
    assert not loads_twice(booted, "twin")


# -- a store that fills up -------------------------------------------------------------------------


def test_store_that_fills_up(booted: BootedLab) -> None:
    """It is a file system of its own, where everything has to be copied."""
    prepare(booted, "early")
    booted.run("mkdir", "-p", "/usr/lib/holdover")
    booted.run(
        "mount", "-t", "tmpfs", "-o", "size=100m,mode=755,exec", "tmpfs", "/usr/lib/holdover"
    )
    booted.run("holdover", "protect")
    booted.run("sh", "-c", "cat /dev/zero > /usr/lib/holdover/filler", check=False)
    told = booted.upgrade_qemu().stderr
    assert "/usr/bin/qemu-system-x86_64 is not held" in told
    assert "No space left" in told
    assert version(booted) == booted.qemu_versions[1]
    booted.define_guest("late")
    refused = booted.run("holdover", "protect", check=False)
    assert refused.returncode == 1
    assert "No space left" in refused.stdout
    assert "make room on its file system" in refused.stdout
    assert loads_twice(booted, "early")
    booted.run("rm", "/usr/lib/holdover/filler")
    booted.run("mount", "-o", "remount,size=300m", "/usr/lib/holdover")
    booted.run("holdover", "protect")
    assert [state(booted, name) for name in ("early", "late")] == ["protected", "protected"]
    assert not list((booted.root / "usr/lib/holdover/staging").iterdir())


# -- other kinds of host ---------------------------------------------------------------------------


def test_host_with_var_on_another_file_system_than_usr(booted_base: Path, tmp_path: Path) -> None:
    with BootedLab(booted_base, tmp_path, prepare=VAR_ELSEWHERE) as lab:
        assert (lab.root / "var").stat().st_dev != (lab.root / "usr").stat().st_dev
        prepare(lab, "guest")
        lab.upgrade_qemu()
        assert state(lab, "guest") == "protected"
        assert loads_twice(lab, "guest")
        (held,) = json.loads(lab.run("holdover", "list", "--json").stdout)["snapshots"]
        shown = json.loads(lab.run("holdover", "show", held["id"], "--json").stdout)
        assert {file["how"] for file in shown["files"]} == {"link", "rewritten"}


def start_libvirt(lab: BootedLab) -> None:
    """As an init script does."""
    assert lab.run("systemctl", "is-system-running", check=False).returncode != 0
    for daemon in ("virtlogd", "libvirtd"):
        lab.run(daemon, "--daemon")
    wait_until(lambda: lab.run("virsh", "list", check=False).returncode == 0)


def test_host_without_systemd(booted_base: Path, tmp_path: Path) -> None:
    with BootedLab(booted_base, tmp_path, systemd=False) as lab:
        start_libvirt(lab)
        prepare(lab, "guest")
        lab.upgrade_qemu()
        assert state(lab, "guest") == "protected"
        assert loads_twice(lab, "guest")
        lab.run("virsh", "destroy", "guest")
        lab.run("holdover", "gc")
        assert "Nothing is held." in lab.run("holdover", "list").stdout


def test_host_without_systemd_and_without_holdover(booted_base: Path, tmp_path: Path) -> None:
    with BootedLab(booted_base, tmp_path, systemd=False) as lab:
        start_libvirt(lab)
        lab.define_guest("twin")
        lab.upgrade_qemu()
        assert dies_of_it(lab, "twin")
