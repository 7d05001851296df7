# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: every target for a time, guided by coverage; the table goes on the page.

A target whose run finds something is run anew by whoever has fixed it: libFuzzer ends there, and
the input that did it is kept in the directory that is named.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from lab.longer import LongRun

from fuzz.campaign import explore, table
from fuzz.targets import TARGETS

__all__ = ["main"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time")
    parser.add_argument("--report", type=Path, help="the page whose block is replaced")
    parser.add_argument("--findings", type=Path, help="where inputs that broke something are kept")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="all of them by default")
    options = parser.parse_args()
    findings = options.findings or Path(tempfile.mkdtemp(prefix="findings-"))
    findings.mkdir(exist_ok=True)
    names = options.targets or list(TARGETS)
    with tempfile.TemporaryDirectory() as directory:
        outcomes = explore(names, options.seconds, options.jobs, Path(directory), findings)
    LongRun(None, options.report).show("fuzz", table(outcomes, options.seconds))
    broken = [outcome.name for outcome in outcomes if outcome.finding]
    if not broken:
        return 0
    print(f"{', '.join(broken)}: what was found is in {findings}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
