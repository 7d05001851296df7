# SPDX-License-Identifier: Apache-2.0
"""The child that touches memory: what keeps it waiting, and what does not keep us."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from lab.stalling import Stalling, stalling
from system.scratch import Scratch

from holdover import touching
from holdover.environ import read_environment
from holdover.errors import MalformedError, SilentError
from holdover.locks import is_free
from holdover.memory import Memory
from holdover.procfs import ProcFs
from holdover.silence import Silence
from holdover.touching import _PACKET, TOUCHER, Toucher, time_taken

pytestmark = pytest.mark.system
PROC = ProcFs()


@contextmanager
def stalled(tmp_path: Path, then: str = "") -> Iterator[Stalling]:
    with stalling(tmp_path, then=then) as process:
        if isinstance(process, str):
            pytest.skip(f"users cannot mount a file system of theirs here: {process}")
        yield process


@pytest.fixture
def toucher(monkeypatch: pytest.MonkeyPatch) -> Toucher:
    """One that has not waited for anybody yet, and does not wait as long."""
    fresh = Toucher()
    monkeypatch.setattr("holdover.memory.TOUCHER", fresh)
    monkeypatch.setattr("holdover.procfs.TOUCHER", fresh)
    monkeypatch.setattr(touching, "PATIENCE", 2.0)
    return fresh


def own(content: bytes, tmp_path: Path) -> int:
    (tmp_path / "file").write_bytes(content)
    return os.open(tmp_path / "file", os.O_RDWR)


def test_it_reads_and_writes_as_the_kernel_does(toucher: Toucher, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    file = own(content, tmp_path)
    assert toucher.ask(file, os.pread, 4096, 5) == content[5:4101]
    assert toucher.ask(file, os.pread, 8, len(content)) == b""
    assert toucher.ask(file, os.pread, 1 << 20, 0) == content
    assert toucher.ask(file, os.pwrite, content[::-1], 0) == len(content)
    assert toucher.ask(file, os.pread, 1 << 20, 0) == content[::-1]
    with pytest.raises(OverflowError):
        toucher.ask(file, os.pread, 8, 1 << 63)
    os.close(file)
    with Memory(PROC, os.getpid()) as memory, pytest.raises(OSError, match="Input/output"):
        toucher.ask(memory._fd, os.pread, 8, 0)


def test_messages_end_wherever_packets_do(toucher: Toucher, tmp_path: Path) -> None:
    file, content = own(b"", tmp_path), os.urandom(3 * _PACKET)
    for size in (*range(_PACKET - 300, _PACKET), 3 * _PACKET):
        assert toucher.ask(file, os.pwrite, content[:size], 0) == size
        assert toucher.ask(file, os.pread, size, 0) == content[:size]
    os.close(file)


def test_errors_of_ours_arrive_as_they_are(toucher: Toucher) -> None:
    with Memory(PROC, os.getpid()) as memory:
        with pytest.raises(MalformedError, match="nothing to read at 0x1000$") as told:
            memory.read(0x1000, 8)
        assert (told.value.message, told.value.hint) == (str(told.value), "")


def test_time_of_the_child_counts(toucher: Toucher, tmp_path: Path) -> None:
    """What a process makes it do is that process's doing."""
    file, before = own(b"", tmp_path), time_taken()
    toucher.ask(file, work, 0.1)
    assert toucher.took >= 0.1
    TOUCHER.ask(file, work, 0.1)
    assert time_taken() - before >= 0.1
    os.close(file)


