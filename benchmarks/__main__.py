# SPDX-License-Identifier: Apache-2.0
"""`make bench`: prints the figures; fails only if one could not be measured."""

import argparse
import os
import platform
import sys
from importlib import import_module
from pathlib import Path

from benchmarks.base import BENCH
from benchmarks.plot import plot
from benchmarks.report import Bench, Figures, Measure
from holdover.cli.output import print_json, print_table
from holdover.demo.archive import default_cache, prepare_base
from holdover.demo.root import sweep
from holdover.errors import HoldoverError

PARTS = (
    *("closures", "protecting", "parts", "looking", "replay", "guests"),
    *("stops", "mounting", "transaction", "rescuing", "servers"),
)
"""Modules of this package, in the order in which they are run; each has a `measure`."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=7, help="how often each command is run")
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all of them by default")
    parser.add_argument("--plot", type=Path, metavar="DIRECTORY", help="and draw them there")
    options = parser.parse_args()
    try:
        figures = _measure(options.rounds, options.parts or PARTS)
    except HoldoverError as error:
        print(f"bench: {error.message}\n{error.hint}", file=sys.stderr)
        return 1
    if options.plot:
        for path in plot(figures, options.plot):
            _say(f"wrote {path}")
    if options.json:
        found = {name: part.json() for name, part in figures.items()}
        print_json({"schema": "holdover.bench/2", "machine": _machine()} | found)
    else:
        _show(figures)
    return 0


def _measure(rounds: int, parts: tuple[str, ...]) -> dict[str, Figures]:
    cache = default_cache()
    bench = Bench(prepare_base(cache, _say, BENCH), cache / "runs", rounds, _say)
    sweep(bench.scratch)
    found = {}
    for name in parts:
        _say(name)
        measure: Measure = import_module(f"benchmarks.{name}").measure
        found[name] = measure(bench)
    return found


def _machine() -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def _show(figures: dict[str, Figures]) -> None:
    print(", ".join(f"{name} {value}" for name, value in _machine().items()))
    print("\nWhole processes, each round one of each; ratios are of runs in the same round.\n")
    for part in figures.values():
        for table in part.tables():
            print_table(table.columns, table.rows, title=table.title)
            print()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
