# SPDX-License-Identifier: Apache-2.0
"""`status` over up to 100,000 processes, more than fit on a machine.

The guests are real. Of the others, what `status` asks of them is recorded from a real one, its link
`exe`, and replayed in a directory that looks like /proc.
"""

from dataclasses import dataclass

from benchmarks.measure import PYTHON, Command, Series, ratios
from benchmarks.population import Population
from benchmarks.report import Bench, Table

__all__ = ["measure", "SIZES"]

SIZES = (1000, 10_000, 100_000)
GUESTS = 10
_PLACE = "/tmp/replayed"
STATUS, FLOOR = "status over it", "every exe of it"
_MAKE = """
import os, sys
place, count = sys.argv[1], int(sys.argv[2])
real = {name: os.readlink(f"/proc/{name}/exe") for name in os.listdir("/proc")
        if name.isdecimal() and os.path.exists(f"/proc/{name}/exe")}
recorded = next(link for link in real.values() if link.endswith("/sleep"))
os.mkdir(place)
for name in ("sys", "uptime", "cpuinfo", *(n for n, l in real.items() if "qemu" in l)):
    os.symlink(f"/proc/{name}", f"{place}/{name}")
for number in range(1_000_000, 1_000_000 + count):
    os.mkdir(f"{place}/{number}")
    os.symlink(recorded, f"{place}/{number}/exe")
"""
_LOOK = """
import os, sys
place = sys.argv[1]
for pid in os.listdir(place):
    if pid.isdecimal():
        try: os.readlink(f"{place}/{pid}/exe")
        except OSError: pass
"""


@dataclass(frozen=True)
class Replay:
    sizes: dict[int, dict[str, Series]]

    def tables(self) -> list[Table]:
        rows = []
        for count, series in self.sizes.items():
            took, floor = series[STATUS].seconds, series[FLOOR].seconds
            times = (f"{took.median * 1000:,.0f} ms", f"{floor.median * 1000:,.0f} ms")
            ratio = str(ratios(series[STATUS], series[FLOOR]))
            peak = f"{series[STATUS].peak >> 20} MiB"
            rows.append((f"{count:,}", "replayed", *times, ratio, peak))
        columns = ("OTHERS", "HOW", "STATUS", "PYTHON AND EVERY EXE", "RATIO", "PEAK MEMORY")
        return [Table(f"`status` of {GUESTS} real guests among others", columns, rows)]

    def json(self) -> list[dict[str, object]]:
        return [
            {"guests": GUESTS, "replayed": count, "commands": [s.json() for s in series.values()]}
            for count, series in self.sizes.items()
        ]


def measure(bench: Bench) -> Replay:
    with bench.watch() as watch:
        Population(watch).grow(GUESTS, 1)
        commands = {
            STATUS: Command((*watch.script("replayed.py"), _PLACE)),
            FLOOR: Command((*PYTHON, "-c", _LOOK, _PLACE)),
        }
        sizes = {}
        for count in SIZES:
            bench.say(f"{count:,} replayed processes")
            watch.root.run(*PYTHON, "-c", _MAKE, _PLACE, str(count))
            sizes[count] = {name: Series(name) for name in commands}
            for _ in range(bench.rounds):
                for name, run in watch.round(commands).items():
                    sizes[count][name].runs.append(run)
            watch.root.run("rm", "-r", _PLACE)
        return Replay(sizes)
