# SPDX-License-Identifier: Apache-2.0
"""`make bench`: prints the figures; fails only if one could not be measured."""

import argparse
import os
import platform
import sys
from pathlib import Path

from bench.base import BENCH
from bench.closures import Closures, measure_closures
from bench.many import Many, measure_many
from bench.measure import Stopwatch
from bench.parts import measure_parts
from bench.protecting import Protecting, measure_protecting
from bench.rescuing import Rescuing, measure_rescuing
from holdover.cli.output import human_bytes, print_json, print_table
from holdover.demo.archive import default_cache, prepare_base
from holdover.demo.root import ThrowawayRoot, install_holdover, sweep
from holdover.errors import HoldoverError


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--rounds", type=int, default=7, help="how often each command is run")
    options = parser.parse_args()
    try:
        machine, closures, parts, protecting, many, rescuing = _measure(options.rounds)
    except HoldoverError as error:
        print(f"bench: {error.message}\n{error.hint}", file=sys.stderr)
        return 1
    if options.json:
        figures = {"closures": closures.json(), "protecting": protecting.json(), "parts": parts}
        figures |= {"many": many.json(), "rescuing": rescuing.json()}
        print_json({"schema": "holdover.bench/1", "machine": machine} | figures)
    else:
        _show(machine, closures, parts, protecting, many, rescuing)
    return 0


_Figures = tuple[dict[str, str], Closures, dict[str, float], Protecting, Many, Rescuing]


def _measure(rounds: int) -> _Figures:
    cache = default_cache()
    base = prepare_base(cache, _say, BENCH)
    sweep(cache / "runs")
    with ThrowawayRoot.copy_of(base, cache / "runs") as root:
        install_holdover(root.root)
        watch = Stopwatch(root)
        _say("closures of all QEMU modules")
        closures = measure_closures(watch, rounds)
        _say("parts of protect")
        parts = measure_parts(watch)
        _say("first guests of a build")
        protecting = measure_protecting(watch, rounds)
        machine = _machine(root)
    with ThrowawayRoot.copy_of(base, cache / "runs") as root:
        install_holdover(root.root)
        _say("many processes and guests")
        many = measure_many(Stopwatch(root), rounds)
    with ThrowawayRoot.copy_of(base, cache / "runs") as root:
        install_holdover(root.root)
        _say("a rescue")
        rescuing = measure_rescuing(Stopwatch(root), rounds)
    return machine, closures, parts, protecting, many, rescuing


def _machine(root: ThrowawayRoot) -> dict[str, str]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in cpuinfo if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "load": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "python": root.run("/usr/bin/python3", "-V").stdout.split()[-1],
    }


def _show(
    machine: dict[str, str],
    closures: Closures,
    parts: dict[str, float],
    protecting: Protecting,
    many: Many,
    rescuing: Rescuing,
) -> None:
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print("\nWhole processes, each round one of each; ratios are of runs in the same round.\n")
    title = f"Closure of {closures.modules} modules: {closures.libraries} libraries, all agree"
    print_table(*closures.table(), title=title)
    print()
    print_table(*protecting.table(), title="The first guest of a build")
    print()
    print_table(*protecting.size_table())
    print()
    print_table(*many.table(), title="A busy machine")
    print()
    title = f"A rescue; {human_bytes(rescuing.downloaded)} downloaded where they were"
    print_table(*rescuing.table(), title=title)
    print()
    rows = [(part, f"{share:.0%}") for part, share in parts.items()]
    print_table(("PART OF PROTECT, UNDER A PROFILER", "SHARE"), rows)


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
