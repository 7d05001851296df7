# SPDX-License-Identifier: Apache-2.0
"""For how long a guest is stopped: by one delivery, beside gdb's, and by ten thousand."""

from dataclasses import dataclass

from benchmarks.busy import core_for_guests
from benchmarks.repeated import Stretch, measure_repeated, quantile
from benchmarks.report import Bench, Row, Table
from benchmarks.single import GDB, Way, measure_ways
from benchmarks.threads import Counts

__all__ = ["measure", "Stops"]


@dataclass(frozen=True)
class Stops:
    ways: tuple[Way, ...]
    to_it: Stretch
    to_another: Stretch

    def tables(self) -> list[Table]:
        return [self._once(), self._often(), self._threads()]

    def _once(self) -> Table:
        columns = (
            "WAY",
            *("TOOK", "STOPPED, SEEN FROM OUTSIDE", "MOST", "LONGEST GAP INSIDE", "MOST"),
            *("ITS PROCESSOR LEFT", "LOOKS", "APART AT MOST"),
        )
        rows = [_way_row(way) for way in self.ways]
        return Table("One delivery to a busy guest", columns, rows)

    def _often(self) -> Table:
        columns = ("LONGEST GAP INSIDE", "DELIVERIES", "WINDOWS", *_SHARES)
        rows = [
            (s.name, f"{s.deliveries:,}", f"{len(s.gaps):,}", *_quantiles(s.gaps))
            for s in (self.to_it, self.to_another)
        ]
        took = [("time that one of them takes", "", "", *_quantiles(self.to_it.took))]
        gdb = next(way for way in self.ways if way.name == GDB)
        gaps = [seen.gap for seen in gdb.seen]
        beside = [(gdb.name, str(len(gaps)), str(len(gaps)), *_quantiles(gaps))]
        title = "Deliveries and as many releases, one in each window; no guest died"
        return Table(title, columns, rows + beside + took)

    def _threads(self) -> Table:
        columns = ("THREAD", "DURING", "LEFT ITS PROCESSOR", "PREEMPTED", "WAITED FOR ONE")
        rows = [
            row
            for name in sorted(self.to_it.threads.keys() | self.to_another.threads.keys())
            for row in (_thread_row(name, s) for s in (self.to_it, self.to_another))
        ]
        return Table("Threads of the busy guest", columns, rows)

    def json(self) -> dict[str, object]:
        return {
            "ways": [way.json() for way in self.ways],
            "stretches": [stretch.json() for stretch in (self.to_it, self.to_another)],
        }


_SHARES: dict[str, float] = {
    "HALF": 0.5,
    "99 %": 0.99,
    "99.9 %": 0.999,
    "99.99 %": 0.9999,
    "MOST": 1,
}
"""Of the windows, at most that."""


def _quantiles(values: list[float]) -> Row:
    return tuple(_ms(quantile(values, share)) for share in _SHARES.values())


def _way_row(way: Way) -> Row:
    stopped, gap = way.spread("stopped"), way.spread("gap")
    return (
        way.name,
        _ms(way.spread("took").median),
        *(_ms(stopped.median), _ms(stopped.most), _ms(gap.median), _ms(gap.most)),
        f"{way.spread('left').median:.0f} times",
        f"{way.spread('looks').median:.0f}",
        _ms(way.spread("apart").most),
    )


def _thread_row(name: str, stretch: Stretch) -> Row:
    found = stretch.threads.get(name, Counts())
    return (
        name,
        stretch.name,
        f"{found.left / stretch.lasted:.1f} times a second",
        f"{found.preempted / stretch.lasted:.1f} times a second",
        f"{found.waited / stretch.lasted:.1%} of the time",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def measure(bench: Bench) -> Stops:
    with bench.watch() as watch, core_for_guests() as core:
        ways = measure_ways(watch, bench.rounds, core)
        return Stops(ways, *measure_repeated(watch, bench.rounds, core))
