# SPDX-License-Identifier: Apache-2.0
"""What looks after guests between transactions: the timer, libvirt's hook, the boot."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import BootedLab, Lab
from lab.packaged import REPOSITORY
from prometheus_client.parser import text_string_to_metric_families

from holdover.demo.guest import ATTACHED, Guest
from holdover.demo.root import install_holdover

pytestmark = pytest.mark.e2e

METRICS = "var/lib/prometheus/node-exporter"
SOON = "[Timer]\nOnBootSec=1s\nRandomizedDelaySec=0\nAccuracySec=1ms\n"
HOSTILE = "evil\nPRIORITY=0\nHOLDOVER_STATE=fake"
PATIENCE = 60.0


def wait_for(what: str, probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not probe():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def state(booted: BootedLab, name: str) -> tuple[str, str | None]:
    pid = str(booted.guest_pid(name))
    (found,) = json.loads(booted.run("holdover", "status", "--json", pid, check=False).stdout)[
        "processes"
    ]
    return found["state"], found["delivery"]


def is_protected(booted: BootedLab, name: str) -> bool:
    return state(booted, name)[0] == "protected"


def held(booted: BootedLab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(booted.run("holdover", "list", "--json").stdout)[
        "snapshots"
    ]
    return found


def told(booted: BootedLab, *matches: str) -> list[dict[str, Any]]:
    booted.run("journalctl", "--sync")
    done = booted.run("journalctl", "--output=json", "SYSLOG_IDENTIFIER=holdover", *matches)
    return [json.loads(line) for line in done.stdout.splitlines()]


def figure(booted: BootedLab, name: str, **labels: str) -> float:
    text = (booted.root / METRICS / "holdover.prom").read_text()
    (value,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == f"holdover_{name}" and sample.labels == labels
    )
    return value


def start_hostile_guest(booted: BootedLab) -> None:
    """Anybody may start a program of that name, and call it what he likes."""
    qemu = ("qemu-system-x86_64", "-machine", "q35,accel=tcg", "-nodefaults", "-display", "none")
    booted.run(*qemu, "-S", "-daemonize", "-name", f"guest={HOSTILE}")


# -- the timer and the boot ------------------------------------------------------------------------


def test_timer_looks_after_everybody_and_the_boot_lets_go(booted: BootedLab) -> None:
    install_holdover(booted.root)
    (booted.root / METRICS).mkdir(parents=True)
    drop_in = booted.root / "etc/systemd/system/holdover.timer.d/soon.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(SOON)
    booted.define_guest("guest")
    start_hostile_guest(booted)

    enabled = booted.run("holdover", "enable").stdout
    assert "holdover.timer: enabled and started" in enabled
    wait_for("the timer", lambda: is_protected(booted, "guest"))

    check_that_the_service_mounts_and_links(booted)
    check_the_journal(booted)
    check_the_metrics(booted)
    check_that_a_release_lasts(booted)

    booted.reboot()
    wait_for("the timer after the boot", lambda: not held(booted))
    assert list((booted.root / "usr/lib/holdover/view").iterdir()) == []
    assert told(booted, "MESSAGE_ID=4dd5a9e811c848519729414e3b7c0f73")
    check_that_disabling_takes_all_away(booted)


def check_that_the_service_mounts_and_links(booted: BootedLab) -> None:
    """As hardened as it is: in the host's mount namespace, and with the rights that it needs."""
    settings = booted.root / "etc/holdover/holdover.toml"
    settings.parent.mkdir()
    settings.write_text('deliveries = ["mount"]\nlibvirt.protect = false\n')
    booted.define_guest("mounted")
    booted.run("systemctl", "start", "holdover.service")
    settings.unlink()
    said = booted.run("systemctl", "show", "--property=StatusText", "holdover.service").stdout
    assert "protected 1: mounted" in said
    assert state(booted, "mounted") == ("protected", "mount")
    assert state(booted, "guest") == ("protected", "environment")
    (snapshot,) = held(booted)
    shown = json.loads(booted.run("holdover", "show", "--json", snapshot["id"]).stdout)
    assert {file["how"] for file in shown["files"]} == {"link", "rewritten"}
    for name in ("guest", "mounted"):
        assert booted.attach_http_disk(name, "vdb").returncode == 0
    verified = booted.run("systemd-analyze", "verify", "holdover.service", check=False).stderr
    assert "Unknown" not in verified
    check_how_exposed_the_service_is(booted)


