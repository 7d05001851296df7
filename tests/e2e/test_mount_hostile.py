# SPDX-License-Identifier: Apache-2.0
"""Guests that are not what they seem: what root does for one must hurt nobody else."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, Guest

pytestmark = pytest.mark.e2e

MODULES = "/usr/lib/x86_64-linux-gnu/qemu"
CHOSEN = "/home/mallory"
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
MALLORY = (*NOBODY, "env", f"QEMU_MODULE_DIR={CHOSEN}")
FULL = ("sh", "-c", 'i=0; while [ $i -lt 5000 ]; do i=$((i+1)); export V$i=x; done; exec "$@"')


def chosen_directory(lab: Lab) -> Path:
    directory = lab.path(CHOSEN)
    directory.mkdir()
    os.chown(directory, 65534, 65534)
    return directory


def build(source: str, target: Path, tmp_path: Path) -> None:
    code = tmp_path / "code.c"
    code.write_text(source)
    made = tmp_path / "code.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", made, code], check=True)
    target.write_bytes(made.read_bytes())
    os.chown(target, 65534, 65534)


# -- modules that a user chose ----------------------------------------------------------------


def test_modules_that_a_user_chose_reach_nobody_elses_guest(lab: Lab, tmp_path: Path) -> None:
    """They carry the right stamp, and there are more of them: the fullest snapshot is his."""
    executable = lab.path("/usr/bin/qemu-system-x86_64").read_bytes()
    stamp = re.search(rb"qemu_stamp_[0-9a-f]{40}", executable)
    assert stamp is not None
    source = (
        f"#include <fcntl.h>\nint {stamp[0].decode()};\n"
        '__attribute__((constructor)) static void run(void) { creat("/tmp/executed", 0600); }\n'
    )
    directory = chosen_directory(lab)
    for name in ("block-curl", "block-more"):
        build(source, directory / f"{name}.so", tmp_path)
    Guest.start(lab.root, "mallory", wrapper=MALLORY)
    lab.holdover("protect")
    victim = Guest.start(lab.root, "victim")
    lab.holdover("protect")
    lab.upgrade()
    answer = victim.probe("https disk")
    assert not lab.path("/tmp/executed").exists()
    assert answer == ATTACHED


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_a_user_chose_is_not_opened_unless_it_is_a_file(lab: Lab, kind: str) -> None:
    """Opening a pipe waits forever; opening a device acts (a watchdog resets the machine)."""
    directory = chosen_directory(lab)
    pipe = directory / "block-pipe.so" if kind == "fifo" else lab.path("/tmp/device")
    os.mkfifo(pipe)  # stands for the device as well: whether it was opened can be seen
    if kind == "device":
        (directory / "block-device.so").symlink_to("/tmp/device")
    guest = Guest.start(lab.root, "guest")
    Guest.start(lab.root, "mallory", wrapper=MALLORY)
    lab.run("timeout", "10", "holdover", "protect")
    pipe.unlink()
    assert lab.status(guest.pid)["state"] == "protected"


# -- where the mount lands --------------------------------------------------------------------


def test_mount_is_refused_where_a_slave_namespace_would_get_it_too(lab: Lab) -> None:
    """A newer guest that starts there would find the old modules, and abort."""
    script = (
        "mount --make-rshared /; "
        "unshare --mount --propagation slave sh -c 'sleep 600 & echo $! >/tmp/inner'; "
        'exec "$@"'
    )
    wrapper = ("unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh")
    guest = Guest.start(lab.root, "guest", wrapper=wrapper)
    inner = int(lab.path("/tmp/inner").read_text())
    before = lab.path(MODULES).stat().st_ino
    done = lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    seen = lab.run("stat", "-c", "%i", f"/proc/{inner}/root{MODULES}").stdout
    assert int(seen) == before
    assert done.returncode == 1


DELIVER = """
import os, time
from holdover.covering import MountTables
from holdover.flow import Holdover
from holdover.model import Delivery
from holdover.steps.plan import Aim

look, looks = MountTables.refusal, []
def look_then_wait(*arguments):
    said = look(*arguments)
    looks.append(said)
    if len(looks) == 2:  # the last one before the mount
        open("/tmp/go", "w").close()
        while not os.path.exists("/tmp/gone"): time.sleep(0.01)
    return said
