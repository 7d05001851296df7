# SPDX-License-Identifier: Apache-2.0
"""Pins: an operator wants a snapshot kept, whether anybody needs it or not."""

import json
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.durable import store_errors, write_atomically

__all__ = ["Pins"]

SCHEMA = "holdover.pin-record/1"
_MAX = 4096  # bytes


@dataclass(frozen=True, slots=True)
class Pins:
    """One file for each pinned snapshot; the caller of `add` and `remove` is the store's writer."""

    directory: Path

    def add(self, snapshot_id: str) -> None:
        """Its time begins now, also if it was pinned before."""
        with store_errors("pin a snapshot"):
            content = {"schema": SCHEMA, "created": int(time.time())}
            write_atomically(self._path(snapshot_id), json.dumps(content))

    def remove(self, snapshot_id: str) -> bool:
        """Returns whether it was pinned."""
        with store_errors("unpin a snapshot"):
            there = self._path(snapshot_id).exists()
            self._path(snapshot_id).unlink(missing_ok=True)
        return there

    def valid(self, lifetime: float = 0.0) -> frozenset[str]:
        """Snapshots that are pinned, and were so less than `lifetime` seconds ago (0: at any time).

        A pin that cannot be read, or is of the future, is one: what is kept can still be removed.
        """
        now, found = time.time(), set()
        with store_errors("read the pins"):
            for path in self.directory.glob("[!.]*.json"):
                if not lifetime or now - _created(path, now) < lifetime:
                    found.add(path.stem)
        return frozenset(found)

    def _path(self, snapshot_id: str) -> Path:
        return self.directory / f"{snapshot_id}.json"


def _created(path: Path, otherwise: float) -> float:
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        with path.open("rb") as file:
            created = float(json.loads(file.read(_MAX))["created"])
        return created if math.isfinite(created) else otherwise
    return otherwise
