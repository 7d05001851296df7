# SPDX-License-Identifier: Apache-2.0
"""A rehearsal proves what a guest would load, and neither the guest nor the system notices."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, Guest
from holdover.elf import ElfFile

pytestmark = pytest.mark.e2e

LIBRARY = "/usr/lib/x86_64-linux-gnu/libssh.so.4"  # block-ssh needs it, and nothing else does
DT_INIT = 12  # of <elf.h>
TRAP = bytes.fromhex("0f0b")  # ud2: no processor executes it
START_UP = "/usr/lib/x86_64-linux-gnu/libpixman-1.so.0"  # the executable needs it
OTHER_TARGETS = {"accel-tcg-i386", "hw-s390x-virtio-gpu-ccw"}


@pytest.fixture
def guest(lab: Lab) -> Iterator[Guest]:
    started = Guest.start(lab.root, "web01")
    yield started
    assert started.lives()


def rehearsed(lab: Lab, guest: Guest) -> dict[str, set[str]]:
    """Names of modules by what became of them."""
    answer = lab.json("rehearse", str(guest.pid))
    assert answer["schema"] == "holdover.rehearsal/1"
    assert (answer["pid"], answer["name"], answer["problems"]) == (guest.pid, "web01", [])
    results: dict[str, set[str]] = {"loads": set(), "fails": set(), "untried": set()}
    for module in answer["modules"]:
        results[module["result"]].add(module["name"])
        assert (module["reason"] == "") == (module["result"] == "loads")
    return results


def reason(lab: Lab, guest: Guest, name: str) -> str:
    modules: list[dict[str, Any]] = lab.json("rehearse", str(guest.pid))["modules"]
    return next(str(module["reason"]) for module in modules if module["name"] == name)


def break_library(lab: Lab) -> None:
    """Let the library's first own instruction be none: nothing that only reads files sees that."""
    file = lab.root.root / LIBRARY.lstrip("/")
    with file.open("rb") as opened:
        elf = ElfFile(opened)
        address = elf.dynamic_value(DT_INIT)
        segment = next(s for s in elf.loads if s.address <= address < s.address + s.file_size)
    content = bytearray(file.read_bytes())
    at = address - segment.address + segment.offset
    content[at : at + len(TRAP)] = TRAP
    lab.root.run("mv", f"{LIBRARY}", f"{LIBRARY}.whole")
    file.write_bytes(content)


def mend_library(lab: Lab) -> None:
    lab.root.run("mv", f"{LIBRARY}.whole", LIBRARY)


def left_behind(lab: Lab) -> list[Path]:
    """Files of the store, whatever they are for."""
    places = ("usr/lib/holdover", "var/lib/holdover", "run/holdover/lease")
    return [path for place in places for path in lab.path(place).rglob("*") if path.is_file()]


# -- what is proven ----------------------------------------------------------------------------


def test_all_modules_of_a_guest_load_before_and_after_the_upgrade(lab: Lab, guest: Guest) -> None:
    lab.root.run("holdover", "enable")
    before = rehearsed(lab, guest)
    assert before["fails"] == set()
    assert before["untried"] == OTHER_TARGETS
    assert len(before["loads"]) > 20
    lab.upgrade()
    assert rehearsed(lab, guest) == before
    shown = lab.holdover("rehearse", str(guest.pid))
    assert shown.returncode == 0
    count = len(before["loads"])
    assert shown.stdout.splitlines()[-1] == (
        f"{count} of {count + 2} modules load; 2 were not tried: nothing asked for them."
    )


def test_guest_that_was_not_protected_in_time_has_nothing_to_rehearse(
    lab: Lab, guest: Guest
) -> None:
    lab.upgrade()
    done = lab.holdover("rehearse", str(guest.pid))
    assert done.returncode == 1
    assert "nothing to rehearse: its modules were replaced" in done.stderr