MountTables.refusal = look_then_wait
Holdover(deliveries=(Delivery.MOUNT,)).carry_out(Aim.PROTECT, [PID])
"""

CHANGE_ROOT = f"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
static void *later(void *unused) {{
    while (access("/tmp/go", F_OK)) usleep(1000);
    int gone = open("/tmp", O_PATH);
    if (chroot("{CHOSEN}") == 0) openat(gone, "gone", O_CREAT, 0600);
    return unused;
}}
__attribute__((constructor)) static void start(void) {{
    pthread_t thread;
    if (unshare(CLONE_NEWUSER) == 0) pthread_create(&thread, 0, later, 0);
}}
"""


def test_guest_that_changes_its_root_meanwhile_chooses_no_other_place(
    lab: Lab, tmp_path: Path
) -> None:
    """It has a root-owned mount namespace, and no right but to chroot in a user namespace."""
    build(CHANGE_ROOT, lab.path("/usr/lib/change-root.so"), tmp_path)
    below = chosen_directory(lab) / Path(MODULES).parent.relative_to("/")
    below.mkdir(parents=True)
    (below / "qemu").symlink_to("../../../../../etc/security")
    preload = ("env", "LD_PRELOAD=/usr/lib/change-root.so")
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount", *NOBODY, *preload))
    lab.run("timeout", "20", "python3", "-c", DELIVER.replace("PID", str(guest.pid)))
    assert lab.path("/tmp/gone").exists()
    inside = lab.run("nsenter", "-t", str(guest.pid), "-m", "cat", "/proc/self/mountinfo").stdout
    assert "/etc/security" not in inside


# -- what is taken back -----------------------------------------------------------------------


def test_release_takes_away_every_view_that_was_mounted(lab: Lab) -> None:
    """Defused first, protected later: two mounts lie on one directory."""
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount", *FULL, "sh"))
    twin = Guest.start(lab.root, "twin")
    lab.upgrade()
    lab.holdover("defuse", str(guest.pid))
    assert lab.status(guest.pid)["state"] == "defused"
    assert twin.lives()
    lab.downgrade()
    lab.holdover("protect", str(guest.pid))
    assert lab.status(guest.pid)["state"] == "protected"
    lab.holdover("release", "--force", str(guest.pid))
    assert MODULES not in lab.path(f"/proc/{guest.pid}/mountinfo").read_text()
    assert lab.status(guest.pid)["delivery"] is None


def test_view_that_the_guest_unmounts_is_no_protection(lab: Lab) -> None:
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount"))
    lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    lab.root.run("nsenter", "-t", str(guest.pid), "-m", "umount", "--lazy", MODULES)
    assert lab.status(guest.pid)["state"] == "current"
    lab.upgrade()
    assert lab.status(guest.pid)["state"] == "at-risk"
    lab.holdover("gc")  # the guest lives: what is held for it stays
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_purge_under_a_mount_is_noticed_and_made_good(lab: Lab) -> None:
    """The kernel drops the mount with the directory; the hook falls back to the environment."""
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount"))
    lab.holdover("protect", "--delivery", "mount", str(guest.pid))
    lab.root.apt("purge", "qemu-block-extra", "qemu-system-x86", "qemu-system-common")
    assert not lab.path(MODULES).exists()
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("protected", "environment")
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)


def test_hook_that_is_killed_leaves_everyone_whole_and_nothing_behind(lab: Lab) -> None:
    lab.root.run("holdover", "enable")
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount"))
    listing = "VERSION 3\n\nqemu-utils 1 amd64 none < 2 amd64 none /x.deb\n"
    hook = "holdover hook apt before $$; true"
    for step in range(1, 12):
        lab.run("timeout", "-s", "KILL", f"{0.05 * step:.2f}", "sh", "-c", hook, text=listing)
        assert lab.status(guest.pid)["state"] in ("current", "protected")
    lab.upgrade()
    assert lab.status(guest.pid)["state"] == "protected"
    assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED)
    guest.kill()
    lab.holdover("gc")
    assert lab.held() == []
    assert list(lab.path("/usr/lib/holdover/view").iterdir()) == []
    assert list(lab.path("/run/holdover/lease").iterdir()) == []
