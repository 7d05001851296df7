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
            *("WAY", "TOOK", "STOPPED, SEEN FROM OUTSIDE", "MOST", "LONGEST GAP INSIDE", "MOST"),
            *("NOT FOR WANT OF A CORE", "MOST", "ITS THREAD LEFT", "LOOKS", "APART AT MOST"),
        )
        rows = [_way_row(way) for way in self.ways]
        return Table("One delivery to a busy guest, medians", columns, rows)

    def _often(self) -> Table:
        gdb = next(way for way in self.ways if way.name == GDB)
        rows = []
        for what, of in (("longest gap", "gap"), ("not for want of a core", "unexplained")):
            for stretch in (self.to_it, self.to_another):
                rows.append((what, stretch.name, *_quantiles(stretch.values(of))))
            rows.append((what, gdb.name, *_quantiles(gdb.values(of))))
        rows.append(("what is done took", self.to_it.name, *_quantiles(self.to_it.values("took"))))
        title = f"{self.to_it.deliveries:,} deliveries, each with its release, no guest died"
        return Table(title, ("A WINDOW'S", "DURING", "WINDOWS", *_SHARES), rows)

    def _threads(self) -> Table:
        columns = ("THREAD", "DURING", "SECONDS", "LEFT", "PREEMPTED", "WAITED FOR A CORE")
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


_SHARES = {"HALF": 0.5, "99 %": 0.99, "99.9 %": 0.999, "99.99 %": 0.9999, "MOST": 1.0}
"""Of the windows: as long as in the column, or shorter."""


def _quantiles(values: list[float]) -> Row:
    """Only those that so many values tell apart from the most."""
    count = len(values)
    shown = (share == 1 or count * (1 - share) >= 1 for share in _SHARES.values())
    cells = zip(_SHARES.values(), shown, strict=True)
    return (f"{count:,}", *(_ms(quantile(values, share)) if show else "" for share, show in cells))


def _way_row(way: Way) -> Row:
    spreads = [way.spread(of) for of in ("stopped", "gap", "unexplained")]
    return (
        way.name,
        _ms(way.spread("took").median),
        *(_ms(value) for spread in spreads for value in (spread.median, spread.most)),
        f"{way.spread('left').median:.0f} times",
        f"{way.spread('looks').median:,.0f}",
        _ms(way.spread("apart").most),
    )


def _thread_row(name: str, stretch: Stretch) -> Row:
    found = stretch.threads.get(name, Counts())
    return (
        name,
        stretch.name,
        f"{stretch.lasted:.0f}",
        f"{found.left:,} times",
        f"{found.preempted:,} times",
        f"{found.waited / stretch.lasted:.1%} of the time",
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"


def measure(bench: Bench) -> Stops:
    with bench.watch() as watch, core_for_guests() as core:
        ways = measure_ways(watch, bench.rounds, core)
        return Stops(ways, *measure_repeated(watch, bench.rounds, core))
