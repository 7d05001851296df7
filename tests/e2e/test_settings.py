# SPDX-License-Identifier: Apache-2.0
"""What the operator can set, seen at work: each setting against a guest that runs without it."""

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, REFUSED, Guest

pytestmark = pytest.mark.e2e

FULL_STORE = "mount -t tmpfs -o size=64k,mode=755 tmpfs /usr/lib/holdover"


def configure(lab: Lab, text: str) -> None:
    lab.path("/etc/holdover/holdover.toml.d").mkdir(parents=True, exist_ok=True)
    lab.path("/etc/holdover/holdover.toml.d/test.toml").write_text(text)


def qemu_version(lab: Lab) -> str:
    return lab.run("dpkg-query", "-W", "-f", "${Version}", "qemu-system-x86").stdout


def newer_packages(lab: Lab) -> str:
    """A directory with the newer build's package files."""
    lab.root.run("mkdir", "/tmp/debs")
    words = " ".join(f"{name}={lab.newer}" for name in PACKAGES)
    lab.root.run("sh", "-c", f"cd /tmp/debs && apt-get download --quiet {words}")
    return "/tmp/debs"


PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-block-extra")


# -- dpkg without apt ------------------------------------------------------------------------------


def test_dpkg_by_hand_protects_before_it_unpacks_and_collects_when_it_is_done(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest")
    debs = newer_packages(lab)
    done = lab.root.run("sh", "-c", f"dpkg --install {debs}/*.deb")
    said = done.stdout + done.stderr
    assert said.index("holdover: protected 1: guest") < said.index("Preparing to unpack")
    assert said.count("holdover:") == 1
    assert qemu_version(lab) == lab.newer
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)
    assert [entry["leases"][0]["name"] for entry in lab.held()] == ["guest"]
    assert not lab.path("/run/holdover/transaction").exists()
    guest.kill()
    lab.root.run("sh", "-c", f"dpkg --install {debs}/qemu-block*.deb")
    assert lab.held() == []


def test_dpkg_on_a_terminal_is_not_held_up_and_keeps_its_answers(lab: Lab) -> None:
    """A terminal has no end, and what is typed there is for dpkg."""
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest")
    debs = newer_packages(lab)
    on_a_terminal = "import pty, sys; pty.spawn(sys.argv[1:])"  # it sends no end of file
    words = ("sh", "-c", f"dpkg --install {debs}/*.deb; read -r answer; echo got $answer")
    done = lab.root.run("python3", "-c", on_a_terminal, *words, text="typed ahead\n")
    assert "gave up" not in done.stdout
    assert "holdover: protected 1: guest" in done.stdout
    assert "got typed ahead" in done.stdout
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)


def test_dpkg_by_hand_that_claims_to_be_started_by_apt(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest")
    debs = newer_packages(lab)
    lab.root.run("sh", "-c", f"DPKG_FRONTEND_LOCKED=1 dpkg --install {debs}/*.deb")
    assert qemu_version(lab) == lab.newer
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)


def test_dpkg_by_hand_without_holdover_is_the_death_of_the_guest(stock: Lab) -> None:
    guest = Guest.start(stock.root, "twin")
    debs = newer_packages(stock)
    stock.root.run("sh", "-c", f"dpkg --install {debs}/*.deb")
    assert guest.probe_twice("ssh disk") == (REFUSED, DIED)


def test_dpkg_that_changes_no_file_does_not_even_start_holdover(lab: Lab) -> None:
    """Nor does one that apt has started: holdover is broken, and only apt notices."""
    lab.root.run("holdover", "enable")
    lab.path("/usr/bin/holdover").write_text("#!/bin/false\n")
    for command in ("dpkg --configure -a", "dpkg --triggers-only -a", "dpkg --list"):
        done = lab.root.run("sh", "-c", command)
        assert "holdover:" not in done.stdout + done.stderr
    done = lab.root.apt("purge", "python3-markdown-it")
    assert (done.stdout + done.stderr).count("holdover:") == 1
    assert (
        "holdover: /usr/bin/holdover did not run" in lab.root.run("dpkg", "--purge", "none").stderr
    )


