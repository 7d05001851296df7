# SPDX-License-Identifier: Apache-2.0
"""Runs beside a guest: looks without pause whether any of its threads is stopped.

Prints a line when it has begun, and what it saw when it is told to end (SIGTERM).
"""

import json
import os
import signal
import sys
import time
from contextlib import suppress

__all__ = ["is_stopped"]


def is_stopped(stat: bytes) -> bool:
    """Whether a thread is stopped, by a signal (T) or a tracer (t); source: proc_pid_stat(5)."""
    return stat[stat.rindex(b")") + 2 :][:1] in (b"t", b"T")


class Looker:
    """At all threads below `directory`, the task directory of a process."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._files: dict[str, int] = {}

    def sees_one_stopped(self) -> bool:
        found = False
        for thread in os.listdir(self._directory):
            with suppress(OSError):  # it has ended
                if thread not in self._files:
                    path = f"{self._directory}/{thread}/stat"
                    self._files[thread] = os.open(path, os.O_RDONLY)
                found |= is_stopped(os.pread(self._files[thread], 512, 0))
        return found


def main(directory: str) -> None:
    """Between two looks it counts what the second one saw; times in seconds."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    looker, looks, stopped, apart = Looker(directory), 0, 0.0, 0.0
    looker.sees_one_stopped()
    print("looking", flush=True)
    last = time.perf_counter()
    while not ended:
        seen = looker.sees_one_stopped()
        now = time.perf_counter()
        looks, apart = looks + 1, max(apart, now - last)
        stopped += now - last if seen else 0.0
        last = now
    print(json.dumps({"stopped": stopped, "looks": looks, "apart": apart}))


if __name__ == "__main__":
    main(sys.argv[1])
