# SPDX-License-Identifier: Apache-2.0
"""What real processes have on their stderr, and what of it is read."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest
from unit.test_complaints import FAILED

import holdover.stderr
from holdover.complaints import Log, Said
from holdover.errors import UnreadableError
from holdover.procfs import ProcFs
from holdover.stderr import Stderr

BEGINS = re.compile(rb"\n(\S+): started\n")


@contextmanager
def running(stderr: int | IO[bytes], **environment: str) -> Iterator[int]:
    """The pid of a process that writes nothing itself."""
    env = dict(os.environ) | environment
    with subprocess.Popen(["sleep", "60"], stderr=stderr, env=env) as process:
        try:
            while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(b"sleep"):
                time.sleep(0.001)
            yield process.pid
        finally:
            process.kill()


def said(pid: int, log: Path = Path("/none"), *, journal: bool = False) -> Said:
    logs = (Log(f"{log}/{{}}.log", BEGINS),)
    return Stderr(ProcFs(), journal=journal).of(pid, "web01", logs)


def told(pid: int, log: Path = Path("/none"), *, journal: bool = False) -> str:
    """Why it cannot be known."""
    with pytest.raises(UnreadableError) as raised:
        said(pid, log, journal=journal)
    return raised.value.message


def line(seconds_ago: float = 0.0) -> bytes:
    when = datetime.fromtimestamp(time.time() - seconds_ago, UTC)
    return f"{when.isoformat()}: started\n".encode()


# -- files -----------------------------------------------------------------------------------------


def test_a_file_that_is_younger_than_the_process_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log"
    script = f'sleep 0.3; exec sleep 60 2>>"{path}"'
    with subprocess.Popen(["sh", "-c", script]) as process:
        try:
            while not path.exists():
                time.sleep(0.01)
            path.write_bytes(FAILED)
            path.unlink()  # it is read all the same
            assert said(process.pid) == Said(FAILED, own=True)
        finally:
            process.kill()


def test_a_file_that_is_older_may_hold_another_runs_words(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(FAILED)
    time.sleep(0.3)
    with path.open("ab") as log, running(log) as pid:
        assert said(pid) == Said(FAILED, own=False)


def test_a_start_in_an_older_file_tells_what_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(5000) + FAILED + line())
    with path.open("ab") as log, running(log) as pid:
        assert said(pid) == Said(b"", own=True)


def test_only_the_end_of_a_long_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        file.write(FAILED)
        file.truncate(1 << 40)
        file.seek(1 << 40)
        file.write(b"end")
    with path.open("ab") as log, running(log) as pid:
        found = said(pid)
    assert len(found.text) == holdover.stderr._MOST
    assert found.text.endswith(b"\0end")
    assert found.missing == "its log is longer than what is read of it"


def test_who_has_a_lease_on_his_file_does_not_make_us_wait(tmp_path: Path) -> None:
    path = tmp_path / "log"
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        with path.open("wb") as log, running(log) as pid:
            fcntl.fcntl(log, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            with pytest.raises(BlockingIOError):
                said(pid)
    finally:
        signal.signal(signal.SIGIO, before)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/dev/null", "its stderr is /dev/null"),
        ("/proc/version", "its stderr is a file on proc, which may never answer"),
    ],
)
def test_what_is_no_file_of_a_local_file_system_is_not_read(path: str, reason: str) -> None:
    with open(path, "rb") as file, running(file) as pid:
        assert told(pid) == reason


def test_neither_is_a_pipe_with_a_name(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDWR), "wb") as pipe, running(pipe) as pid:
        assert told(pid) == f"its stderr is {path}"[: len("its stderr is ") + 80]


def test_nor_a_file_without_a_name() -> None:
    with open(os.memfd_create("x"), "wb") as file, running(file) as pid:
        assert told(pid) == "its stderr is a file on a mount that is not to be seen"


def test_a_process_may_have_no_stderr() -> None:
    with subprocess.Popen(["sh", "-c", "exec sleep 60 2>&-"]) as process:
        try:
            while "sleep" not in Path(f"/proc/{process.pid}/comm").read_text():
                time.sleep(0.001)
            time.sleep(0.3)  # what it opens for its start gets that number too
            assert told(process.pid) == "it has closed its stderr"
        finally:
            process.kill()


# -- somebody else's log ---------------------------------------------------------------------------


def test_the_log_of_a_pipe_is_known_by_the_start_that_it_tells(tmp_path: Path) -> None:
    (tmp_path / "web01.log").write_bytes(line(5000) + b"old\n" + line() + FAILED)
    with running(subprocess.PIPE) as pid:
        assert said(pid, tmp_path) == Said(FAILED, own=True)


def test_a_log_that_was_rotated_goes_on_in_the_older_one(tmp_path: Path) -> None:
    (tmp_path / "web01.log.1").write_bytes(FAILED)  # of an earlier run
    (tmp_path / "web01.log.0").write_bytes(FAILED + line() + b"one\n")
    (tmp_path / "web01.log").write_bytes(b"two\n")
    with running(subprocess.PIPE) as pid:
        assert said(pid, tmp_path) == Said(b"one\ntwo\n", own=True)


def test_a_log_without_the_start_does_not_tell_all(tmp_path: Path) -> None:
    (tmp_path / "web01.log").write_bytes(b"two\n")
    time.sleep(0.3)
    with running(subprocess.PIPE) as pid:
        missing = "its log does not go back to its start"
        assert said(pid, tmp_path) == Said(b"two\n", False, missing)


def test_a_log_of_another_run_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "web01.log").write_bytes(line(5000) + FAILED)
    with running(subprocess.PIPE) as pid:
        assert told(pid, tmp_path) == "the last start that its log tells of is not its own"


def test_a_pipe_without_a_log_tells_nothing(tmp_path: Path) -> None:
    with running(subprocess.PIPE) as pid:
        assert "nobody is known to keep a log" in told(pid, tmp_path)


@pytest.mark.parametrize("name", ["", "../web01", "/etc/passwd", "x\0y"])
def test_no_name_leads_out_of_the_directory_of_the_logs(tmp_path: Path, name: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "web01.log").write_bytes(line() + FAILED)
    logs = (Log(f"{tmp_path}/logs/{{}}.log", BEGINS),)
    with (
        running(subprocess.PIPE) as pid,
        pytest.raises(UnreadableError, match="nobody is known"),
    ):
        Stderr(ProcFs()).of(pid, name, logs)


def test_a_log_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "web01.log"
    path.write_bytes(line() + FAILED)
    path.chmod(0o666)
    with running(subprocess.PIPE) as pid:
        assert "nobody is known" in told(pid, tmp_path)


# -- the journal -----------------------------------------------------------------------------------


@contextmanager
def of_the_journal() -> Iterator[int]:
    """A process whose environment says that its stderr goes to the journal."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inode = os.fstat(theirs.fileno()).st_ino
        with running(theirs.fileno(), JOURNAL_STREAM=f"9:{inode}") as pid:
            yield pid