# -- veto ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("manager", ["apt", "dpkg"])
def test_veto_stops_a_transaction_that_would_leave_a_guest_at_risk(lab: Lab, manager: str) -> None:
    configure(lab, "hook.veto = true\n")
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest")
    debs = newer_packages(lab)
    lab.root.run("mkdir", "-p", "/usr/lib/holdover")
    lab.root.run("sh", "-c", FULL_STORE)
    words = {
        "apt": ("apt-get", "-qy", "install", *(f"{name}={lab.newer}" for name in PACKAGES)),
        "dpkg": ("sh", "-c", f"dpkg --install {debs}/*.deb"),
    }
    stopped = lab.run(*words[manager])
    assert stopped.returncode != 0
    assert "No space left" in stopped.stderr
    assert "the transaction is stopped, as the setting hook.veto asks for" in stopped.stderr
    assert qemu_version(lab) == lab.older
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)
    lab.root.run("umount", "/usr/lib/holdover")
    assert lab.run(*words[manager]).returncode == 0
    assert qemu_version(lab) == lab.newer
    assert guest.probe_twice("rbd disk") == (ATTACHED, ATTACHED)


def test_veto_of_a_holdover_that_cannot_start_does_not_exist(lab: Lab) -> None:
    """The upgrade may be what mends it."""
    configure(lab, "hook.veto = true\n")
    lab.root.run("holdover", "enable")
    lab.path("/usr/bin/holdover").write_text("#!/bin/false\n")
    assert "did not run" in lab.upgrade().stderr
    assert qemu_version(lab) == lab.newer


# -- what is not to be done ------------------------------------------------------------------------


def test_program_that_is_switched_off_is_left_alone_and_that_is_said(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest")
    lab.holdover("protect")
    configure(lab, 'programs.disabled = ["qemu"]\n')
    lab.holdover("gc")
    assert len(lab.held()) == 1  # who is switched off later needs what it got all the same
    twin = Guest.start(lab.root, "twin")
    assert "programs.disabled" in lab.holdover("protect", "--dry-run").stdout
    assert "protected" not in lab.upgrade().stdout
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)
    assert lab.status(twin.pid)["state"] == "at-risk"
    assert twin.probe_twice("ssh disk") == (REFUSED, DIED)


@pytest.mark.parametrize("allowed", ["environment", "mount"])
def test_only_the_deliveries_that_are_listed_are_made(lab: Lab, allowed: str) -> None:
    configure(lab, f'deliveries = ["{allowed}"]\n')
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount"))
    shared = Guest.start(lab.root, "shared")
    lab.upgrade()
    assert lab.status(guest.pid)["delivery"] == allowed
    expected = {"environment": "environment", "mount": None}
    assert lab.status(shared.pid)["delivery"] == expected[allowed]


