# SPDX-License-Identifier: Apache-2.0
"""`protect` over the number of guests, and what each further one takes."""

import json
from dataclasses import dataclass

from benchmarks.measure import Command, Run, Series, Spread, Stopwatch
from benchmarks.population import Population
from benchmarks.report import Bench, Row, Table
from holdover.errors import CommandError

__all__ = ["measure", "SIZES"]

SIZES = (1, 10, 50, 100, 400)
BUILDS = 2
OTHERS = 500
AIM_EACH = 0.005
"""Seconds for a guest that is not the first of its build."""
AIM_FIFTY = 2.0
"""Seconds for fifty guests."""
_PROTECT = "holdover protect"


@dataclass(frozen=True)
class Guests:
    sizes: dict[int, Series]
    """By number of guests."""

    def tables(self) -> list[Table]:
        title = f"`{_PROTECT}`: all guests, of {BUILDS} builds, none protected, an empty store"
        times = ("MEDIAN", "LEAST", "MOST", "PROCESSOR", "PEAK MEMORY")
        columns = ("GUESTS", *times, "EACH FURTHER ONE", "AIM", "MET")
        return [Table(title, columns, [self._row(count) for count in self.sizes])]

    def each(self, count: int) -> Spread | None:
        """Seconds for each guest beyond those of the size before; None for the first size."""
        smaller = [size for size in self.sizes if size < count]
        if not smaller:
            return None
        before = self.sizes[smaller[-1]]
        pairs = zip(self.sizes[count].runs, before.runs, strict=True)
        more = count - smaller[-1]
        return Spread.of((run.seconds - base.seconds) / more for run, base in pairs)

    def _row(self, count: int) -> Row:
        series, each = self.sizes[count], self.each(count)
        took = series.seconds
        cells = [f"{value * 1000:,.0f} ms" for value in (took.median, took.least, took.most)]
        cells += [f"{series.cpu.median * 1000:,.0f} ms", f"{series.peak >> 20} MiB"]
        if each is None:
            return (str(count), *cells, "", "", "")
        further = f"{each.median * 1000:.1f} ms"
        aim, met = "", ""
        if count == max(self.sizes):
            aim, met = f"{AIM_EACH * 1000:g} ms", _yes(each.median <= AIM_EACH)
        elif count == 50:
            aim, met = f"{AIM_FIFTY:g} s for all", _yes(took.median <= AIM_FIFTY)
        return (str(count), *cells, further, aim, met)

    def json(self) -> list[dict[str, object]]:
        return [{"guests": count, **series.json()} for count, series in self.sizes.items()]


def _yes(met: bool) -> str:
    return "yes" if met else "no"


def measure(bench: Bench) -> Guests:
    with bench.watch() as watch:
        people = Population(watch)
        sizes = {}
        for count in SIZES:
            bench.say(f"{count} guests")
            people.grow(count, OTHERS)
            sizes[count] = Series(_PROTECT)
            for _ in range(bench.rounds):
                sizes[count].runs.append(_protect(watch, count))
        return Guests(sizes)


def _protect(watch: Stopwatch, count: int) -> Run:
    run = watch.round({_PROTECT: Command(("/usr/bin/holdover", "protect", "--json"))})[_PROTECT]
    states = [process["state"] for process in json.loads(run.output)["processes"]]
    if states != ["protected"] * count:
        raise CommandError(f"{states.count('protected')} of {count} guests were protected")
    watch.root.run(*watch.script("release.py"))
    watch.root.run("holdover", "gc")
    return Run(run.seconds, run.cpu, run.peak, run.code, "", ())
