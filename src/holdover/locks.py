# SPDX-License-Identifier: Apache-2.0
"""Locks that end with who holds them, however he ends. Source: flock(2)."""

import fcntl
import os
import time
from pathlib import Path

from holdover.errors import BusyError

__all__ = ["take", "is_free"]

_POLL = 0.02  # seconds


def is_free(directory: Path) -> bool:
    """Whether nobody works in a directory any more, as who does holds a lock on it.

    One that is not there any more was removed by who did.
    """
    try:
        lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def take(lock: int, deadline: float) -> None:
    """By `deadline` on the monotonic clock, else raises `BusyError`."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise BusyError(
                    "another holdover is at work", hint="try again when it has finished"
                ) from None
            time.sleep(_POLL)
