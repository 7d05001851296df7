# SPDX-License-Identifier: Apache-2.0
"""Where the time goes, as Python's own profiler sees it: of a `protect` and of a `status`.

It slows calls down and system calls not, so the shares are rough. They overlap where one part is
done within another: hashing is a part of holding.
"""

import json
from dataclasses import dataclass

from benchmarks.measure import PYTHON, Stopwatch
from benchmarks.population import Population
from benchmarks.report import Bench, Table
from holdover.demo.guest import Guest

__all__ = ["measure"]

GUESTS, OTHERS = 100, 500
FIRST, LOOK, ALL = (
    "`protect`, the first guest of a build",
    f"`status`, {GUESTS} guests and {OTHERS} others",
    f"`protect`, {GUESTS} guests of 2 builds",
)
_LOADING = {"loading Python modules": "importlib._bootstrap>:_find_and_load"}
_LOOKING = {
    "looking at processes, builds and modules": "holdover/steps/scan.py:scan",
    "  of that: maps, read by the kernel and parsed": "holdover/procfs.py:maps",
    "  of that: finding and reading environments": "holdover/steps/scan.py:_environment",
    "  of that: the ends of logs": "holdover/stderr.py:of",
    "  of that: which have mapped the same": "holdover/lateloads.py:see",
    "  of that: what late loads would do, per build": "holdover/lateloads.py:of",
    "  of that: reading executables, per build": "holdover/builds.py:read_build",
}
_HOLDING = {
    "holding, per build": "holdover/steps/capture.py:capture",
    "  of that: names that get a decoy": "holdover/steps/capture.py:_decoys",
    "  of that: rewriting modules": "holdover/rewrite.py:rewrite",
    "  of that: linking libraries, hashing included": "holdover/staging.py:hold",
    "  of that: SHA-256": "holdover/staging.py:file_digest",
    "fsync, all of it": "~:<built-in method posix.fsync>",
    "delivering": "holdover/steps/deliver/environment.py:deliver",
    "looking at each guest again": "holdover/flow.py:_look_again",
}
_SHOWING = {"showing the outcome": "holdover/cli/output.py:print_table"}
PARTS = {
    FIRST: _LOADING | _LOOKING | _HOLDING | _SHOWING,
    LOOK: _LOADING | _LOOKING | _SHOWING,
    ALL: _LOADING | _LOOKING | _HOLDING | _SHOWING,
}
"""By the function whose time it is, what it calls included."""

_READ = """
import json, pstats, sys
stats = pstats.Stats(sys.argv[1])
parts = [(f"{file}:{name}", cumulative) for (file, _, name), (_, _, _, cumulative, _)
         in stats.stats.items()]
print(json.dumps({"total": stats.total_tt, "parts": parts}))
"""


@dataclass(frozen=True)
class Parts:
    shares: dict[str, dict[str, float]]
    """Of the whole, 0 to 1, for each of `PARTS`."""

    def tables(self) -> list[Table]:
        return [
            Table(
                f"Where the time goes: {what}",
                ("PART, UNDER A PROFILER", "SHARE"),
                [(part, f"{share:.0%}") for part, share in shares.items()],
            )
            for what, shares in self.shares.items()
        ]

    def json(self) -> dict[str, dict[str, float]]:
        return self.shares


def measure(bench: Bench) -> Parts:
    with bench.watch() as watch:
        guest = Guest.start(watch.root, "profiled")
        found = {FIRST: _shares(watch, FIRST, "protect", str(guest.pid))}
        guest.kill()
        watch.root.run("holdover", "gc")
        Population(watch).grow(GUESTS, OTHERS)
        found[LOOK] = _shares(watch, LOOK, "status")
        found[ALL] = _shares(watch, ALL, "protect")
        return Parts(found)


def _shares(watch: Stopwatch, what: str, *words: str) -> dict[str, float]:
    root, profile = watch.root, "/tmp/bench/profile"
    root.run(*PYTHON, "-m", "cProfile", "-o", profile, "/usr/bin/holdover", *words)
    seen = json.loads(root.run(*PYTHON, "-c", _READ, profile).stdout)
    # the profiler counts a function that calls itself through others once: at its outermost
    return {
        part: max((time for name, time in seen["parts"] if name.endswith(function)), default=0.0)
        / seen["total"]
        for part, function in PARTS[what].items()
    }
