# SPDX-License-Identifier: Apache-2.0
"""Manual pages and completions: current, complete, without warnings, and of use in real shells."""

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdover import errors
from holdover.config import SETTINGS
from holdover.model import Delivery, State
from holdover.packages.guard import VETO
from manual.__main__ import HINTS, SHARE, generated
from manual.commands import UNSEEN, commands
from manual.pages import expand

GENERATED = generated()
PAGES = [path for path in GENERATED if path.parent.name == "man"]
TEMPLATE = (Path(str(SHARE.parent)) / "manual/holdover.8.in").read_text()
PATIENCE = 60.0
"""Seconds for an answer that takes a tenth of one."""
INTERRUPTED = 130


def page(name: str) -> str:
    return GENERATED[SHARE / "man" / name]


def section(name: str) -> str:
    """The text below a heading of holdover(8)."""
    return page("holdover.8").partition(f".SH {name}\n")[2].partition("\n.SH ")[0]


def needed(tool: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed; `make manual-tools` does that")
    return tool


# -- current and complete --------------------------------------------------------------------------


@pytest.mark.parametrize("path", GENERATED, ids=lambda path: path.name)
def test_what_is_committed_is_what_would_be_generated(path: Path) -> None:
    assert path.read_text() == GENERATED[path], "run `make generated`"


def test_no_other_file_is_there() -> None:
    assert {path for path in SHARE.rglob("*") if path.is_file()} == set(GENERATED) - {HINTS}


def test_every_command_is_told_once_with_its_options() -> None:
    told = [command.name for command in commands() if command.name not in UNSEEN]
    for word in ("command", "options"):
        found = re.findall(rf"^@{word} (\S+)$", TEMPLATE, re.MULTILINE)
        assert sorted(found) == sorted(told)


@pytest.mark.parametrize("line", ["@command nonsense", "@options nonsense", "@nonsense"])
def test_page_that_asks_for_what_there_is_not_is_refused(line: str) -> None:
    with pytest.raises(KeyError, match="nonsense"):
        expand(line)


def test_every_option_and_argument_is_in_the_page() -> None:
    plain = page("holdover.8").replace("\\-", "-")
    for command in commands():
        for option in command.options if command.name not in UNSEEN else ():
            assert all(f"\\fB{name}\\fR" in plain for name in option.names)
        assert all(f"\\fI{argument.name}\\fR" in plain for argument in command.arguments)


def test_every_state_delivery_and_setting_is_in_the_pages() -> None:
    assert all(f"\\fB{state}\\fR" in section("STATES").replace("\\-", "-") for state in State)
    assert all(
        f"\\fB{delivery}\\fR" in section("DELIVERIES").replace("\\-", "-") for delivery in Delivery
    )
    for setting in SETTINGS:
        assert f"\\fB{setting.key}\\fR" in page("holdover.toml.5")
        assert setting.variable in page("holdover.toml.5")


def test_exit_codes_are_those_of_the_code() -> None:
    classes = (getattr(errors, name) for name in errors.__all__)
    codes = {kind.exit_code for kind in classes if hasattr(kind, "exit_code")}
    told = re.findall(r"^\.B (\d+)$", section("EXIT STATUS"), re.MULTILINE)
    assert {int(code) for code in told} == {0, *codes, VETO, INTERRUPTED}


# -- the pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_clean_for_mandoc(path: Path) -> None:
    lint = subprocess.run([needed("mandoc"), "-T", "lint", path], capture_output=True, text=True)
    assert lint.stdout == ""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_page_is_shown_without_warnings(path: Path) -> None:
    command = [needed("man"), "--warnings", "--local-file", "--encoding=UTF-8", str(path)]
    wide = os.environ | {"MANWIDTH": "80", "LC_ALL": "C.UTF-8"}
    shown = subprocess.run(command, capture_output=True, text=True, env=wide)
    assert shown.stderr == ""
    assert "holdover" in shown.stdout


def test_check_of_a_page_can_fail(tmp_path: Path) -> None:
    broken = tmp_path / "broken.8"
    broken.write_text(page("holdover.8") + ".NOSUCH macro\n")
    lint = subprocess.run([needed("mandoc"), "-T", "lint", broken], capture_output=True, text=True)
    assert "NOSUCH" in lint.stdout


# -- completions -----------------------------------------------------------------------------------


@pytest.fixture
def running(tmp_path: Path) -> Iterator[int]:
    """A process of a program that is nowhere but below `tmp_path`."""
    executable = tmp_path / "usr/bin/qemu-nbd"
    executable.parent.mkdir(parents=True)
    shutil.copy(str(shutil.which("sleep")), executable)
    with subprocess.Popen([executable, "600"]) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """The completions, for programs and a store below `tmp_path`; one snapshot is there."""
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/qemu-0123456789ab.json").touch()
    (tmp_path / "snapshot/.qemu-new.json.new").touch()
    for path, text in GENERATED.items():
        text = re.sub(r"(-lname [\\']+)/usr/", rf"\1{tmp_path}/usr/", text)
        text = text.replace("/var/lib/holdover", str(tmp_path))
        (tmp_path / path.name).write_text(text)
    return tmp_path


SETUP = {
    "bash": (
        ["bash", "--norc", "--noprofile", "-i"],
        "source {share}/holdover.bash; bind 'set enable-bracketed-paste off'",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "fpath=({share} $fpath); autoload -U compinit; compinit -u -D; unsetopt prompt_cr",
    ),
}
TYPED = [
    ("holdover stat\t", "status"),
    ("holdover protect --del\tmou\t", "protect --delivery mount"),
    ("holdover protect --dry\t", "protect --dry-run"),
    ("holdover gc -o hook.v\ttrue", "gc -o hook.veto=true"),
    ("holdover release \t", "release {pid}"),
    ("holdover show \t", "show qemu-0123456789ab"),
]


@contextmanager
def terminal(argv: Sequence[str]) -> Iterator[int]:
    """An interactive shell; yields the descriptor of its terminal."""
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": "/nonexistent", "LC_ALL": "C"}
    with subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    ) as shell:
        os.close(theirs)
        try:
            yield ours
        finally:
            shell.kill()
            os.close(ours)


def said(descriptor: int, sign: str) -> str:
    """What is printed until `sign` is; all that there is if it never comes."""
    deadline, text = time.monotonic() + PATIENCE, ""
    while sign not in text and time.monotonic() < deadline:
        if select.select([descriptor], [], [], 0.1)[0]:
            text += os.read(descriptor, 4096).decode("utf-8", "replace")
    return text


@pytest.mark.parametrize("shell", SETUP)
def test_shell_completes_what_is_typed(shell: str, share: Path, running: int) -> None:
    argv, setup = SETUP[needed(shell)]
    with terminal(argv) as typist:
        lines = f"holdover() {{ echo \"asked: $*\"; }}; {setup.format(share=share)}; echo rea''dy\n"
        os.write(typist, lines.encode())
        assert "ready" in said(typist, "ready\r\n")
        for typed, expected in TYPED:
            os.write(typist, f"{typed}\n".encode())
            sign = f"asked: {expected.format(pid=running)}"
            assert sign in said(typist, sign)


def test_fish_completes_what_is_typed(share: Path, running: int) -> None:
    script = f"source {share}/holdover.fish; complete --do-complete $argv[1]"
    for typed, expected in TYPED:
        if typed.count("\t") == 1 and typed.endswith("\t"):
            line = typed.removesuffix("\t")
            command = [needed("fish"), "--no-config", "-c", script, line]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            word = expected.format(pid=running).split()[-1]
            assert [offer.split("\t")[0] for offer in shown.splitlines()] == [word]
