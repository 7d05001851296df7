# SPDX-License-Identifier: Apache-2.0
"""What a part of the benchmark comes to: tables for people, and the same for programs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from benchmarks.measure import Stopwatch
from holdover.demo.root import ThrowawayRoot, install_holdover
from holdover.looking import Progress

__all__ = ["Bench", "Figures", "Measure", "Row", "Table"]

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: Row
    rows: Sequence[Row]


class Figures(Protocol):
    def tables(self) -> list[Table]:
        """What is printed."""

    def json(self) -> object:
        """All that was measured, run by run; times in seconds, sizes in bytes."""


@dataclass(frozen=True)
class Bench:
    """Where to measure, and how often."""

    base: Path
    scratch: Path
    rounds: int
    say: Progress

    @contextmanager
    def watch(self) -> Iterator[Stopwatch]:
        """A fresh root with the neighbours and this very holdover in it."""
        with ThrowawayRoot.copy_of(self.base, self.scratch) as root:
            install_holdover(root.root)
            yield Stopwatch(root)


Measure = Callable[[Bench], Figures]
"""Raises `CommandError` if something could not be measured."""
