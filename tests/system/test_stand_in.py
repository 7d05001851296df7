# SPDX-License-Identifier: Apache-2.0
"""A stand-in is made of what its original was made of, reaches nothing, and leaves nothing behind.

The original is a shell, so that the stand-in can be asked what it sees; the same is asked of a
shell that is no stand-in, which has to see it all.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from system.scratch import Scratch, running, until

from holdover import standin
from holdover.errors import HoldoverError, UnsupportedError, VanishedError
from holdover.loaded import start_up
from holdover.model import Process
from holdover.procfs import ProcFs
from holdover.run import run
from holdover.standin import Ending, run_stand_in

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("namespaces")]

PROC = ProcFs()
VARIABLE = "HOLDOVER_TEST_ORIGINAL"


@contextmanager
def shell() -> Iterator[Process]:
    """One that waits for its stdin to close."""
    command = (os.path.realpath("/bin/sh"), "-c", "echo; read line")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env={VARIABLE: "x"}, **pipes) as popen:  # type: ignore[call-overload]
        popen.stdout.readline()
        yield running(popen.pid)


@pytest.fixture(scope="module")
def original() -> Iterator[Process]:
    with shell() as process:
        yield process


def ending(original: Process, script: str, *, timeout: float = 60, text: str = "") -> Ending:
    return run_stand_in(PROC, original, ["-c", script], {}, text=text, timeout=timeout)


def stand_in(original: Process, script: str) -> str:
    done = ending(original, script)
    assert done.code == 0, done.output
    return done.output


def plain(script: str) -> str:
    return run("sh", "-c", script).stdout


def sleeps(seconds: str) -> bool:
    """Whether anybody sleeps for exactly that long."""
    for pid in PROC.pids():
        try:
            if PROC.read(pid, "cmdline") == f"sleep\0{seconds}\0":
                return True
        except HoldoverError:
            continue
    return False


# -- what it reaches ---------------------------------------------------------------------------


def fields(status: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (s.partition(":") for s in status.split("\n"))}


def test_stand_in_has_no_privilege_and_can_get_none(original: Process) -> None:
    seen = fields(stand_in(original, "cat /proc/self/status"))
    assert {seen[f"Cap{kind}"].strip("0") for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {""}
    assert seen["Uid"].split() == seen["Gid"].split() == ["65534"] * 4
    assert (seen["Groups"], seen["NoNewPrivs"]) == ("", "1")
    assert fields(plain("cat /proc/self/status"))["CapEff"].strip("0") != ""


def test_stand_in_has_no_network_and_no_abstract_socket(original: Process) -> None:
    script = "cat /proc/net/dev | tail -n +3; cat /proc/net/unix | tail -n +2"
    assert [line.split()[0] for line in stand_in(original, script).splitlines()] == ["lo:"]
    assert len(plain(script).splitlines()) > 1


def test_stand_in_finds_no_device_no_socket_and_no_temporary_file(
    original: Process, tmp_path: Path
) -> None:
    script = "ls /dev /run /var/tmp; find /tmp -name 'test_stand_in*' 2>/dev/null; true"
    assert set(stand_in(original, script).split()) <= {
        *("/dev:", "/run:", "/var/tmp:", "null", "zero", "random", "urandom", "mount")
    }
    (tmp_path / "test_stand_in").touch()
    assert len(plain(script).split()) > 20


def test_stand_in_sees_no_other_process(original: Process) -> None:
    script = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
    mark = Path(sys.executable).name
    assert mark not in stand_in(original, script)
    assert mark in plain(script)


def test_stand_in_cannot_change_what_it_is_made_of(original: Process) -> None:
    done = ending(original, ": >> /tmp/stand-in/libc.so.6")
    assert "Permission denied" in done.output
    assert done.code != 0


def test_nothing_of_the_environment_gets_into_the_stand_in(
    original: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "y")
    assert VARIABLE in PROC.read(original.id.pid, "environ")
    assert VARIABLE not in stand_in(original, "env; cat /proc/*/environ 2>/dev/null; true")


def test_stand_in_gets_its_variables_arguments_and_input(original: Process) -> None:
    done = run_stand_in(
        PROC, original, ["-c", 'echo "$1 $A"; cat', "sh", "b c"], {"A": "a"}, text="in", timeout=60
    )
    assert done == Ending("b c a\nin", 0)


# -- what it is made of ------------------------------------------------------------------------


def test_stand_in_is_made_of_the_files_that_are_mapped(original: Process) -> None:
    mapped = {
        line.split()[-1]
        for line in stand_in(
            original, "while read l; do echo $l; done </proc/self/maps"
        ).splitlines()
    }
    files = {Path(path) for path in mapped if path.startswith("/")}
    assert {path.parent for path in files} == {Path("/tmp/stand-in")}
    assert {path.name for path in files} >= {original.executable.name, "ld.so", "libc.so.6"}


def test_what_was_loaded_late_is_no_part_of_a_start() -> None:
    with Scratch() as late:
        before = dict(start_up(PROC, late.pid).libraries)
        mapped = {Path(m.path).name for m in PROC.maps(late.pid)}
        assert any(name.startswith("libffi.so") for name in mapped)  # ctypes needs it
        assert not any(name.startswith("libffi.so") for name in before)
        assert "libc.so.6" in before


def test_statically_linked_program_has_no_stand_in() -> None:
    command = shutil.which("ldconfig", path="/sbin:/usr/sbin")
    if command is None:
        pytest.skip("no ldconfig")
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    with subprocess.Popen([command, "-p"], stdout=writer) as static:
        os.close(writer)
        until(lambda: PROC.stat(static.pid).state == "S")
        with pytest.raises(UnsupportedError, match="loader"):
            ending(running(static.pid), "true")
        os.close(reader)


@pytest.mark.parametrize("name", ["../libc.so.6", "/etc/ld.so.cache", ".."])
def test_library_whose_name_leads_elsewhere_is_copied_nowhere(
    original: Process, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = start_up(PROC, original.id.pid)
    odd = replace(found, libraries=((name, found.loader), *found.libraries))
    monkeypatch.setattr(standin, "start_up", lambda *_: odd)
    with pytest.raises(UnsupportedError, match="no file name"):
        ending(original, "true")


def test_process_that_ended_has_no_stand_in() -> None:
    with shell() as process:
        pass
    with pytest.raises(VanishedError):
        ending(process, "true")


# -- how it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -SEGV $$", 139), ("kill -ABRT $$", 134)],
)
def test_ending_is_told_as_a_shell_tells_it(original: Process, script: str, code: int) -> None:
    assert ending(original, script).code == code


def test_what_is_written_is_heard_in_order(original: Process) -> None:
    assert stand_in(original, "echo a; echo b >&2; echo c") == "a\nb\nc\n"


def test_stand_in_that_does_not_end_is_ended_with_all_its_children(original: Process) -> None:
    mark = f"86400.{os.getpid()}1"
    done = ending(original, f"echo begun; sleep {mark} & sleep {mark}", timeout=5)
    assert done == Ending("begun\n", None)
    until(lambda: not sleeps(mark))


def test_stand_in_dies_with_us_however_we_die(original: Process) -> None:
    mark = f"86400.{os.getpid()}2"
    mounts = Path("/proc/self/mountinfo").read_text()
    pid = os.fork()
    if not pid:
        try:
            ending(original, f"sleep {mark}", timeout=600)
        finally:
            os._exit(1)
    until(lambda: sleeps(mark))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    until(lambda: not sleeps(mark))
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_original_does_not_notice(original: Process) -> None:
    before = PROC.maps(original.id.pid)
    stand_in(original, "true")
    assert PROC.maps(original.id.pid) == before
    assert PROC.is_alive(original.id)