def test_bytes_that_may_be_written_are_counted_over_all_snapshots(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    refused = lab.holdover("protect", "-o", "store.budget=1 MiB")
    assert refused.returncode == 1
    assert "more would be written to the store than store.budget allows" in refused.stdout
    assert (lab.held(), lab.status(guest.pid)["state"]) == ([], "current")
    assert lab.holdover("protect", "-o", "store.budget=4 MiB").returncode == 0
    written = lab.held()[0]["bytes_written"]
    assert 1 << 20 < written < 4 << 20
    lab.upgrade()
    second = Guest.start(lab.root, "second")
    assert lab.holdover("protect", "-o", f"store.budget={written + 4096}").returncode == 1
    assert lab.status(second.pid)["state"] == "current"
    assert lab.holdover("protect", "-o", "store.budget=0").returncode == 0


def test_pinned_snapshot_outlives_its_last_guest_until_its_time_is_up(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    lab.root.run("holdover", "protect")
    (snapshot,) = (entry["id"] for entry in lab.held())
    assert lab.json("pin", snapshot[:9]) == {
        "schema": "holdover.pin/1", "snapshot": snapshot, "pinned": True
    }  # fmt: skip
    guest.kill()
    lab.root.run("holdover", "gc")
    assert [entry["pinned"] for entry in lab.held()] == [True]
    assert "a pin" in lab.holdover("list").stdout
    lab.root.run("sh", "-c", "sleep 1.1; holdover gc -o 'pins.lifetime=1'")
    assert lab.held() == []


def test_unpinned_snapshot_goes(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest")
    lab.root.run("holdover", "protect")
    (snapshot,) = (entry["id"] for entry in lab.held())
    lab.root.run("holdover", "pin", snapshot)
    guest.kill()
    assert "no longer pinned" in lab.holdover("unpin", snapshot).stdout
    lab.root.run("holdover", "gc")
    assert lab.held() == []


# -- doctor ----------------------------------------------------------------------------------------


def test_doctor_shows_every_effective_value_and_where_it_comes_from(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    configure(lab, "[hook]\nbudget = '1 min'\n")
    lab.path("/etc/holdover/holdover.toml").write_text("[lock]\ntimeout = 3\n")
    answer = lab.json("doctor", "-o", "look.budget=7")
    found = {entry["key"]: (entry["value"], entry["origin"]) for entry in answer["settings"]}
    assert found["hook.budget"] == ('"1 min"', "/etc/holdover/holdover.toml.d/test.toml")
    assert found["lock.timeout"] == ("3", "/etc/holdover/holdover.toml")
    assert found["look.budget"] == ("7", "command line")
    assert found["hook.veto"] == ("false", "built in")
    failed = [check["name"] for check in answer["checks"] if not check["ok"]]
    assert failed == ["timer"]  # neither systemd nor cron is in this system


def test_doctor_names_a_setting_that_makes_no_sense_and_a_hook_that_is_not_current(
    lab: Lab,
) -> None:
    lab.root.run("holdover", "enable")
    configure(lab, "[hook]\nbudgit = 5\n")
    lab.path("/etc/dpkg/dpkg.cfg.d/holdover").write_text("# somebody was here\n")
    done = lab.holdover("doctor")
    assert done.returncode == 1
    assert "there is no setting 'hook.budgit'" in done.stdout
    assert "/etc/dpkg/dpkg.cfg.d/holdover is not current; run `holdover enable`" in done.stdout


def test_a_store_that_a_guests_user_cannot_reach_is_nothing_to_point_it_at(lab: Lab) -> None:
    """Root can read it, so all seems well until the guest looks for its first module there."""
    lab.root.run("install", "-d", "-m", "700", "/usr/lib/private")
    configure(lab, '[store]\nobjects = "/usr/lib/private/holdover"\n')
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    guest, root = Guest.start(lab.root, "guest", wrapper=user), Guest.start(lab.root, "root")
    refused = lab.holdover("protect", "--delivery", "environment")
    assert refused.returncode == 1
    assert "private does not let others in" in refused.stdout
    assert lab.status(root.pid)["state"] == "protected"
    lab.path("/usr/lib/private").chmod(0o711)
    assert lab.holdover("protect").returncode == 0
    lab.upgrade()
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)


def test_doctor_tries_to_take_a_mount_away_again(lab: Lab) -> None:
    assert "a mount could not be taken away" not in lab.holdover("doctor").stdout
    change = r"s/^    _check(.umount2.*/    pass/"
    lab.root.run("sed", "-i", change, "/usr/lib/python3/dist-packages/holdover/linux.py")
    assert "a mount could not be taken away again" in lab.holdover("doctor").stdout
    assert list(lab.path("/usr/lib/holdover/view").iterdir()) == []
