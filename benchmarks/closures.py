# SPDX-License-Identifier: Apache-2.0
"""The closure of all QEMU modules: ldd, lddtree, libtree and holdover over the same files."""

from dataclasses import dataclass

from benchmarks.measure import PYTHON, TIME_COLUMNS, Command, Series, Stopwatch, ratios, time_cells
from benchmarks.report import Bench, Table
from holdover.errors import CommandError

__all__ = ["measure"]

OURS = "holdover"
# how many times as long as ours they should take
AIMS = {"lddtree": 20.0, "ldd": 1.0, "libtree": 1 / 3}
WORDS = {"lddtree": "20 times as long", "ldd": "longer", "libtree": "a third or more"}
ONE_BY_ONE = "lddtree, a process for each module"
_EACH = 'for module; do /usr/bin/lddtree --list "$module"; done'
FLOOR = "python3 -I -c pass, the least that ours can take"


@dataclass(frozen=True)
class Closures:
    modules: int
    libraries: int
    series: tuple[Series, ...]

    @property
    def ours(self) -> Series:
        return next(series for series in self.series if series.name == OURS)

    def met(self, series: Series) -> bool | None:
        aim = AIMS.get(series.name)
        return None if aim is None else ratios(series, self.ours).median >= aim

    def tables(self) -> list[Table]:
        rows = [
            (
                series.name,
                *time_cells(series, self.ours),
                WORDS.get(series.name, ""),
                {True: "yes", False: "no", None: ""}[self.met(series)],
            )
            for series in self.series
        ]
        title = f"Closure of {self.modules} modules: {self.libraries} libraries, all agree"
        return [Table(title, ("COMMAND", *TIME_COLUMNS, "AIM", "MET"), rows)]

    def json(self) -> dict[str, object]:
        entries = [
            {
                **series.json(),
                "times_ours": ratios(series, self.ours).median,
                "times_ours_cpu": ratios(series, self.ours, "cpu").median,
                "aim": AIMS.get(series.name),
                "met": self.met(series),
            }
            for series in self.series
        ]
        return {"modules": self.modules, "libraries": self.libraries, "commands": entries}


def measure(bench: Bench) -> Closures:
    with bench.watch() as watch:
        return _measure(watch, bench.rounds)


def _measure(watch: Stopwatch, rounds: int) -> Closures:
    """Raises `CommandError` if they do not find the same: then their times say nothing."""
    modules = watch.root.run("sh", "-c", "realpath /usr/lib/*/qemu/*.so").stdout.split()
    commands = {
        OURS: Command((*watch.script("entry.py"), *modules)),
        "ldd": Command(("/usr/bin/ldd", *modules)),
        "lddtree": Command(("/usr/bin/lddtree", "--list", *modules)),
        "libtree": Command(("/usr/bin/libtree", "--path", "-vv", *modules)),
        ONE_BY_ONE: Command(("/bin/sh", "-c", _EACH, "-", *modules)),
        FLOOR: Command((*PYTHON, "-c", "pass")),
    }
    found = {name: run.files for name, run in watch.round(commands).items() if name != FLOOR}
    libraries = {name: set(files) - set(modules) for name, files in found.items()}
    for name, others in libraries.items():
        if others != libraries[OURS] or not others:
            different = ", ".join(sorted(others ^ libraries[OURS]))
            raise CommandError(f"{OURS} and {name} do not find the same libraries", hint=different)
    series = {name: Series(name) for name in commands}
    for _ in range(rounds):
        for name, run in watch.round(commands).items():
            series[name].runs.append(run)
    return Closures(len(modules), len(libraries[OURS]), tuple(series.values()))
