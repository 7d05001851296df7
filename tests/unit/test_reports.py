# SPDX-License-Identifier: Apache-2.0
"""What hooks tell does not depend on anybody who listens."""

import subprocess
import sys
from pathlib import Path

import pytest
from unit.factories import process, store_below

from holdover.cli.reports import publisher, report
from holdover.config import Config
from holdover.flow import Holdover
from holdover.model import Outcome, Result, Scan, State

ANNOUNCES = (
    "from holdover.cli.reports import announce; announce('protected 1'); raise SystemExit(75)"
)


@pytest.mark.parametrize("stdout", ["/dev/full", "/dev/null", "closed"])
def test_the_exit_code_stays_what_it_is_if_nobody_can_be_told(stdout: str) -> None:
    """A veto would be none, and the shell guard would say that nothing was done."""
    to = ">&-" if stdout == "closed" else f">{stdout}"
    line = ["sh", "-c", f'exec "$1" -c "$2" {to}', "sh", sys.executable, ANNOUNCES]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (75, "")


def test_a_directory_for_metrics_that_cannot_be_looked_at_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner may mount a file system there that does not answer root."""

    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    holdover = Holdover(store=store_below(tmp_path))
    monkeypatch.setattr(Path, "is_dir", refuse)
    assert publisher(holdover, Config()) is None


@pytest.mark.parametrize(("distrusted", "expected"), [(False, "incomplete"), (True, "done")])
def test_a_users_own_program_is_told_and_vetoes_nothing(
    capsys: pytest.CaptureFixture[str], distrusted: bool, expected: str
) -> None:
    guest = process(unsupported="its executable cannot be trusted", distrusted=distrusted)
    outcome = Outcome(guest, State.UNSUPPORTED, "nothing can be done for it", failed=True)
    assert report(Result((outcome,)), Config(journal_enabled=False)).result == expected
    assert "guest4711 (4711) is not protected: nothing can be done" in capsys.readouterr().err


def test_a_poisoned_guest_is_told_and_vetoes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome(process(), State.POISONED, "attach nothing to it")
    assert report(Result((outcome,)), Config(journal_enabled=False)).result == "done"
    assert "guest4711 (4711) is left alone: attach nothing to it" in capsys.readouterr().err


def test_a_client_of_metrics_that_is_broken_fails_no_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("another version of it")

    monkeypatch.setattr("holdover.cli.metrics.write_metrics", fail)
    holdover = Holdover(store=store_below(tmp_path))
    finish = publisher(holdover, Config(metrics_directory=tmp_path), (Scan((), ()), ()))
    assert finish
    finish()
    assert "no metrics are written: another version of it" in capsys.readouterr().err
