# SPDX-License-Identifier: Apache-2.0
"""`target.c` as a process: what a scratch process is in Python, linked as a test wants it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from system.scratch import Scratch

__all__ = ["SOURCE", "Counts", "Native", "build"]

SOURCE = Path(__file__).parent / "target.c"


@dataclass(frozen=True, slots=True)
class Counts:
    """What the threads of a process saw since they were started."""

    rounds: int
    wrong: int
    """Values that nobody gave, blocks of memory that others wrote to, children that failed."""
    late: int
    """Names that a thread had set or unset, and that were not so when it looked again at once."""
    gone: int
    """Constants of the environment, and names that a thread had set, that were not so later."""


def build(directory: Path, *options: str, compiler: str = "gcc", source: Path = SOURCE) -> Path:
    """An executable; its name tells how it was linked."""
    made = directory / ("-".join([source.stem, compiler, *options]).replace("/", "_") or "plain")
    if not made.exists():
        command = [compiler, "-O1", "-Wall", "-pthread", str(source), "-o", str(made), *options]
        subprocess.run(command, check=True, capture_output=True)
    return made


class Native(Scratch):
    def __init__(self, executable: Path, *wrapper: str, **variables: str) -> None:
        self._command = [str(executable)]
        super().__init__(*wrapper, EDITOR="vi", **variables)

    def command(self) -> list[str]:
        return self._command

    def getenv(self, name: str = "SCRATCH_MODULE_DIR") -> str | None:
        value = self.ask(f"get {name}")
        assert value is None or isinstance(value, bytes)
        return None if value is None else value.decode()

    def variables(self) -> Sequence[str]:
        """All that `environ` holds, as the executable itself sees it."""
        found = self.ask("all")
        assert isinstance(found, list)
        return [entry.decode() for entry in found]

    def start(self, kind: str, threads: int) -> None:
        self.ask(f"start {kind} {threads}")

    def stop_threads(self) -> Counts:
        found = self.ask("stop")
        assert isinstance(found, tuple)
        return Counts(*found)
