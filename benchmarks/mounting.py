# SPDX-License-Identifier: Apache-2.0
"""One delivery by mount beside `nsenter` and `mount`, which do that part of it and check nothing.

The guests have mount namespaces of their own, among 500 other processes in the host's.
"""

import json
from dataclasses import dataclass

from benchmarks.measure import Spread
from benchmarks.population import Population
from benchmarks.report import Bench, Table
from holdover.demo.guest import Guest

__all__ = ["measure"]

GUESTS, OTHERS = 20, 500
OURS, NSENTER = "one delivery by mount", "nsenter and mount"


@dataclass(frozen=True)
class Mounting:
    seconds: dict[str, list[float]]
    first: list[float]
    """Of each round, the first delivery: it reads the tables of all namespaces, and forks."""

    def tables(self) -> list[Table]:
        rows = []
        for name, values in {"the first of a run": self.first, **self.seconds}.items():
            found = Spread.of(values)
            cells = [f"{value * 1000:.2f} ms" for value in (found.median, found.least, found.most)]
            rows.append((name, *cells))
        title = f"Delivery by mount to {GUESTS} guests in namespaces of their own"
        return [Table(title, ("WHAT", "MEDIAN", "LEAST", "MOST"), rows)]

    def json(self) -> dict[str, object]:
        return {"seconds": self.seconds, "first": self.first}


def measure(bench: Bench) -> Mounting:
    with bench.watch() as watch:
        Population(watch).grow(0, OTHERS)
        own = ("unshare", "--mount", "--propagation", "private")
        for number in range(GUESTS):
            Guest.start(watch.root, f"own{number}", extra=("-m", "16"), wrapper=own)
        seconds: dict[str, list[float]] = {OURS: [], NSENTER: []}
        first = []
        script = watch.script("mounted.py")
        for _ in range(bench.rounds):
            found = json.loads(watch.root.run(*script).stdout)
            first.append(found["ours"][0])
            seconds[OURS] += found["ours"][1:]
            seconds[NSENTER] += found["nsenter"]
        return Mounting(seconds, first)
