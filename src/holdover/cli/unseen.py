# SPDX-License-Identifier: Apache-2.0
"""Say what was asked for, or certainly matters, and could not be seen."""

import sys
from collections.abc import Collection, Iterable

from holdover.cli.text import printable
from holdover.errors import UnreadableError, UsageError
from holdover.model import Unreadable

__all__ = ["check_found", "show_unreadable"]


def check_found(
    pids: Iterable[int], found: Collection[int], unreadable: Iterable[Unreadable]
) -> None:
    """Raises `UsageError` for the first of `pids` that is none of ours, or was not readable."""
    unseen = {entry.pid: entry.reason for entry in unreadable}
    for pid in pids:
        if pid in unseen:
            raise UnreadableError(unseen[pid], hint="run holdover as root, on the host itself")
        if pid not in found:
            raise UsageError(
                f"{pid} is no running program that holdover knows",
                hint="`holdover status` shows those that it knows",
            )


def show_unreadable(unreadable: Iterable[Unreadable]) -> bool:
    """Name those that certainly load late; returns whether there are some."""
    lost = [entry for entry in unreadable if entry.program]
    for entry in lost:
        reason = printable(entry.reason)
        print(f"holdover: a {entry.program} process is left alone: {reason}", file=sys.stderr)
    return bool(lost)
