# SPDX-License-Identifier: Apache-2.0
"""dpkg's two lines: what is for the shell to decide, it decides."""

import os
import subprocess
from pathlib import Path

import pytest

from holdover.errors import UsageError
from holdover.packages import load_adapter
from holdover.packages.dpkg import hook_files
from holdover.packages.guard import ASKED, MARKER, VETO

CHANGING = ("unpack", "install", "remove", "purge")
OTHERS = ("configure", "triggers-only", "record-avail", "")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "transaction"


def located(text: str, marker: Path) -> str:
    asked = str(marker.with_name("asked"))
    return text.replace(str(MARKER), str(marker)).replace(str(ASKED), asked)


def note_of_us(marker: Path) -> None:
    """What apt's hook writes; the shell's parent stands for dpkg, and this process for apt too."""
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    marker.with_name("asked").write_text(f"{os.getpid()} {stat[19]}\n")


def run(
    tmp_path: Path, marker: Path, which: str, code: int = 0, **environment: str
) -> tuple[int, str]:
    """One line, as dpkg runs it, with a holdover that says what it is told to do.

    What is on stdin is for dpkg's own questions: there it would be heard.
    """
    command = tmp_path / "holdover"
    command.write_text(f'#!/bin/sh\necho "$1 $2 $3"\ntest $3 != before || cat\nexit {code}\n')
    command.chmod(0o755)
    (file,) = hook_files(command)
    (line,) = (
        found.partition("=")[2]
        for found in located(file.text, marker).splitlines()
        if found.startswith(which)
    )
    argv = ["sh", "-c", line]
    done = subprocess.run(
        argv, input="y\n", env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("action", CHANGING)
def test_an_action_that_changes_files_is_told(tmp_path: Path, marker: Path, action: str) -> None:
    found = run(tmp_path, marker, "pre-invoke", DPKG_HOOK_ACTION=action)
    assert found == (0, "hook dpkg before\n")


@pytest.mark.parametrize("action", OTHERS)
def test_an_action_that_changes_none_is_not(tmp_path: Path, marker: Path, action: str) -> None:
    assert run(tmp_path, marker, "pre-invoke", DPKG_HOOK_ACTION=action) == (0, "")


@pytest.mark.parametrize("which", ["pre-invoke", "post-invoke"])
def test_a_dpkg_that_apt_started_is_apts_concern(tmp_path: Path, marker: Path, which: str) -> None:
    marker.touch()
    note_of_us(marker)
    found = run(tmp_path, marker, which, DPKG_HOOK_ACTION="unpack", DPKG_FRONTEND_LOCKED="true")
    assert found == (0, "")


@pytest.mark.parametrize("note", [None, "", "1 1\n", "garbage $(x) *\n"])
@pytest.mark.parametrize("which", ["pre-invoke", "post-invoke"])
def test_a_dpkg_that_only_says_so_is_not(
    tmp_path: Path, marker: Path, which: str, note: str | None
) -> None:
    """DPKG_FRONTEND_LOCKED=1 is what people are told to set when the lock is taken."""
    marker.touch()
    if note is not None:
        marker.with_name("asked").write_text(note)
    found = run(tmp_path, marker, which, DPKG_HOOK_ACTION="unpack", DPKG_FRONTEND_LOCKED="true")
    assert found == (0, f"hook dpkg {'before' if which == 'pre-invoke' else 'after'}\n")


def test_the_end_is_told_if_the_beginning_had_work(tmp_path: Path, marker: Path) -> None:
    assert run(tmp_path, marker, "post-invoke") == (0, "")
    marker.touch()
    assert run(tmp_path, marker, "post-invoke") == (0, "hook dpkg after\n")


@pytest.mark.parametrize(("code", "expected"), [(VETO, 1), (1, 0), (2, 0), (127, 0), (137, 0)])
def test_only_a_veto_stops_dpkg(tmp_path: Path, marker: Path, code: int, expected: int) -> None:
    assert run(tmp_path, marker, "pre-invoke", code, DPKG_HOOK_ACTION="unpack")[0] == expected


@pytest.mark.parametrize("character", ["\n", " ", ";", "$", "'", "%"])
def test_a_path_that_needs_quoting_is_refused(character: str) -> None:
    with pytest.raises(UsageError, match="configuration of a package manager"):
        hook_files(Path(f"/opt/a{character}b/holdover"))


def test_dpkg_does_not_say_what_it_changes() -> None:
    assert load_adapter("dpkg").read_change([], b"") is None
