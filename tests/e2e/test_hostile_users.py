# SPDX-License-Identifier: Apache-2.0
"""Anybody may run QEMU with his own modules; they must reach nobody else's guests."""

import os
from pathlib import Path

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, PROBES, Guest
from holdover.rewrite import rewrite

pytestmark = pytest.mark.e2e

LIBRARIES = "/usr/lib/x86_64-linux-gnu"
MODULES = f"{LIBRARIES}/qemu"
USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def start_with_own_modules(lab: Lab, directory: str) -> Guest:
    lab.root.run("sh", "-c", f"cp -r {MODULES} {directory} && chown -R 65534:65534 {directory}")
    wrapper = ("env", f"QEMU_MODULE_DIR={directory}", *USER)
    return Guest.start(lab.root, "hostile", wrapper=wrapper)


def origins(lab: Lab) -> set[str]:
    """The directories that held modules came from."""
    (snapshot,) = lab.held()
    shown = lab.json("show", snapshot["id"])
    modules = [file for file in shown["files"] if not file["path"].startswith("lib/")]
    return {file["origin"].rpartition("/")[0] for file in modules}


def test_modules_of_a_user_are_held_for_nobody(lab: Lab) -> None:
    hostile = start_with_own_modules(lab, "/srv/own")
    victim = Guest.start(lab.root, "victim")
    assert lab.holdover("protect").returncode == 1
    assert origins(lab) == {MODULES}
    seen = {o["pid"]: o for o in lab.json("protect")["processes"]}
    assert seen[hostile.pid]["failed"]
    assert "others than root can put some: /srv/own: it belongs to" in seen[hostile.pid]["reason"]
    assert seen[victim.pid]["state"] == "protected"
    lab.upgrade()
    assert {victim.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_a_user_chose_is_not_even_opened(lab: Lab, kind: str) -> None:
    """Opening a pipe waits for ever; opening a device acts (a watchdog resets the machine)."""
    start_with_own_modules(lab, "/srv/own")
    pipe = lab.path("/srv/own/block-pipe.so" if kind == "fifo" else "/srv/device")
    os.mkfifo(pipe)  # stands for the device as well: whether it was opened can be seen
    if kind == "device":
        lab.path("/srv/own/block-device.so").symlink_to("/srv/device")
    victim = Guest.start(lab.root, "victim")
    lab.run("timeout", "10", "holdover", "protect")
    assert lab.status(victim.pid)["state"] == "protected"


@pytest.mark.parametrize("place", ["/srv/own/libcurl-gnutls.so.4", "/srv/device"])
def test_what_lies_where_a_user_looks_for_libraries_is_not_even_opened(
    lab: Lab, place: str
) -> None:
    lab.root.run("install", "-d", "-o", "65534", "/srv/own")
    os.mkfifo(lab.path(place))  # stands for a device as well, as above
    if place == "/srv/device":
        lab.path("/srv/own/libcurl-gnutls.so.4").symlink_to(place)
    wrapper = ("env", "LD_LIBRARY_PATH=/srv/own", *USER)
    hostile = Guest.start(lab.root, "hostile", wrapper=wrapper)
    victim = Guest.start(lab.root, "victim")
    lab.run("timeout", "10", "holdover", "protect")
    assert lab.status(victim.pid)["state"] == "protected"
    assert "libcurl-gnutls.so.4 is no regular file" in lab.status(hostile.pid)["reason"]


def test_module_that_others_can_write_is_not_held(lab: Lab) -> None:
    lab.path(f"{MODULES}/block-curl.so").chmod(0o666)
    guest = Guest.start(lab.root, "guest")
    done = lab.holdover("protect", str(guest.pid))
    assert done.returncode == 1
    assert "others can write to it" in done.stdout
    assert lab.held() == []


def test_executable_of_a_user_is_not_believed(lab: Lab) -> None:
    lab.root.run("install", "-D", "-o", "65534", "/usr/bin/qemu-system-x86_64", "/srv/own/kvm")
    hostile = Guest.start(
        lab.root,
        "hostile",
        binary="/srv/own/kvm",
        machine="none,accel=tcg",
        wrapper=("env", f"QEMU_MODULE_DIR={MODULES}", *USER),
    )
    victim = Guest.start(lab.root, "victim")
    seen = lab.status(hostile.pid)
    assert (seen["state"], seen["build_id"]) == ("unsupported", "")
    assert "cannot be trusted: it belongs to user 65534" in seen["reason"]
    assert lab.holdover("protect").returncode == 1
    assert lab.status(victim.pid)["state"] == "protected"
    assert lab.status(hostile.pid)["state"] == "unsupported"


# -- libraries of a user ---------------------------------------------------------------------------


def start_with_own_library(lab: Lab, soname: str, *also: bytes) -> Guest:
    """A user's guest with his copy of a library, which needs one more that nobody else has."""
    lab.root.run("install", "-d", "/srv/own")
    for name in also:
        content = library(lab, "libaio.so.1").read_bytes()
        lab.path(f"/srv/own/{name.decode()}").write_bytes(content.replace(b"libaio.so.1", name))
    with library(lab, soname).open("rb") as file:
        changed = rewrite(file, "/srv/own", [name.decode() for name in also])
    lab.path(f"/srv/own/{soname}").write_bytes(changed)
    lab.root.run("chown", "-R", "65534:65534", "/srv/own")
    wrapper = ("env", f"LD_PRELOAD=/srv/own/{soname}", *USER)
    return Guest.start(lab.root, "hostile", wrapper=wrapper)


def library(lab: Lab, soname: str) -> Path:
    return Path(os.path.realpath(lab.root.root / f"{LIBRARIES}/{soname}".lstrip("/")))


def test_what_the_library_of_a_user_needs_is_needed_by_nobody_else(lab: Lab) -> None:
    """Modules name all that they need, in the order in which the loader would come upon it: his
    library must have no say in that, although its soname wins in his own guest.
    """
    hostile = start_with_own_library(lab, "libssh.so.4", b"libaio.so.0")
    assert lab.holdover("protect").returncode == 1  # nothing can be held for him alone
    assert lab.held() == []
    reason = lab.status(hostile.pid)["modules"][0]["reason"]
    assert "what it needs cannot be told: its libssh.so.4 is not used: it belongs to" in reason
    victim = Guest.start(lab.root, "victim")
    assert lab.holdover("protect", str(victim.pid)).returncode == 0
    assert lab.holdover("protect").returncode == 0  # what is held for everybody serves him, too
    assert lab.status(victim.pid)["state"] == "protected"
    assert lab.status(hostile.pid)["state"] == "protected"
    lab.upgrade()
    assert {victim.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


def test_library_of_a_user_is_not_run_in_a_rehearsal(lab: Lab) -> None:
    """It would reach what root's session keeps in its keyring, and fill root's memory."""
    hostile, other = start_with_own_library(lab, "libz.so.1"), Guest.start(lab.root, "other")
    assert lab.holdover("protect", str(other.pid)).returncode == 0  # now there is a set for both
    done = lab.holdover("rehearse", str(hostile.pid))
    assert done.returncode == 1
    assert "its libz.so.1 is not run: it belongs to user 65534" in done.stderr
