# SPDX-License-Identifier: Apache-2.0
"""A long run of all targets by libFuzzer, and the table of what came of it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fuzz.target import MIB
from fuzz.targets import TARGETS

__all__ = ["Outcome", "explore", "table"]

_REPOSITORY = Path(__file__).parents[2]
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_COVERED = re.compile(r"cov: (\d+)")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run."""

    name: str
    inputs: int
    covered_first: int
    """Edges that the corpus reaches."""
    covered: int
    """Edges that were reached in the end."""
    memory: int
    """Bytes, the most that was needed beyond what the process had at its start."""
    slowest: float
    """Seconds of processor time for one input."""
    finding: str
    """What went wrong, or ""."""


def explore(
    names: Sequence[str], seconds: int, jobs: int, directory: Path, findings: Path
) -> tuple[Outcome, ...]:
    """Run the targets for so long each, so many at a time; what breaks one is kept as a finding.

    `directory` is for all that is needed meanwhile.
    """
    path = os.pathsep.join([str(_REPOSITORY / "tests"), str(_REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(directory)}
    command = (sys.executable, "-m", "fuzz.explorer", directory, findings, str(seconds))
    with (directory / "explorers.log").open("wb") as log:  # all that is instrumented
        explorers = [
            subprocess.Popen((*command, *names[job::jobs]), env=environment, stderr=log)
            for job in range(min(jobs, len(names)))
        ]
        for explorer in explorers:
            explorer.wait()
    return tuple(_outcome(name, directory) for name in names)


def _outcome(name: str, directory: Path) -> Outcome:
    log, figures = directory / f"{name}.log", directory / f"{name}.json"
    said = log.read_text(errors="replace") if log.exists() else "it was not run"
    dearest = json.loads(figures.read_text()) if figures.exists() else {}
    executed = _EXECUTED.search(said)
    covered = [int(number) for number in _COVERED.findall(said)] or [0]
    return Outcome(
        name=name,
        inputs=int(executed[1]) if executed else 0,
        covered_first=covered[0],
        covered=covered[-1],
        memory=dearest.get("memory", 0),
        slowest=dearest.get("slowest", 0.0),
        finding="" if re.search(r"(?m)^Done \d+ runs", said) else _finding(said),
    )


def _finding(said: str) -> str:
    """What libFuzzer or Python names as the reason."""
    named = re.search(r"(?m)^(?:SUMMARY: libFuzzer: (?:timeout|out-of-memory)|ERROR: .*)$", said)
    raised = re.search(r"Uncaught Python exception: ===\n(.*)", said)
    found = raised[1] if raised else named[0] if named else said.strip()[-200:]
    return found[:200]


def table(outcomes: Iterable[Outcome], seconds: int) -> str:
    """Markdown."""
    outcomes = tuple(outcomes)
    total = sum(outcome.inputs for outcome in outcomes)
    rows = [
        f"{len(outcomes)} targets, {seconds} s each, {total:,} inputs. Coverage is in edges of"
        " Python code: what the corpus reaches, and what was reached in the end. Memory is what"
        " the process grew by, libFuzzer's own corpus included; the slowest input is in"
        " processor time.",
        "",
        "| target | what production lets in | inputs | edges | findings | memory | slowest |",
        "|---|---|--:|--:|---|--:|--:|",
    ]
    for outcome in outcomes:
        rows.append(
            f"| {outcome.name} | {TARGETS[outcome.name].accepted} | {outcome.inputs:,}"
            f" | {outcome.covered_first} → {outcome.covered} | {outcome.finding or 'none'}"
            f" | {outcome.memory / MIB:.0f} MiB | {outcome.slowest * 1000:.0f} ms |"
        )
    return "\n".join(rows)
