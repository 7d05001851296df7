# SPDX-License-Identifier: Apache-2.0
"""The child that enters mount namespaces: what it does, what it survives, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import holdover
from holdover import entering, linux
from holdover.cli import budget
from holdover.entering import Helper
from holdover.errors import BudgetError, RefusedError

pytestmark = pytest.mark.system
SOURCES = Path(holdover.__file__).parents[1]


@contextmanager
def elsewhere() -> Iterator[int]:
    """The pid of a process in a mount namespace of its own."""
    command = ("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 60")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@contextmanager
def opened(pid: int, directory: Path) -> Iterator[tuple[int, int]]:
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    handles = namespace, os.open(f"/proc/{pid}/root{directory}", os.O_PATH)
    yield handles
    for handle in handles:
        os.close(handle)


def mounted(pid: int, directory: Path) -> int:
    listed = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return sum(line.split()[4] == str(directory) for line in listed)


def attach(helper: Helper, pid: int, target: Path, source: Path) -> None:
    tree = linux.clone_directory(str(source))
    with opened(pid, target) as (namespace, directory):
        try:
            helper.attach(namespace, tree, directory)
        finally:
            os.close(tree)


def test_one_child_mounts_in_many_namespaces_and_nowhere_else(tmp_path: Path) -> None:
    target, source = tmp_path / "target", tmp_path / "source"
    target.mkdir()
    source.mkdir()
    with closing(Helper()) as helper, elsewhere() as one, elsewhere() as other:
        for pid in (one, other, one):
            attach(helper, pid, target, source)
        assert (mounted(one, target), mounted(other, target), mounted(os.getpid(), target)) == (
            *(2, 1, 0),
        )
        with opened(one, tmp_path) as (namespace, parent):
            helper.unmount(namespace, parent, "target", 2)
        assert (mounted(one, target), mounted(other, target)) == (0, 1)


def test_what_the_kernel_refuses_is_told_and_the_next_is_done(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    with closing(Helper()) as helper, elsewhere() as pid:
        refused = pytest.raises(RefusedError, match="umount2: Invalid argument")
        with opened(pid, tmp_path) as (namespace, parent), refused:
            helper.unmount(namespace, parent, "target", 1)
        attach(helper, pid, tmp_path / "target", tmp_path)
        assert mounted(pid, tmp_path / "target") == 1


def test_namespace_of_a_process_that_ended_is_refused(tmp_path: Path) -> None:
    with elsewhere() as pid:
        pidfd = os.pidfd_open(pid)
    directory = os.open(tmp_path, os.O_PATH)
    with closing(Helper()) as helper, pytest.raises(RefusedError, match="setns"):
        helper.unmount(pidfd, directory, "x", 1)
    for handle in (pidfd, directory):
        os.close(handle)


def test_helper_that_is_never_asked_makes_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("a child was made"))
    Helper().close()


def test_answer_that_was_not_waited_for_is_not_taken_for_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hook's time is over in the middle of a mount: what comes then is for nobody."""

    def carry_out(message: bytes, _: list[int]) -> None:
        if message.endswith(b"slow"):
            time.sleep(0.1)
        else:
            raise OSError("refused")

    monkeypatch.setattr(entering, "_carry_out", carry_out)
    before = signal.getsignal(signal.SIGALRM)
    with closing(Helper()) as helper:
        budget.start(0.02)
        with pytest.raises(BudgetError):
            helper.unmount(0, 0, "slow", 1)
        budget.stop()
        time.sleep(0.2)
        with pytest.raises(RefusedError, match="refused"):
            helper.unmount(0, 0, "next", 1)
    signal.signal(signal.SIGALRM, before)


KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(SOURCES)!r})
from holdover.entering import Helper
from holdover.errors import RefusedError
helper = Helper()
try:
    helper.unmount(os.pidfd_open(os.getpid()), os.open("/", os.O_PATH), "nothing here", 1)
except RefusedError:
    helper._ours = helper._start()
print(helper._child, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_child_ends_with_who_was_killed() -> None:
    done = subprocess.run((sys.executable, "-c", KILLED), capture_output=True, text=True)
    child = int(done.stdout)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()
