# SPDX-License-Identifier: Apache-2.0
"""Times of commands inside a root, and how those of neighbours compare.

The machine is shared and noisy: what counts are ratios of runs that followed each other. Processor
time is shown beside them, for it does not grow with what else runs.
"""

import json
import shutil
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError

__all__ = [
    "Command",
    "Run",
    "Series",
    "Spread",
    "Stopwatch",
    "ratios",
    "time_cells",
    "TIME_COLUMNS",
]

PYTHON = ("/usr/bin/python3", "-I")  # as the installed command is started
_PLACE = "/tmp/bench"


@dataclass(frozen=True)
class Command:
    """`text` goes to its stdin; an exit code that is not in `codes` is an error."""

    words: tuple[str, ...]
    text: str = ""
    codes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Run:
    """One process from start to end; `files` are those that its output names, links followed."""

    seconds: float
    cpu: float
    peak: int
    """Bytes of memory."""
    code: int
    output: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass
class Series:
    """What became of one command in all rounds."""

    name: str
    runs: list[Run] = field(default_factory=list)

    @property
    def seconds(self) -> Spread:
        return Spread.of(run.seconds for run in self.runs)

    @property
    def cpu(self) -> Spread:
        return Spread.of(run.cpu for run in self.runs)

    @property
    def peak(self) -> int:
        return max(run.peak for run in self.runs)

    def json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "seconds": [run.seconds for run in self.runs],
            "cpu_seconds": [run.cpu for run in self.runs],
            "peak_bytes": self.peak,
        }


class Stopwatch:
    """Runs commands inside a root."""

    def __init__(self, root: ThrowawayRoot) -> None:
        self.root = root
        self._place = root.inside / _PLACE.lstrip("/")
        self._place.mkdir()
        self.script("inside.py")

    def script(self, name: str) -> tuple[str, ...]:
        """Words that run a script of this directory inside."""
        shutil.copy(Path(__file__).with_name(name), self._place / name)
        return (*PYTHON, f"{_PLACE}/{name}")

    def round(self, commands: Mapping[str, Command]) -> dict[str, Run]:
        """Each once, one after another; raises `CommandError` if one fails."""
        asked = json.dumps([asdict(command) for command in commands.values()])
        done = self.root.run(*PYTHON, f"{_PLACE}/inside.py", text=asked)
        found = {
            name: Run(**answer | {"files": tuple(answer["files"])})
            for name, answer in zip(commands, json.loads(done.stdout), strict=True)
        }
        for name, run in found.items():
            if run.code not in commands[name].codes:
                raise CommandError(f"{name} ended with {run.code}", hint=run.output[-1000:])
        return found


def ratios(other: Series, ours: Series, of: str = "seconds") -> Spread:
    """How many times as long the other one took, round by round."""
    pairs = zip(other.runs, ours.runs, strict=True)
    return Spread.of(getattr(there, of) / getattr(here, of) for there, here in pairs)


TIME_COLUMNS = ("MEDIAN", "LEAST", "MOST", "PROCESSOR", "TIMES OURS", "BY PROCESSOR TIME")


def time_cells(series: Series, ours: Series) -> tuple[str, ...]:
    took = series.seconds
    cells = [f"{seconds * 1000:.0f} ms" for seconds in (took.median, took.least, took.most)]
    cells.append(f"{series.cpu.median * 1000:.0f} ms")
    compared = [str(ratios(series, ours, of)) for of in ("seconds", "cpu")]
    return (*cells, *(("", "") if series is ours else compared))
