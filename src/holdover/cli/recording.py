# SPDX-License-Identifier: Apache-2.0
"""What the last run of each hook came to: a small file in /run/holdover/hooks, for the metrics.

It is written by every hook, also by those that have nothing to do, and so with hardly an import.
"""

import os
import re
import time

__all__ = ["write_record", "RESULTS", "DIRECTORY", "NAME"]

DIRECTORY = "/run/holdover/hooks"
RESULTS = ("done", "incomplete", "gave-up", "failed", "vetoed")
NAME = re.compile(r"[a-z0-9]{1,32}-[a-z]{1,16}")


def write_record(name: str, seconds: float, result: str, directory: str = DIRECTORY) -> None:
    """Remember until the next boot how HOOK-PHASE ended; it is no loss if that cannot be done."""
    if not NAME.fullmatch(name):
        return
    temporary = f"{directory}/.{name}.{os.getpid()}"
    try:
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103 - pathlib is half as much again
        with open(temporary, "w", encoding="ascii") as file:
            file.write(f"{seconds:.3f} {result} {time.time():.0f}\n")
        os.rename(temporary, f"{directory}/{name}")  # noqa: PTH104
    except OSError:
        return