OTHER_BUILD = """
import sys
from dataclasses import replace
from pathlib import Path
from holdover import flow, proving

def rehearse(proc, process, program, holding):
    return original(proc, process, program, replace(holding, view=process.build.directories[0]))

original, proving.rehearse = proving.rehearse, rehearse
done = proving.prove(flow.Holdover(), int(sys.argv[1]))
print(*{str(module.result) for module in done.modules})
"""


def test_modules_of_another_build_fail(lab: Lab, guest: Guest) -> None:
    """The contrast: what lies on disk after the upgrade is not what the guest would load."""
    lab.root.run("holdover", "protect")
    lab.upgrade()
    seen = lab.run("python3", "-I", "-c", OTHER_BUILD, str(guest.pid)).stdout
    assert set(seen.split()) == {"fails", "untried"}
    assert lab.status(guest.pid)["state"] == "at-risk"


def test_stand_in_is_made_of_what_is_gone_from_disk(lab: Lab, guest: Guest) -> None:
    lab.root.run("holdover", "enable")
    lab.upgrade()
    lab.root.run("rm", START_UP)
    assert lab.run("qemu-system-x86_64", "--version").returncode != 0  # nobody else can start
    assert rehearsed(lab, guest)["untried"] == OTHER_TARGETS


# -- what fails --------------------------------------------------------------------------------


