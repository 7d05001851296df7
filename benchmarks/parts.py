# SPDX-License-Identifier: Apache-2.0
"""Where the time of one `holdover protect` goes, as Python's own profiler sees it.

It slows calls down and system calls not, so the shares are rough. They overlap where one part is
done within another: hashing is a part of holding.
"""

import json
from dataclasses import dataclass

from benchmarks.measure import PYTHON, Stopwatch
from benchmarks.report import Bench, Table
from holdover.demo.guest import Guest

__all__ = ["measure"]

PARTS = {
    "loading Python modules": "importlib._bootstrap>:_find_and_load",
    "looking at processes, builds and modules": "holdover/steps/scan.py:scan",
    "  of that: what late loads would do": "holdover/lateloads.py:of",
    "  of that: reading executables": "holdover/builds.py:read_build",
    "holding": "holdover/steps/capture.py:capture",
    "  of that: names that get a decoy": "holdover/steps/capture.py:_decoys",
    "  of that: rewriting modules": "holdover/rewrite.py:rewrite",
    "  of that: linking libraries, hashing included": "holdover/staging.py:hold",
    "  of that: SHA-256": "holdover/staging.py:file_digest",
    "fsync, all of it": "~:<built-in method posix.fsync>",
    "delivering to the guest": "holdover/steps/deliver/environment.py:deliver",
    "showing the outcome": "holdover/cli/output.py:print_table",
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
    shares: dict[str, float]
    """Of the whole, 0 to 1, for each of `PARTS`."""

    def tables(self) -> list[Table]:
        rows = [(part, f"{share:.0%}") for part, share in self.shares.items()]
        return [Table("Where the time goes", ("PART OF PROTECT, UNDER A PROFILER", "SHARE"), rows)]

    def json(self) -> dict[str, float]:
        return self.shares


def measure(bench: Bench) -> Parts:
    with bench.watch() as watch:
        return Parts(_measure(watch))


def _measure(watch: Stopwatch) -> dict[str, float]:
    root, profile = watch.root, "/tmp/bench/profile"
    guest = Guest.start(root, "profiled")
    command = ("/usr/bin/holdover", "protect", str(guest.pid))
    root.run(*PYTHON, "-m", "cProfile", "-o", profile, *command)
    guest.kill()
    root.run("holdover", "gc")
    seen = json.loads(root.run(*PYTHON, "-c", _READ, profile).stdout)
    # the profiler counts a function that calls itself through others once: at its outermost
    return {
        part: max((time for name, time in seen["parts"] if name.endswith(function)), default=0.0)
        / seen["total"]
        for part, function in PARTS.items()
    }
