# SPDX-License-Identifier: Apache-2.0
"""What the last run of each hook came to, read for the metrics."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.cli.recording import DIRECTORY, NAME, RESULTS

__all__ = ["HookRecord", "read_records"]

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


def read_records(directory: Path = Path(DIRECTORY)) -> tuple[HookRecord, ...]:
    """All that can be read, by name."""
    found = []
    with suppress(OSError):
        for path in sorted(directory.iterdir()):
            if NAME.fullmatch(path.name):
                found.append(_read(path))
    return tuple(record for record in found if record)


def _read(path: Path) -> HookRecord | None:
    with suppress(OSError, ValueError), path.open("rb") as file:
        content = _CONTENT.fullmatch(file.read(_MAX).decode("ascii"))
        if content:
            hook, _, phase = path.name.partition("-")
            return HookRecord(hook, phase, float(content[1]), content[2], int(content[3]))
    return None
