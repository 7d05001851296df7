# SPDX-License-Identifier: Apache-2.0
"""What the kernel counts of each thread: whatever stops one makes it leave its processor once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from holdover.errors import CommandError
from holdover.procfs import ProcFs

__all__ = ["Counts", "counts", "grown", "parse_counts", "thread_counts"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one thread. To be stopped counts as `left`: preempted is only one that could go on."""

    left: int = 0
    preempted: int = 0
    waited: float = 0.0
    """Seconds in which it could have run and had no processor."""

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.left + other.left,
            self.preempted + other.preempted,
            self.waited + other.waited,
        )

    def __sub__(self, other: "Counts") -> "Counts":
        return self + Counts(-other.left, -other.preempted, -other.waited)


def parse_counts(status: str, schedstat: str) -> Counts:
    """Source: proc_pid_status(5); Documentation/scheduler/sched-stats.rst of Linux."""
    found = dict(re.findall(r"^((?:non)?voluntary)_ctxt_switches:\s*(\d+)$", status, re.M))
    try:
        waited = int(schedstat.split()[1]) / 1e9
        return Counts(int(found["voluntary"]), int(found["nonvoluntary"]), waited)
    except (KeyError, IndexError, ValueError) as error:
        raise CommandError("the kernel does not count what its threads do") from error


def thread_counts(proc: ProcFs, pid: int, thread: int) -> Counts:
    status, schedstat = (
        proc.read(pid, f"task/{thread}/{name}") for name in ("status", "schedstat")
    )
    return parse_counts(status, schedstat)


def counts(proc: ProcFs, pid: int) -> dict[tuple[int, str], Counts]:
    """Of each thread, by number and name; a guest that gets none or loses none keeps them all."""
    found = {}
    for thread in proc.threads(pid):
        name = proc.read(pid, f"task/{thread}/comm").rstrip("\n")
        found[thread, name] = thread_counts(proc, pid, thread)
    return found


def grown(
    before: Mapping[tuple[int, str], Counts], after: Mapping[tuple[int, str], Counts]
) -> dict[str, Counts]:
    """By how much, by the thread's name; of those that were there all the time."""
    found: dict[str, Counts] = {}
    for thread in before.keys() & after.keys():
        name = thread[1]
        found[name] = found.get(name, Counts()) + (after[thread] - before[thread])
    return found
