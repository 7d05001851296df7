# SPDX-License-Identifier: Apache-2.0
"""Processes that an operator released by hand: the timer leaves them alone.

Until a transaction concerns them, or somebody protects them: that is what the record ends with.
"""

from dataclasses import dataclass
from pathlib import Path

from holdover.durable import store_errors
from holdover.identity import ProcessId

__all__ = ["Released"]


@dataclass(frozen=True, slots=True)
class Released:
    """One empty file for each, named after (pid, start time)."""

    directory: Path

    def add(self, process: ProcessId) -> None:
        with store_errors("remember a release"):
            self.directory.mkdir(parents=True, exist_ok=True)
            (self.directory / str(process)).touch()

    def forget(self, process: ProcessId) -> None:
        with store_errors("forget a release"):
            (self.directory / str(process)).unlink(missing_ok=True)

    def all(self) -> frozenset[ProcessId]:
        with store_errors("read what was released"):
            names = [path.name.partition("-") for path in self.directory.glob("[0-9]*-[0-9]*")]
        return frozenset(
            ProcessId(int(pid), int(start))
            for pid, _, start in names
            if pid.isdecimal() and start.isdecimal()
        )
