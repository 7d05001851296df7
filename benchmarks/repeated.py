# SPDX-License-Identifier: Apache-2.0
"""Ten thousand deliveries to busy guests, and as many to their idle neighbours as a control.

Both load the machine alike; only the first touch the guest that is measured. They take turns, some
dozens of one and then of the other, so that whatever else runs here meets both.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from math import ceil
from time import perf_counter

from benchmarks.busy import BusyGuest, process_of
from benchmarks.measure import Stopwatch
from benchmarks.single import VARIABLE, VIEW
from benchmarks.threads import Counts, counts, grown
from holdover.demo.guest import ATTACHED, Guest
from holdover.errors import CommandError
from holdover.model import Process
from holdover.procfs import ProcFs
from holdover.steps.deliver import environment

__all__ = ["Stretch", "TO_IT", "TO_ANOTHER", "quantile", "measure_repeated"]

TO_IT = "deliveries to the guest itself"
TO_ANOTHER = "the same to another guest"
DELIVERIES = 10_000
FULL_ROUNDS = 7
_TURN = 50  # deliveries, then it is the other's turn
_TRIAL = 4  # turns in each round of a run that has not all rounds
_LATE_LOAD = "https disk"


@dataclass(frozen=True, slots=True)
class Window:
    """One delivery or one release, in seconds."""

    took: float
    gap: float
    """Longest between two of the busy guest's readings of the clock."""
    unexplained: float
    """In which it stood still, and did not wait for a core."""


@dataclass
class Stretch:
    """All windows of one kind."""

    name: str
    deliveries: int = 0
    windows: list[Window] = field(default_factory=list)
    lasted: float = 0.0
    """Seconds."""
    threads: dict[str, Counts] = field(default_factory=dict)
    """Of the busy guest, by their names."""

    def values(self, of: str) -> list[float]:
        return [getattr(window, of) for window in self.windows]

    def json(self) -> dict[str, object]:
        shares = (0.5, 0.9, 0.99, 0.999, 0.9999, 1.0)
        return {
            "name": self.name,
            "deliveries": self.deliveries,
            "windows": len(self.windows),
            "lasted_seconds": self.lasted,
            "threads": {name: asdict(counts) for name, counts in self.threads.items()},
        } | {
            f"{of}_seconds": {str(share): quantile(self.values(of), share) for share in shares}
            for of in ("took", "gap", "unexplained")
        }


def quantile(values: list[float], share: float) -> float:
    """The least value that `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(round(share * len(ordered), 6)) - 1)]


def measure_repeated(watch: Stopwatch, rounds: int, core: int) -> tuple[Stretch, Stretch]:
    """To the guest itself, and to another; a fresh pair of guests in each round.

    Raises `CommandError` if one died, or cannot load a module afterwards.
    """
    ours, control = Stretch(TO_IT), Stretch(TO_ANOTHER)
    turns = ceil(DELIVERIES / FULL_ROUNDS / _TURN) if rounds >= FULL_ROUNDS else _TRIAL
    proc = ProcFs(watch.root.inside / "proc")
    for number in range(rounds):
        idle = Guest.start(watch.root, f"idle{number}", extra=("-m", "16"))
        with BusyGuest.running(watch.root, proc, f"busy{number}", core) as busy:
            for _ in range(turns):
                _turn(proc, busy, busy.process, ours)
                _turn(proc, busy, process_of(proc, idle), control)
            for guest in (busy.guest, idle):
                _expect_to_live(guest)
        idle.kill()
    return ours, control


def _turn(proc: ProcFs, busy: BusyGuest, target: Process, stretch: Stretch) -> None:
    pid = busy.process.id.pid
    before, started = counts(proc, pid), perf_counter()
    for _ in range(_TURN):
        stretch.windows += _windows(proc, busy, target)
    stretch.lasted += perf_counter() - started
    stretch.deliveries += _TURN
    for name, more in grown(before, counts(proc, pid)).items():
        stretch.threads[name] = stretch.threads.get(name, Counts()) + more


def _windows(proc: ProcFs, busy: BusyGuest, target: Process) -> Iterator[Window]:
    """One delivery and its release."""
    for change in (
        partial(environment.deliver, proc, target, VARIABLE, VIEW),
        partial(environment.release, proc, target, VARIABLE),
    ):
        mark, started = busy.mark(), perf_counter()
        change()
        took = perf_counter() - started
        seen = busy.since(mark)
        yield Window(took, seen.longest, seen.unexplained)


def _expect_to_live(guest: Guest) -> None:
    if guest.probe(_LATE_LOAD) != ATTACHED:
        raise CommandError(f"guest {guest.name} loads no modules after so many deliveries")
