# SPDX-License-Identifier: Apache-2.0
"""Locks that end with who holds them, however he ends. Source: flock(2)."""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from holdover.errors import BusyError

__all__ = ["take", "take_file", "is_free"]

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


def take_file(path: Path, deadline: float) -> int | None:
    """The lock file, open and locked, by `deadline` on the monotonic clock; else as `take`.

    None if it was removed while we waited for it: then it is no lock any more, as whoever comes
    next makes another. Who has it when it is removed is alone no longer, and cannot know.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        take(lock, deadline)
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(lock)):
                return lock
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


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
