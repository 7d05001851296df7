# SPDX-License-Identifier: Apache-2.0
"""Working guests that are adopted and released all the time: what is done to them, and noted."""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from holdover.demo.guest import Guest
from lab.adopting import adopt_and_release
from lab.beats import Gaps
from lab.chroot import Lab
from lab.footprint import Footprint, footprint
from lab.worker import Worker

__all__ = ["NOTHING", "OTHERS", "OWN", "UPGRADE", "Load", "Stretch"]

OWN, OTHERS, NOTHING = "its own rounds", "the other guest's rounds", "nothing, as long"
UPGRADE = "the upgrade of QEMU"
_BATCH = 25  # rounds, then it is the other's turn


@dataclass
class Stretch:
    """All that a guest noticed during one kind of thing, and how long that was in seconds."""

    gaps: Gaps = field(default_factory=Gaps)
    lasted: float = 0.0


@dataclass
class Load:
    """`workers` are guests that hold their names: the delivery by which they are adopted."""

    lab: Lab
    workers: Mapping[str, Worker]
    rounds: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    by_command: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failed: list[object] = field(default_factory=list)
    stretches: dict[tuple[str, str], Stretch] = field(default_factory=lambda: defaultdict(Stretch))
    before: dict[str, Footprint] = field(default_factory=dict)
    after: dict[str, Footprint] = field(default_factory=dict)
    lived: dict[str, bool] = field(default_factory=dict)
    """Until they were ended."""

    def run(self, rounds: int) -> None:
        """So many rounds, shared by all; they take turns, and after each turn nothing is done for
        as long, so that whatever else runs on this machine meets all of it.

        Raises `TimeoutError` if the heart of one stands still.
        """
        share = rounds // len(self.workers)
        self.before = {name: footprint(worker.guest) for name, worker in self.workers.items()}
        while (left := share - min(self.rounds[name] for name in self.workers)) > 0:
            took = [self._turn(name, min(left, _BATCH)) for name in self.workers]
            with self.watched({name: NOTHING for name in self.workers}):
                time.sleep(sum(took) / len(took))
        self.after = {name: footprint(worker.guest) for name, worker in self.workers.items()}

    def _turn(self, name: str, rounds: int) -> float:
        """Returns how long it took, in seconds."""
        started = time.monotonic()
        with self.watched({other: OTHERS for other in self.workers} | {name: OWN}):
            pid = self.workers[name].guest.pid
            self.failed += adopt_and_release(self.lab, pid, name, rounds)
        self.rounds[name] += rounds
        self.by_command[name] += 1
        return time.monotonic() - started

    @contextmanager
    def watched(self, kinds: Mapping[str, str]) -> Iterator[None]:
        """Note what each guest notices in this block; `kinds` says, for each, of what."""
        marks = {name: self.workers[name].heart.mark() for name in kinds}
        started = time.monotonic()
        yield
        lasted = time.monotonic() - started
        for name, kind in kinds.items():
            stretch = self.stretches[name, kind]
            stretch.gaps += self.workers[name].heart.since(marks[name])
            stretch.lasted += lasted

    def note_the_living(self) -> None:
        self.lived = {name: guest.lives() for name, guest in self.guests.items()}

    @property
    def guests(self) -> Mapping[str, Guest]:
        return {name: worker.guest for name, worker in self.workers.items()}