def test_broken_library_is_told_and_nothing_is_delivered(lab: Lab, guest: Guest) -> None:
    break_library(lab)
    assert rehearsed(lab, guest)["fails"] == {"block-ssh"}
    assert "died of SIGILL after it had asked for block-ssh" in reason(lab, guest, "block-ssh")

    done = lab.holdover("protect", "--rehearse", str(guest.pid))
    assert done.returncode == 1
    assert "rehearsal: block-ssh fails: " in done.stdout
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("current", None)
    assert left_behind(lab) == []

    mend_library(lab)
    assert lab.holdover("protect", "--rehearse", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "protected"
    assert guest.probe("ssh disk") == ATTACHED


def test_without_a_rehearsal_it_is_delivered_and_kills(lab: Lab) -> None:
    """The contrast: what it was about."""
    victim = Guest.start(lab.root, "victim")
    break_library(lab)
    assert lab.holdover("protect", str(victim.pid)).returncode == 0
    assert lab.status(victim.pid)["state"] == "protected"
    assert victim.probe("ssh disk") == DIED


WITHOUT_LIBRARY = """
import shutil, sys, tempfile
from dataclasses import replace
from pathlib import Path
from holdover import flow, proving

def rehearse(proc, process, program, holding):
    with tempfile.TemporaryDirectory(dir="/usr/lib") as parent:
        Path(parent).chmod(0o755)
        view = Path(shutil.copytree(holding.view, f"{parent}/view"))
        (view / "lib/libssh.so.4").unlink()
        Path("/usr/lib/x86_64-linux-gnu/libssh.so.4").unlink()
        return original(proc, process, program, replace(holding, view=view))

original, proving.rehearse = proving.rehearse, rehearse
print(proving.prove(flow.Holdover(), int(sys.argv[1])).failure)
"""


def test_library_that_is_missing_from_the_view_is_told(lab: Lab, guest: Guest) -> None:
    """Not seen by a look at the held files if it was never held: rehearsed, but not delivered."""
    seen = lab.run("python3", "-I", "-c", WITHOUT_LIBRARY, str(guest.pid))
    assert "block-ssh fails: libssh.so.4: cannot open shared object file" in seen.stdout


def test_protected_guest_whose_rehearsal_failed_is_at_risk_until_one_succeeds(
    lab: Lab, guest: Guest
) -> None:
    break_library(lab)
    assert lab.holdover("protect", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "protected"  # nobody has tried
    assert lab.holdover("rehearse", str(guest.pid)).returncode == 1
    seen = lab.status(guest.pid)
    assert (seen["state"], seen["delivery"]) == ("at-risk", "environment")
    assert seen["reason"].startswith("rehearsal: block-ssh fails: ")
    again = lab.holdover("protect", str(guest.pid))
    assert again.returncode == 1
    assert "what is on disk is no better" in again.stdout
    assert lab.status(guest.pid) == seen

    mend_library(lab)
    assert lab.holdover("protect", "--rehearse", str(guest.pid)).returncode == 0
    assert lab.status(guest.pid)["state"] == "protected"
    assert lab.holdover("rehearse", str(guest.pid)).returncode == 0
    assert guest.probe("ssh disk") == ATTACHED


def test_damaged_view_is_not_run(lab: Lab, guest: Guest) -> None:
    lab.root.run("holdover", "protect")
    (held,) = lab.held()
    module = lab.path(f"usr/lib/holdover/view/{held['id']}/block-ssh.so")
    module.write_bytes(module.read_bytes() + b"x")
    done = lab.holdover("rehearse", str(guest.pid))
    assert done.returncode == 1
    assert "block-ssh.so" in done.stderr
    assert "not used" in done.stderr


# -- who notices -------------------------------------------------------------------------------


def test_guest_does_not_notice_and_nothing_stays(lab: Lab, guest: Guest) -> None:
    def seen() -> tuple[set[str], list[str], str]:
        maps = lab.path(f"proc/{guest.pid}/maps").read_text().splitlines()
        mapped = {line.split(None, 5)[5] for line in maps if "/" in line}
        processes = lab.run("sh", "-c", "cat /proc/[0-9]*/comm").stdout.split()
        return mapped, sorted(processes), lab.path(f"proc/{guest.pid}/mountinfo").read_text()

    before, again = seen(), None
    while before != again:  # a guest answers before all of it has come to rest
        time.sleep(0.5)
        before, again = seen(), before
    assert lab.holdover("rehearse", str(guest.pid)).returncode == 0
    assert seen() == before
    assert left_behind(lab) == []
    assert list(lab.path("tmp").glob("stand-in*")) == []
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)
    assert seen()[0] > before[0]  # this is what a load in the guest itself looks like


IN_THE_MIDST = """
import os, signal, subprocess, sys
from holdover import flow, proving

def rehearse(*arguments):
    ACTION
    return original(*arguments)

original, proving.rehearse = proving.rehearse, rehearse
proving.prove(flow.Holdover(), int(sys.argv[1]))
"""


def in_the_midst(lab: Lab, guest: Guest, action: str) -> str:
    """Rehearse, and do something else when the stand-in is about to start."""
    script = IN_THE_MIDST.replace("ACTION", action)
    return lab.run("python3", "-I", "-c", script, str(guest.pid)).stdout


def test_others_can_work_meanwhile_and_do_not_collect_what_is_rehearsed(
    lab: Lab, guest: Guest
) -> None:
    said = in_the_midst(lab, guest, "subprocess.run(['holdover', 'gc'], check=True)")
    assert said == "0 snapshots removed, 0 B freed.\n"
    assert left_behind(lab) == []


def test_snapshot_that_somebody_came_to_need_meanwhile_stays(lab: Lab, guest: Guest) -> None:
    in_the_midst(lab, guest, "subprocess.run(['holdover', 'protect'], check=True)")
    assert lab.status(guest.pid)["state"] == "protected"
    assert guest.probe_twice("ssh disk") == (ATTACHED, ATTACHED)


def test_what_a_killed_rehearsal_leaves_goes_with_the_next_collection(
    lab: Lab, guest: Guest
) -> None:
    in_the_midst(lab, guest, "os.kill(os.getpid(), signal.SIGKILL)")
    assert len(lab.held()) == 1
    lab.root.run("holdover", "gc")
    assert left_behind(lab) == []


def test_process_that_is_no_guest_is_not_rehearsed(lab: Lab) -> None:
    done = lab.holdover("rehearse", "1")
    assert done.returncode == 1
    assert "no program that holdover knows" in done.stderr
