# SPDX-License-Identifier: Apache-2.0
"""The marker of a transaction that is under way: who makes it."""

import re
from pathlib import Path

from holdover.model import ProcessId
from holdover.packages.guard import MARKER
from holdover.procfs import ProcFs

__all__ = ["mark", "marked", "under_way", "parse_marker"]


def mark(transaction: ProcessId | None, marker: Path = MARKER) -> None:
    """The shell guards look whether it is there."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{transaction.pid} {transaction.start_time}\n" if transaction else "")


def marked(marker: Path = MARKER) -> ProcessId | None:
    """The package manager's process, alive or not; None, and its leases last as long as it does."""
    try:
        content = marker.read_bytes()
    except FileNotFoundError:
        return None
    return parse_marker(content)


def parse_marker(content: bytes) -> ProcessId | None:
    found = re.fullmatch(rb"([0-9]{1,19}) ([0-9]{1,19})\n", content)
    return ProcessId(int(found[1]), int(found[2])) if found else None


def under_way(proc: ProcFs, marker: Path = MARKER) -> ProcessId | None:
    """The process that is changing packages now; one that was killed changes nothing any more."""
    transaction = marked(marker)
    return transaction if transaction and proc.is_alive(transaction) else None
