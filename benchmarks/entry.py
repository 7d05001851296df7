# SPDX-License-Identifier: Apache-2.0
"""Runs inside the root: prints every library that the modules given on the command line need.

It does what holdover does for a guest that has nothing mapped yet, versions checked.
"""

import sys
from pathlib import Path

from holdover.forecast import World, forecast
from holdover.libraries import Libraries, read_library


def main(paths: list[Path]) -> None:
    with paths[0].open("rb") as file:
        _, machine = read_library(file, paths[0])
    files = Libraries(machine, Path("/lib64/ld-linux-x86-64.so.2"))
    found: dict[Path, None] = {}
    for path in paths:
        module = files.library(path)
        assert module is not None, path
        seen = forecast(module, files, files.system, World(module, {}, {}))
        assert not seen.problem, seen.problem
        found |= {entry.library.path: None for entry in seen.closure.found}
    print(*found, sep="\n")


main([Path(name) for name in sys.argv[1:]])
