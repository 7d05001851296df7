# SPDX-License-Identifier: Apache-2.0
"""The lines that apt runs: they succeed whatever holdover does, and say when it did not run."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.cli.transactions import parse_marker
from holdover.errors import UsageError
from holdover.identity import ProcessId
from holdover.packages.apt import hook_files
from holdover.packages.guard import MARKER

DID_NOT_RUN = "did not run, live guests were not looked at"
PLACES = [
    "bin",
    "with space",
    "with  two spaces",
    "dollar$HOME",
    "star*",
    "semi;colon",
    "hash#",
    "quote'quote",
    'double"quote',
    "back\\slash",
    "new\nline",
    "per%cent",
    "(round)",
    "{curly}",
    "//slashes",
    "dash -n",
    "a::b",
    "ünïcode",
]


def apt_config(text: str, directory: Path, *words: str) -> str:
    """What apt-config answers about a file with this text."""
    if shutil.which("apt-config") is None:
        pytest.skip("no apt-config")
    file = directory / "90holdover"
    file.write_text(text)
    command = ["apt-config", "-c", str(file), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def hook_text(command: Path) -> str:
    (file,) = hook_files(command)
    return file.text


def hook_lines(command: Path) -> tuple[str, str]:
    """The commands of both hooks, read without apt."""
    text = hook_text(command)
    before = re.search(r'^DPkg::Pre-Install-Pkgs \{ "([^"]*)"; \};$', text, re.MULTILINE)
    after = re.search(r'^DPkg::Post-Invoke \{ "([^"]*)"; \};$', text, re.MULTILINE)
    assert before
    assert after
    return before[1], after[1]


def shell(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line as apt does."""
    return subprocess.run(["sh", "-c", line], input="", capture_output=True, text=True, check=False)


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "transaction"


def lines_with(command: Path, marker: Path) -> tuple[str, str]:
    """Both lines, the second with a marker that the test owns."""
    before, after = hook_lines(command)
    assert str(MARKER) in after
    return before, after.replace(str(MARKER), str(marker))


# -- apt ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_apt_reads_both_lines_as_they_are_meant(tmp_path: Path, place: str) -> None:
    command = Path("/opt") / place / "holdover"
    try:
        before, after = hook_lines(command)
    except UsageError:
        return
    found = apt_config(hook_text(command), tmp_path, "dump").splitlines()
    assert f'DPkg::Pre-Install-Pkgs:: "{before}";' in found
    assert f'DPkg::Post-Invoke:: "{after}";' in found


@pytest.mark.parametrize("place", PLACES)
def test_apt_finds_the_protocol_version_by_the_first_word_of_the_hook(
    tmp_path: Path, place: str
) -> None:
    command = Path("/opt") / place / "holdover"
    try:
        text = hook_text(command)
    except UsageError:
        return
    key = f"DPkg::Tools::Options::{hook_lines(command)[0].split(' ')[0]}::Version"
    assert apt_config(text, tmp_path, "shell", "VERSION", key) == "VERSION='3'\n"


@pytest.mark.parametrize("character", ['"', "\\", "\n", "'"])
def test_path_that_apt_cannot_quote_is_refused(character: str) -> None:
    with pytest.raises(UsageError, match="configuration of a package manager"):
        hook_text(Path(f"/opt/a{character}b/holdover"))


# -- the shell ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_command_runs_wherever_it_is_or_is_refused_beforehand(
    tmp_path: Path, marker: Path, place: str
) -> None:
    command = script(tmp_path / place / "holdover", 'echo "ran $1 $2 $3."')
    marker.touch()
    try:
        lines = lines_with(command, marker)
    except UsageError:
        return
    for line, expected in zip(lines, ("before", "after"), strict=True):
        done = shell(line)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"ran hook apt {expected}.\n"