def check_how_exposed_the_service_is(booted: BootedLab) -> None:
    """As docs/security.md shows it, and never more."""
    page = (REPOSITORY / "docs/security.md").read_text()
    (shown,) = re.findall(r"exposure level for holdover.service: ([0-9]\.[0-9]) ", page)
    analyze = ("systemd-analyze", "security", "--no-pager")
    threshold = f"--threshold={shown.replace('.', '')}"
    done = booted.run(*analyze, threshold, "holdover.service", check=False)
    assert done.returncode == 0, done.stdout
    assert f"holdover.service: {shown} " in done.stdout
    without = booted.run(*analyze, "--threshold=0", "holdover.service", check=False)
    assert without.returncode != 0  # so the first one says something


def check_the_journal(booted: BootedLab) -> None:
    (entry,) = told(booted, "MESSAGE_ID=b946be0bd003408cba962f085ef6882a", "HOLDOVER_GUEST=mounted")
    assert entry["MESSAGE"].startswith("mounted (")
    assert entry["HOLDOVER_PID"] == str(booted.guest_pid("mounted"))
    assert (entry["HOLDOVER_DELIVERY"], entry["PRIORITY"]) == ("mount", "6")
    assert entry["_SYSTEMD_UNIT"] == "holdover.service"
    (hostile,) = told(booted, f"HOLDOVER_GUEST={HOSTILE}")
    assert (hostile["PRIORITY"], hostile["HOLDOVER_STATE"]) == ("6", "protected")


def check_the_metrics(booted: BootedLab) -> None:
    qemu = {"program": "qemu", "state": "protected"}
    assert figure(booted, "processes", **qemu, delivery="environment") == 2
    assert figure(booted, "processes", **qemu, delivery="mount") == 1
    assert figure(booted, "snapshots") == 1
    timer = {"hook": "timer", "phase": "run"}
    assert figure(booted, "last_hook_result", **timer, result="done") == 1
    booted.run("virsh", "destroy", "mounted")
    booted.run("systemctl", "start", "holdover.service")
    assert figure(booted, "processes", **qemu, delivery="environment") == 2
    assert figure(booted, "leases") == 2


def check_that_a_release_lasts(booted: BootedLab) -> None:
    """Until somebody protects the guest again: the timer does not."""
    pid = str(booted.guest_pid("guest"))
    booted.run("holdover", "release", pid)
    booted.run("systemctl", "start", "holdover.service")
    assert state(booted, "guest") == ("current", None)
    booted.run("holdover", "protect", pid)
    assert is_protected(booted, "guest")


def check_that_disabling_takes_all_away(booted: BootedLab) -> None:
    booted.run("holdover", "disable")
    assert not (booted.root / "etc/libvirt/hooks/qemu.d").exists()
    left = booted.run("find", "/etc", "-name", "*holdover*", "-not", "-name", "*.d").stdout
    assert left == "/etc/holdover\n"
    assert booted.run("systemctl", "is-active", "holdover.timer", check=False).returncode != 0
    booted.run("virsh", "start", "guest")  # libvirt looks for the hook that it knew


# -- libvirt ---------------------------------------------------------------------------------------


def test_guest_is_protected_as_libvirt_starts_it_and_never_kept_from_starting(
    booted: BootedLab,
) -> None:
    install_holdover(booted.root)
    booted.run("virsh", "list")  # its daemon runs before there is a hook
    booted.define_guest("twin")
    assert "libvirtd.service: reloaded" in booted.run("holdover", "enable").stdout
    booted.run("systemctl", "disable", "--now", "holdover.timer")
    booted.define_guest("guest")
    wait_for("the hook", lambda: is_protected(booted, "guest"))
    assert state(booted, "twin") == ("current", None)

    command = booted.root / "usr/bin/holdover"
    working = command.read_text()
    for name, broken in BROKEN.items():
        command.unlink(missing_ok=True)
        if broken:
            command.write_text(broken)
            command.chmod(0o755)
        booted.define_guest(name)
        assert booted.domain_state(name).startswith("running")
    command.unlink()
    command.write_text(working)
    command.chmod(0o755)

    for hook in ("etc/apt/apt.conf.d/90holdover", "etc/dpkg/dpkg.cfg.d/holdover"):
        (booted.root / hook).unlink()
    booted.upgrade_qemu()
    for disk in ("vdb", "vdc"):
        assert booted.attach_http_disk("guest", disk).returncode == 0
        assert booted.attach_http_disk("twin", disk).returncode != 0
    assert booted.domain_state("guest").startswith("running")
    assert booted.domain_state_after("running", "twin") == "shut off (crashed)"


