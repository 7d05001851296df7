# SPDX-License-Identifier: Apache-2.0
"""Whatever is wrong with holdover, the transaction goes on and no guest is touched half-way."""

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, PROBES, Guest

pytestmark = pytest.mark.e2e

DID_NOT_RUN = "holdover: /usr/bin/holdover did not run, live guests were not looked at"


def upgraded(lab: Lab) -> bool:
    done = lab.run("dpkg-query", "-W", "-f", "${Version}", "qemu-system-x86")
    return done.stdout == lab.newer


def enable(lab: Lab) -> Guest:
    lab.root.run("holdover", "enable")
    return Guest.start(lab.root, "guest")


def test_enable_and_disable_say_what_they_did_and_can_be_repeated(lab: Lab) -> None:
    files = ["/etc/apt/apt.conf.d/90holdover", "/etc/dpkg/dpkg.cfg.d/holdover"]

    def change(command: str) -> dict[str, str]:
        answer = lab.json(command)
        return {entry["path"]: entry["change"] for entry in answer["files"]}

    assert change("enable") == dict.fromkeys(files, "written")
    assert change("enable") == dict.fromkeys(files, "is current")
    lab.path(files[0]).write_text("// somebody wrote here\n")
    assert change("enable") == {files[0]: "updated", files[1]: "is current"}
    assert change("disable") == dict.fromkeys(files, "removed")
    assert not any(lab.path(file).exists() for file in files)
    assert lab.holdover("disable").stdout == "Nothing was enabled.\n"


def test_holdover_that_is_missing_does_not_stop_apt(lab: Lab) -> None:
    guest = enable(lab)
    lab.path("/usr/bin/holdover").unlink()
    done = lab.upgrade()
    assert DID_NOT_RUN in done.stderr
    assert upgraded(lab)
    assert guest.lives()


@pytest.mark.parametrize(
    "broken",
    [
        "#!/usr/bin/python3\nraise SystemExit('broken')\n",
        "#!/no/such/python\n",
        "#!/bin/sh\nkill $$\n",
    ],
    ids=["fails", "no-interpreter", "dies"],
)
def test_holdover_that_cannot_start_does_not_stop_apt(lab: Lab, broken: str) -> None:
    guest = enable(lab)
    lab.path("/usr/bin/holdover").write_text(broken)
    assert DID_NOT_RUN in lab.upgrade().stderr
    assert upgraded(lab)
    assert guest.lives()


def test_package_list_in_another_encoding_is_read(lab: Lab) -> None:
    guest = enable(lab)
    line = r"qemu-utils 1 amd64 none < 2 amd64 none /srv/P\366.deb\n"
    hook = "LC_ALL=C.UTF-8 holdover hook apt before $$"
    done = lab.run("sh", "-c", f"printf 'VERSION 3\\n\\n{line}' | {hook}")
    assert "unexpected" not in done.stderr
    assert lab.status(guest.pid)["state"] == "protected"


def test_after_hook_that_finds_the_store_busy_leaves_its_mark(lab: Lab) -> None:
    """Until it has done its work, the next transaction makes good."""
    guest = Guest.start(lab.root, "guest")
    lab.path("/run/holdover").mkdir()
    marker = lab.path("/run/holdover/transaction")
    marker.write_text("1 1\n")
    lab.path("/usr/lib/holdover").touch()
    assert "Not a directory" in lab.holdover("hook", "apt", "after").stderr
    assert marker.exists()
    lab.path("/usr/lib/holdover").unlink()
    lab.holdover("hook", "apt", "after")
    assert not marker.exists()
    assert guest.lives()


def test_a_marker_that_cannot_be_written_is_no_reason_to_protect_nobody(lab: Lab) -> None:
    guest = enable(lab)
    lab.path("/run/holdover/transaction").mkdir(parents=True)
    done = lab.run("sh", "-c", "holdover hook dpkg before $$; true")
    assert done.returncode == 0
    assert "Is a directory" in done.stderr
    assert lab.status(guest.pid)["state"] == "protected"


def test_a_transaction_within_another_does_not_end_it(lab: Lab) -> None:
    """As with `dpkg --root`, or a second dpkg that finds the lock taken: the first goes on."""
    enable(lab)
    inner = "sh -c 'holdover hook dpkg before $$; holdover hook dpkg after; true'"
    marker = "cat /run/holdover/transaction; echo $$"
    outer = f"holdover hook dpkg before $$; {inner}; {marker}; holdover hook dpkg after; true"
    done = lab.run("sh", "-c", outer)
    named, outermost = done.stdout.splitlines()[-2:]
    assert named.split()[0] == outermost
    assert done.stderr == ""
    assert not lab.path("/run/holdover/transaction").exists()


def test_garbage_instead_of_a_package_list_protects_everything(lab: Lab) -> None:
    guest = enable(lab)
    done = lab.run("sh", "-c", "holdover hook apt before $$", text="\0\xff rm -rf\nVERSION 9\n")
    assert done.returncode == 0
    assert "does not begin with VERSION 3" in done.stderr
    assert lab.status(guest.pid)["state"] == "protected"


