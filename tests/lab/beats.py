# SPDX-License-Identifier: Apache-2.0
"""The heartbeat of a guest, by the guest's own clock, in a file that it wrote; the gaps in it."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

__all__ = ["Beat", "Heart", "Gaps", "gaps"]

PATIENCE = 120.0  # seconds until a guest that is silent is taken for one that stands still


@dataclass(frozen=True, slots=True)
class Beat:
    """Its number, from 1 on, and when it was, in seconds of the guest's clock."""

    number: int
    at: float


@dataclass(frozen=True, slots=True)
class Gaps:
    """How long it was from one beat to the next, in seconds."""

    values: tuple[float, ...] = ()

    def __add__(self, other: "Gaps") -> "Gaps":
        return Gaps(self.values + other.values)

    @property
    def longest(self) -> float:
        return max(self.values, default=0.0)

    def longer_than(self, seconds: float) -> int:
        return sum(1 for value in self.values if value > seconds)

    def quantile(self, share: float) -> float:
        """The least value that `share` of all do not exceed; 0 if there are none."""
        if not self.values:
            return 0.0
        ordered = sorted(self.values)
        return ordered[max(0, math.ceil(round(share * len(ordered), 6)) - 1)]


def gaps(beats: Sequence[Beat]) -> Gaps:
    return Gaps(tuple(later.at - earlier.at for earlier, later in pairwise(beats)))


class Heart:
    """All beats that lie in a file, one a line: number and seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._beats: list[Beat] = []

    @property
    def beats(self) -> Sequence[Beat]:
        """All until now. Raises `ValueError` if one is missing, or is no beat."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, end, _ = file.read().rpartition(b"\n")
        self._read += len(whole + end)
        for line in whole.splitlines():
            number, at = line.split()
            self._beats.append(Beat(int(number), float(at)))
            if self._beats[-1].number != len(self._beats):
                raise ValueError(f"beat {len(self._beats)} of {self._path} is {line!r}")
        return self._beats

    def mark(self) -> int:
        """This moment, for `since`: the last beat is the next stretch's first."""
        return max(0, len(self.beats) - 1)

    def since(self, mark: int) -> Gaps:
        """What came after `mark`; a gap that is under way is waited for."""
        self.await_another()
        return gaps(self.beats[mark:])

    def await_another(self, patience: float = PATIENCE) -> None:
        """Raises `TimeoutError` if no further beat comes."""
        before, deadline = len(self.beats), time.monotonic() + patience
        while len(self.beats) == before:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no heartbeat for {patience:.0f} s after beat {before}")
            time.sleep(0.01)