def test_a_socket_is_the_journals_only_if_the_service_manager_says_so() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, running(theirs.fileno(), JOURNAL_STREAM="9:1") as pid:
        assert told(pid, journal=True) == "its stderr is a socket"


def test_a_hook_does_not_ask_the_journal() -> None:
    with of_the_journal() as pid:
        assert told(pid) == "its stderr goes to the journal, which is not asked now"


def journalctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """A stand-in for it; returns where it writes its arguments."""
    (tmp_path / "journalctl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\n{script}\n')
    (tmp_path / "journalctl").chmod(0o755)
    path = f"{tmp_path}:/usr/bin:/bin"
    monkeypatch.setattr("holdover.run.ENVIRONMENT", {"PATH": path})
    monkeypatch.setenv("PATH", path)
    return tmp_path / "asked"


def test_the_journal_is_asked_for_what_that_process_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = journalctl(tmp_path, monkeypatch, "echo one")
    with of_the_journal() as pid:
        assert said(pid, journal=True) == Said(b"one\n", own=True)
    assert f"--output=cat --since=@{str(time.time())[:7]}" in asked.read_text()
    assert f"_PID={pid}\n" in asked.read_text()


def test_how_far_the_journal_goes_back_is_asked_of_the_oldest_process_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = journalctl(tmp_path, monkeypatch, "echo one")
    stderr = Stderr(ProcFs(), journal=True)
    with of_the_journal() as first, of_the_journal() as second:
        for pid in (first, second):
            assert stderr.of(pid, "", ()) == Said(b"one\n", own=True)
    assert asked.read_text().count("--until=") == 1


def test_only_the_end_of_long_lines_in_the_journal_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journalctl(tmp_path, monkeypatch, "head -c 5000000 /dev/zero; echo end")
    with of_the_journal() as pid:
        found = said(pid, journal=True)
    assert len(found.text) == holdover.stderr._MOST
    assert found.text.endswith(b"\0end\n")
    assert found.missing == "its log is longer than what is read of it"


def test_a_journal_that_never_ends_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdover.stderr, "_PATIENCE", 0.2)
    for script in ("exec sleep 60", "exec cat /dev/zero"):
        journalctl(tmp_path, monkeypatch, script)
        with of_the_journal() as pid:
            assert "took more than 0.2 s" in told(pid, journal=True)


def test_a_journal_that_begins_later_does_not_tell_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journalctl(tmp_path, monkeypatch, "true")
    with of_the_journal() as pid:
        assert said(pid, journal=True).missing == "its log does not go back to its start"


def test_a_journal_that_does_not_answer_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = journalctl(tmp_path, monkeypatch, "exit 1")
    stderr = Stderr(ProcFs(), journal=True)
    with of_the_journal() as pid:
        with pytest.raises(UnreadableError, match="the journal cannot be asked: failed with 1"):
            stderr.of(pid, "", ())
        with pytest.raises(UnreadableError, match="not asked now"):
            stderr.of(pid, "", ())
    assert len(asked.read_text().splitlines()) == 1