def test_command_is_told_the_process_of_the_package_manager(tmp_path: Path, marker: Path) -> None:
    command = script(tmp_path / "holdover", 'echo "$4" && cat')
    before, _ = lines_with(command, marker)
    done = subprocess.run(
        ["sh", "-c", 'echo $$; sh -c "$1"; true', "sh", before],
        input="VERSION 3\n",
        capture_output=True,
        text=True,
        check=True,
    )
    own, told, listing = done.stdout.splitlines()
    assert (told, listing) == (own, "VERSION 3")


def missing(path: Path) -> None:
    assert not path.exists()


def is_directory(path: Path) -> None:
    path.mkdir()


def not_executable(path: Path) -> None:
    script(path, "exit 0").chmod(0o644)


def fails(path: Path) -> None:
    script(path, "exit 1")


def is_killed(path: Path) -> None:
    script(path, "kill -KILL $$")


def is_terminated(path: Path) -> None:
    script(path, "kill $$")


def no_interpreter(path: Path) -> None:
    path.write_text("#!/no/such/interpreter\n")
    path.chmod(0o755)


def not_a_program(path: Path) -> None:
    path.write_bytes(b"\x7fELF\x02\x01" + b"\xff" * 100)
    path.chmod(0o755)


def dangling(path: Path) -> None:
    path.symlink_to("/no/such/holdover")


BROKEN = [
    missing,
    is_directory,
    not_executable,
    fails,
    is_killed,
    is_terminated,
    no_interpreter,
    not_a_program,
    dangling,
]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("which", [0, 1], ids=["before", "after"])
def test_line_succeeds_and_says_so_when_holdover_does_not_run(
    tmp_path: Path, marker: Path, broken: object, which: int
) -> None:
    assert callable(broken)
    broken(tmp_path / "holdover")
    marker.touch()
    done = shell(lines_with(tmp_path / "holdover", marker)[which])
    assert done.returncode == 0
    assert done.stderr.count(f"holdover: {tmp_path}/holdover {DID_NOT_RUN}") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("which", [0, 1], ids=["before", "after"])
def test_line_says_nothing_when_holdover_runs(tmp_path: Path, marker: Path, which: int) -> None:
    command = script(tmp_path / "holdover", "exit 0")
    marker.touch()
    done = shell(lines_with(command, marker)[which])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("which", [0, 1], ids=["before", "after"])
def test_line_succeeds_when_nobody_can_hear_it(tmp_path: Path, marker: Path, which: int) -> None:
    marker.touch()
    line = lines_with(tmp_path / "holdover", marker)[which]
    done = subprocess.run(["sh", "-c", 'exec >&- 2>&-; sh -c "$1"', "sh", line], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("broken", [*BROKEN, lambda path: script(path, "echo ran")])
def test_line_after_does_nothing_when_no_program_was_touched(
    tmp_path: Path, marker: Path, broken: object
) -> None:
    assert callable(broken)
    broken(tmp_path / "holdover")
    done = shell(lines_with(tmp_path / "holdover", marker)[1])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- the marker --------------------------------------------------------------------------------


def test_marker_names_the_package_managers() -> None:
    assert parse_marker(b"4711 123456\n") == (ProcessId(4711, 123456),)
    assert parse_marker(b"1 2\ngarbage\n3 4\n") == (ProcessId(1, 2), ProcessId(3, 4))
    assert parse_marker(b"1 2\n3 4") == (ProcessId(1, 2),)  # it is still being written


@pytest.mark.parametrize(
    "text",
    ["", "\n", "4711", "4711 1 2", "-1 2", "1 -2", "a b", "1.5 2", "1e3 2", "0x1 2", "\0 1", "² 3"],
)
def test_marker_that_makes_no_sense_names_nobody(text: str) -> None:
    assert parse_marker(text.encode()) == ()


def test_marker_with_a_number_that_is_too_long_names_nobody() -> None:
    assert parse_marker(b"9" * 5000 + b" 1\n") == ()


@given(st.binary())
def test_marker_is_never_an_error(content: bytes) -> None:
    assert all(found.pid >= 0 for found in parse_marker(content))
