# SPDX-License-Identifier: Apache-2.0
"""What is held of files that a package has replaced since: with whatever was mended in them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from holdover.held import HeldFile, Holding

__all__ = ["Replaced", "Now", "replaced"]


class Now(StrEnum):
    """What lies where a held file was taken from."""

    ANOTHER = "another"
    GONE = "gone"
    """Nothing; also for what came from an archive or from another guest."""


@dataclass(frozen=True, slots=True)
class Replaced:
    held: HeldFile
    now: Now


def replaced(holding: Holding) -> tuple[Replaced, ...]:
    """The files of a snapshot of which the system has another version by now, or none."""
    return tuple(_replaced(holding))


def _replaced(holding: Holding) -> Iterator[Replaced]:
    for held in holding.snapshot.files:
        try:
            origin = Path(held.origin)
            # one that was taken over from another snapshot was replaced before
            if not origin.is_absolute() or origin.is_relative_to(holding.view.parent):
                raise FileNotFoundError
            there = origin.stat()
        except OSError:
            yield Replaced(held, Now.GONE)
            continue
        if not _is_same(holding.view / held.path, held, there):
            yield Replaced(held, Now.ANOTHER)


def _is_same(at: Path, held: HeldFile, there: os.stat_result) -> bool:
    """A link is the same file; a copy has the times of what it was made of."""
    if held.how == "link":
        try:
            return os.path.samestat(at.stat(), there)
        except OSError:
            return False
    return there.st_mtime_ns == held.mtime_ns
