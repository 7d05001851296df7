# SPDX-License-Identifier: Apache-2.0
"""`status` beside those who look at all processes too, over the size of the host.

needrestart and checkrestart find processes that use replaced files, lsof lists open files. The
floor is Python's start and one link of each process, which no look can do without.
"""

from dataclasses import dataclass

from benchmarks.measure import PYTHON, Command, Run, Series, Stopwatch, ratios
from benchmarks.population import Population
from benchmarks.report import Bench, Row, Table

__all__ = ["measure", "SIZES"]

SIZES = ((1, 500), (10, 500), (100, 500), (100, 2000), (100, 5000), (400, 5000))
"""Guests, and other processes; each row is what the one before it grew to."""
_UPGRADED_AT = 50  # guests: whoever runs then is of an older build afterwards
COUNTED = (100, 500)
"""The size that aims are about."""
OURS, FLOOR = "holdover status", "Python's start and every /proc/PID/exe"
LSOF, CHECKRESTART, NEEDRESTART = "lsof -n -P", "checkrestart", "needrestart -b -r l"
AIMS = {LSOF: 1.0, CHECKRESTART: 3.0, NEEDRESTART: 30.0, FLOOR: 0.5}
"""How many times as long as ours they should take."""
AIM_MEMORY = 60 * 2**20
_COUNT = """
import os
for pid in os.listdir("/proc"):
    if pid.isdecimal():
        try: os.readlink(f"/proc/{pid}/exe")
        except OSError: pass
"""
COMMANDS = {
    OURS: Command(("/usr/bin/holdover", "status")),
    FLOOR: Command((*PYTHON, "-c", _COUNT)),
    LSOF: Command(("/usr/bin/lsof", "-n", "-P", "-w"), codes=(0, 1)),
    CHECKRESTART: Command(("/usr/sbin/checkrestart",)),
    NEEDRESTART: Command(("/usr/sbin/needrestart", "-b", "-r", "l")),
}


@dataclass(frozen=True)
class Looking:
    sizes: dict[tuple[int, int], dict[str, Series]]

    def tables(self) -> list[Table]:
        columns = ("GUESTS", "OTHERS", *COMMANDS, "PEAK MEMORY")
        rows = [
            (str(guests), str(others), *(_cell(series[name]) for name in COMMANDS), _peak(series))
            for (guests, others), series in self.sizes.items()
        ]
        looks = Table("A look at all processes, by size of the host", columns, rows)
        return [looks, Table(_title(), ("COMMAND", "TIMES OURS", "AIM", "MET"), self._aims())]

    def _aims(self) -> list[Row]:
        series = self.sizes[COUNTED]
        rows = [
            _aim(name, str(found := ratios(series[name], series[OURS])), found.median, aim)
            for name, aim in AIMS.items()
        ]
        peak = max(at[OURS].peak for at in self.sizes.values())
        met = "yes" if peak <= AIM_MEMORY else "no"
        memory = ("peak memory of holdover", f"{peak >> 20} MiB", f"{AIM_MEMORY >> 20} MiB", met)
        return [*rows, memory]

    def json(self) -> list[dict[str, object]]:
        return [
            {"guests": guests, "others": others, "commands": [s.json() for s in series.values()]}
            for (guests, others), series in self.sizes.items()
        ]


def _title() -> str:
    return f"The same, {COUNTED[0]} guests and {COUNTED[1]} others"


def _aim(name: str, text: str, found: float, aim: float) -> Row:
    return name, text, f"{aim:g} or more", "yes" if found >= aim else "no"


def _cell(series: Series) -> str:
    took = series.seconds
    return f"{took.median * 1000:,.0f} ms ({took.least * 1000:,.0f} to {took.most * 1000:,.0f})"


def _peak(series: dict[str, Series]) -> str:
    return f"{series[OURS].peak >> 20} MiB"


def measure(bench: Bench) -> Looking:
    with bench.watch() as watch:
        watch.root.run("holdover", "enable")
        people = Population(watch)
        sizes = {}
        for guests, others in SIZES:
            bench.say(f"{guests} guests, {others} others")
            if len(people.guests) < _UPGRADED_AT <= guests:
                people.grow(_UPGRADED_AT, others)
                people.upgrade()
            people.grow(guests, others)
            sizes[guests, others] = _rounds(watch, bench.rounds)
        return Looking(sizes)


def _rounds(watch: Stopwatch, rounds: int) -> dict[str, Series]:
    series = {name: Series(name) for name in COMMANDS}
    for _ in range(rounds):
        for name, run in watch.round(COMMANDS).items():
            series[name].runs.append(_without_output(run))
    return series


def _without_output(run: Run) -> Run:
    """lsof says megabytes."""
    return Run(run.seconds, run.cpu, run.peak, run.code, "", ())
