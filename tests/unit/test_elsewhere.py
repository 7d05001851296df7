# SPDX-License-Identifier: Apache-2.0
"""Threads that must have left what they were doing, as /proc tells of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from holdover import elsewhere
from holdover.elsewhere import wait_until_elsewhere
from holdover.errors import MalformedError, RefusedError
from holdover.procfs import ProcFs

PID = 4711
RUNNING, WAITING, HALTED = "running\n", "202 0x1 0x2 0x0 0x0 0x0 0x0 0x7f 0x7f\n", "-1 0x7f 0x7f\n"


class Threads(ProcFs):
    """Something happens each time that one is looked at."""

    def __init__(self, root: Path, **syscalls: str) -> None:
        super().__init__(root)
        self.event: Callable[[], object] = lambda: None
        for thread, syscall in syscalls.items():
            self.path(PID, f"task/{thread[1:]}").mkdir(parents=True)
            self.write(thread, "syscall", syscall)
            self.write(thread, "schedstat", "5000000000 7 1\n")

    def write(self, thread: str, name: str, text: str) -> None:
        self.path(PID, f"task/{thread[1:]}/{name}").write_text(text)

    def read(self, pid: int, name: str) -> str:
        if name.endswith("syscall"):
            self.event()
        return super().read(pid, name)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "_PATIENCE", 0.0)


def test_thread_in_a_system_call_is_elsewhere(tmp_path: Path) -> None:
    wait_until_elsewhere(Threads(tmp_path, t1=WAITING, t2=WAITING), PID)


def test_thread_that_is_halted_in_its_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="halted in the middle"):
        wait_until_elsewhere(Threads(tmp_path, t1=WAITING, t2=HALTED), PID)


def test_thread_that_gets_no_processor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="does not get on"):
        wait_until_elsewhere(Threads(tmp_path, t1=WAITING, t2=RUNNING), PID)


def test_thread_that_ran_less_than_a_tick_may_not_have_run_at_all(tmp_path: Path) -> None:
    """What it ran before we looked is counted late."""
    threads = Threads(tmp_path, t1=RUNNING)
    threads.event = lambda: threads.write("t1", "schedstat", "5010000000 7 1\n")
    with pytest.raises(RefusedError, match="does not get on"):
        wait_until_elsewhere(threads, PID)


def test_thread_that_ran_for_long_enough_is_elsewhere(tmp_path: Path) -> None:
    threads = Threads(tmp_path, t1=RUNNING)
    threads.event = lambda: threads.write("t1", "schedstat", "5012000000 7 1\n")
    wait_until_elsewhere(threads, PID)


def test_thread_that_ends_is_elsewhere(tmp_path: Path) -> None:
    threads = Threads(tmp_path, t1=RUNNING)
    threads.event = threads.path(PID, "task/1/syscall").unlink
    wait_until_elsewhere(threads, PID)


def test_times_that_make_no_sense_are_malformed(tmp_path: Path) -> None:
    threads = Threads(tmp_path, t1=RUNNING)
    threads.write("t1", "schedstat", "soon\n")
    with pytest.raises(MalformedError, match="schedstat"):
        wait_until_elsewhere(threads, PID)