@pytest.mark.parametrize(
    ("owns", "state"),
    [
        ("/usr/bin/qemu-system-x86_64\n", "protected"),
        ("/usr/lib/x86_64-linux-gnu/qemu\n/usr/lib/x86_64-linux-gnu/qemu/x.so\n", "protected"),
        ("/usr/bin/other\n", "current"),
    ],
    ids=["executable", "module", "other"],
)
def test_package_is_told_by_its_files_whatever_its_name(lab: Lab, owns: str, state: str) -> None:
    guest = enable(lab)
    lab.path("/var/lib/dpkg/info/our-hypervisor.list").write_text(f"/.\n/usr\n/usr/bin\n{owns}")
    listing = "VERSION 3\n\nour-hypervisor 1 amd64 none < 2 amd64 none /x.deb\n"
    assert lab.run("sh", "-c", "holdover hook apt before $$", text=listing).returncode == 0
    assert lab.status(guest.pid)["state"] == state


@pytest.mark.parametrize(
    "words", [(), ("apt",), ("apt", "before"), ("apt", "before", "-1"), ("yum", "\n")], ids=str
)
def test_hook_called_with_garbage_succeeds_and_says_so(lab: Lab, words: tuple[str, ...]) -> None:
    done = lab.run("holdover", "hook", *words, text="")
    assert done.returncode == 0
    assert "no such hook" in done.stderr


def test_transaction_that_concerns_no_program_is_left_alone(lab: Lab) -> None:
    guest = enable(lab)
    done = lab.root.apt("remove", "--dry-run", "python3-rich")
    assert "python3-rich" in done.stdout
    done = lab.root.apt("purge", "python3-markdown-it")
    assert "holdover:" not in done.stdout + done.stderr
    assert lab.held() == []
    assert lab.status(guest.pid)["state"] == "current"


@pytest.mark.parametrize(
    ("options", "problem"),
    [("ro", "Read-only"), ("size=64k,mode=755", "No space left")],
    ids=["ro", "full"],
)
def test_store_that_cannot_be_written(lab: Lab, options: str, problem: str) -> None:
    guest, twin = enable(lab), Guest.start(lab.root, "twin")
    lab.path("/usr/lib/holdover").mkdir(exist_ok=True)
    lab.root.run("mount", "-t", "tmpfs", "-o", options, "tmpfs", "/usr/lib/holdover")
    done = lab.upgrade()
    assert problem in done.stderr
    assert upgraded(lab)
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("at-risk", None)
    lab.root.run("umount", "/usr/lib/holdover")
    assert (guest.lives(), twin.lives()) == (True, True)
    assert lab.held() == []


def test_proc_that_cannot_be_read(lab: Lab) -> None:
    guest = enable(lab)
    blind = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs tmpfs /proc && "$@"', "sh")
    done = lab.run(*blind, "holdover", "status")
    assert done.returncode == 3
    assert "mount -t proc proc /proc" in done.stderr
    done = lab.run(
        *blind,
        "sh",
        "-c",
        "holdover hook apt before $$",
        text="VERSION 3\n\nqemu-utils 1 amd64 none < 2 amd64 none /x.deb\n",
    )
    assert done.returncode == 0
    assert "cannot be read" in done.stderr
    assert lab.status(guest.pid)["state"] == "current"


def test_unprivileged_user_is_told_what_is_missing(lab: Lab) -> None:
    guest = enable(lab)
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = lab.run(*user, "holdover", "status")
    assert done.returncode == 3
    assert "as root" in done.stdout
    done = lab.run(*user, "holdover", "protect", str(guest.pid))
    assert done.returncode == 1
    assert "as root" in done.stderr


@pytest.mark.parametrize("signal", ["STOP", "CONT"])
def test_stopped_guest_is_protected_like_any_other(lab: Lab, signal: str) -> None:
    guest = enable(lab)
    lab.root.run("sh", "-c", f"kill -{signal} {guest.pid}")
    lab.upgrade()
    assert lab.status(guest.pid)["state"] == "protected"
    lab.root.run("sh", "-c", f"kill -CONT {guest.pid}")
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


def test_malformed_module_is_neither_held_nor_in_the_way(lab: Lab) -> None:
    guest = enable(lab)
    modules = lab.path("/usr/lib/x86_64-linux-gnu/qemu")
    (modules / "block-broken.so").write_bytes(b"\x7fELF\x02\x01" + b"\xff" * 500)
    (modules / "block-empty.so").touch()
    (modules / "block-nowhere.so").symlink_to("/no/such/file")
    lab.upgrade()
    assert lab.status(guest.pid)["state"] == "protected"
    shown = lab.json("show", lab.held()[0]["id"])
    names = {file["path"] for file in shown["files"]}
    assert "block-curl.so" in names
    assert not names & {"block-broken.so", "block-empty.so", "block-nowhere.so"}
    assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}


def test_hook_that_takes_too_long_gives_up_and_the_transaction_goes_on(lab: Lab) -> None:
    """Another holdover has the lock, and does not end."""
    guest = enable(lab)
    lab.path("/run/holdover").mkdir()
    lab.path("/etc/holdover").mkdir()
    lab.path("/etc/holdover/holdover.toml").write_text("[hook]\nbudget = 0.5\n")
    wait = "touch /tmp/locked; while test -e /tmp/locked; do sleep 0.1; done"
    hold = f"flock /run/holdover/lock sh -c '{wait}'"
    lab.root.run("sh", "-c", f"({hold}) >/dev/null 2>&1 & until test -e /tmp/locked; do :; done")
    done = lab.upgrade()
    lab.path("/tmp/locked").unlink()
    assert "gave up after" in done.stderr
    assert upgraded(lab)
    assert lab.status(guest.pid)["state"] == "at-risk"
    assert guest.lives()


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