def work(_: int, seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_page_that_never_comes_keeps_nobody(toucher: Toucher, tmp_path: Path) -> None:
    """Not even a signal would wake who touches it."""
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    directory = tmp_path / "mounted"
    directory.mkdir()
    with stalled(directory) as hostile:
        with Memory(PROC, hostile.pid) as memory, pytest.raises(SilentError, match="not answer"):
            memory.read(hostile.page, 8)
        (left,) = toucher._left_behind
        assert os.waitpid(left, os.WNOHANG) == (0, 0)  # SIGKILL was sent, and it is still there
        os.close(lock)
        assert is_free(tmp_path)  # it does not keep our lock
        with Scratch(OWN="1") as honest, Memory(PROC, honest.pid) as memory:
            _, live = read_environment(PROC, honest.pid, memory)
            assert live.entries
    os.waitpid(left, 0)


@pytest.mark.parametrize(("waited", "patience"), [(0, 10.0), (13, 7.0), (100, 0.5)])
def test_many_that_do_not_answer_take_little_more_than_some(
    toucher: Toucher, monkeypatch: pytest.MonkeyPatch, waited: float, patience: float
) -> None:
    """Whoever answers does so in less."""
    monkeypatch.undo()
    monkeypatch.setattr("holdover.memory.TOUCHER", toucher)
    waits = list[float]()
    with monkeypatch.context() as patched, Memory(PROC, os.getpid()) as memory:
        toucher.ask(memory._fd, work, 0.0)  # the child is to answer
        toucher._waited = waited
        patched.setattr("socket.socket.settimeout", lambda _, wait: waits.append(wait))
        patched.setattr(touching, "_receive", silent)
        with pytest.raises(SilentError):
            memory.read(0, 8)
    assert waits == [patience]


def silent(*_: object) -> NoReturn:
    raise TimeoutError


def test_child_that_is_killed_is_followed_by_another(toucher: Toucher, tmp_path: Path) -> None:
    file = own(b"content", tmp_path)
    toucher.ask(file, os.pread, 7, 0)
    os.kill(toucher._child, signal.SIGKILL)
    with pytest.raises(Exception, match="cannot be looked at"):
        toucher.ask(file, os.pread, 7, 0)
    assert toucher.ask(file, os.pread, 7, 0) == b"content"


def test_fork_of_ours_asks_a_child_of_its_own(toucher: Toucher, tmp_path: Path) -> None:
    file = own(b"content", tmp_path)
    toucher.ask(file, os.pread, 7, 0)
    before = toucher._child
    if (fork := os.fork()) == 0:
        right = toucher.ask(file, os.pread, 4, 3) == b"tent" and toucher._child != before
        os._exit(0 if right else 1)
    assert os.waitpid(fork, 0)[1] == 0
    assert (toucher.ask(file, os.pread, 7, 0), toucher._child) == (b"content", before)


def test_it_ends_with_us_and_holds_nothing_of_ours() -> None:
    """Whoever waits for the end of our output must not wait for the child."""
    code = (
        "import os; from holdover.touching import TOUCHER as t;"
        "t.ask(os.open('/proc/self/exe', 0), os.pread, 4, 0);"
        "print(t._child, *os.listdir(f'/proc/{t._child}/fd'), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=False)
    child, *files = done.stdout.split()
    assert len(files) == 4  # nowhere, thrice, and the socket
    while os.path.exists(f"/proc/{child.decode()}"):  # noqa: PTH110
        pass


def test_environment_that_never_comes_is_told(toucher: Toucher, tmp_path: Path) -> None:
    """The pointer of libc leads to the page."""
    then = "ctypes.c_void_p.in_dll(libc, 'environ').value = page"
    with (
        stalled(tmp_path, then) as hostile,
        Memory(PROC, hostile.pid) as memory,
        pytest.raises(SilentError),
    ):
        read_environment(PROC, hostile.pid, memory)


def test_who_does_not_answer_is_left_alone_until_he_does(tmp_path: Path) -> None:
    silence, me = Silence(PROC, tmp_path / "silent"), PROC.identity(os.getpid())
    (tmp_path / "silent").mkdir()
    (tmp_path / "silent/1-1").write_text("garbage")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        with pytest.raises(SilentError, match="does not answer"), silence.minding(me.pid):
            raise SilentError("its memory does not answer", child.pid)
        (note,) = (tmp_path / "silent").iterdir()
        assert note.name == str(me)
        with pytest.raises(SilentError, match="has not answered"), silence.minding(me.pid):
            pytest.fail("it was looked at")
    with silence.minding(me.pid) as found:  # the child came back
        assert found == me