BROKEN = {
    "missing": "",
    "failing": "#!/bin/sh\necho noise; echo noise >&2; exit 1\n",
    "hanging": "#!/bin/sh\nexec sleep 600\n",
    "no-interpreter": "#!/no/such/python\n",
}


# -- the timer in the fast lab: a machine without systemd ------------------------------------------


def timer(lab: Lab) -> str:
    done = lab.holdover("hook", "timer")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_timer_does_nothing_while_a_transaction_is_under_way(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    lab.path("/run/holdover").mkdir()
    marker = lab.path("/run/holdover/transaction")
    start_time = lab.path(f"/proc/{guest.pid}/stat").read_text().rsplit(")")[1].split()[19]
    marker.write_text(f"{guest.pid} {start_time}\n")  # any process that lives
    assert "is changing packages" in timer(lab)
    assert lab.held() == []
    marker.write_text(f"{guest.pid} 1\n")  # one that was killed
    assert "protected 1: guest" in timer(lab)
    assert lab.status(guest.pid)["state"] == "protected"
    assert marker.exists()  # it is the hooks' own


def test_timer_that_may_not_protect_only_lets_go(lab: Lab) -> None:
    guest, gone = Guest.start(lab.root, "guest"), Guest.start(lab.root, "gone")
    lab.holdover("protect", str(gone.pid))
    gone.kill()
    lab.path("/etc/holdover").mkdir()
    lab.path("/etc/holdover/holdover.toml").write_text("timer.protect = false\n")
    assert "removed 1 snapshots" in timer(lab)
    assert (lab.held(), lab.status(guest.pid)["state"]) == ([], "current")


def test_timer_in_the_middle_of_an_unannounced_change_saves_what_is_left(lab: Lab) -> None:
    """Half of the modules are replaced: the others are held, and the lost ones kill nobody."""
    guest, twin = Guest.start(lab.root, "guest"), Guest.start(lab.root, "twin")
    replace_first_half_of_the_modules(lab)
    protect_only(lab, guest)
    lab.upgrade()
    assert guest.probe_twice("https disk") == ("refused", "refused")
    assert guest.probe_twice("all device types") == (ATTACHED, ATTACHED)
    seen = lab.status(guest.pid)
    assert seen["state"] == "protected"
    assert "it was replaced before it could be held" in seen["reason"]
    assert twin.probe_twice("https disk")[1] != "refused"
    assert not twin.lives()


def protect_only(lab: Lab, guest: Guest) -> None:
    """The twin was released, as far as the timer knows."""
    others = [p for p in lab.json("status")["processes"] if p["pid"] != guest.pid]
    released = lab.path("/run/holdover/released")
    released.mkdir(parents=True)
    for other in others:
        (released / f"{other['pid']}-{other['start_time']}").touch()
    assert f"protected 1: guest ({guest.pid})" in timer(lab)


def replace_first_half_of_the_modules(lab: Lab) -> None:
    """As dpkg does, one by one."""
    lab.root.run(
        *("sh", "-c"),
        "cd /var/cache/apt/archives && for package in qemu-block-extra qemu-system-common; do "
        f'dpkg -x "$package"_"$(echo "{lab.newer}" | sed s/:/%3a/)"_amd64.deb /tmp/new; done',
    )
    place = Path("/usr/lib/x86_64-linux-gnu/qemu")
    new = sorted(path.name for path in lab.path(f"/tmp/new{place}").iterdir())
    for name in new[: len(new) // 2]:
        lab.root.run("mv", f"/tmp/new{place}/{name}", str(place / name))
