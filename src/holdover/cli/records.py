# SPDX-License-Identifier: Apache-2.0
"""What the last run of each hook came to: a small file in /run/holdover/hooks, for the metrics.

It is written by every hook, also by those that have nothing to do, and so without any import.
"""

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HookRecord", "write_record", "read_records", "RESULTS", "DIRECTORY"]

DIRECTORY = Path("/run/holdover/hooks")
RESULTS = ("done", "incomplete", "gave-up", "failed", "vetoed")
_NAME = re.compile(r"[a-z0-9]{1,32}-[a-z]{1,16}")
_CONTENT = re.compile(rf"([0-9.]{{1,20}}) ({'|'.join(RESULTS)}) ([0-9]{{1,20}})\n")
_MAX = 200  # bytes


@dataclass(frozen=True, slots=True)
class HookRecord:
    """`hook` is the package manager, "timer" or "libvirt", `phase` what it was called for."""

    hook: str
    phase: str
    seconds: float
    result: str
    """One of `RESULTS`."""
    ended: int
    """When, in seconds since the epoch."""


def write_record(name: str, seconds: float, result: str, directory: Path = DIRECTORY) -> None:
    """Remember until the next boot how HOOK-PHASE ended; it is no loss if that cannot be done."""
    if not _NAME.fullmatch(name):
        return
    with suppress(OSError):
        directory.mkdir(parents=True, exist_ok=True)
        temporary = directory / f".{name}.{os.getpid()}"
        temporary.write_text(f"{seconds:.3f} {result} {time.time():.0f}\n")
        temporary.rename(directory / name)


def read_records(directory: Path = DIRECTORY) -> tuple[HookRecord, ...]:
    """All that can be read, by name."""
    found = []
    with suppress(OSError):
        for path in sorted(directory.iterdir()):
            if _NAME.fullmatch(path.name):
                found.append(_read(path))
    return tuple(record for record in found if record)


def _read(path: Path) -> HookRecord | None:
    with suppress(OSError, ValueError), path.open("rb") as file:
        content = _CONTENT.fullmatch(file.read(_MAX).decode("ascii"))
        if content:
            hook, _, phase = path.name.partition("-")
            return HookRecord(hook, phase, float(content[1]), content[2], int(content[3]))
    return None
