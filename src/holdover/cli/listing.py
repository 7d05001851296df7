# SPDX-License-Identifier: Apache-2.0
"""What a package manager says on stdin before a transaction; perhaps it never ends."""

import os
import select
import time

from holdover.errors import UsageError

__all__ = ["Listing"]

_MAX_INPUT = 64 * 1024 * 1024
_MAX_READ = 1024 * 1024


class Listing:
    """Is listened to with more than one patience: what was said already is not lost."""

    def __init__(self, source: int = 0) -> None:
        self._source = source
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False

    def read(self, patience: float) -> bytes:
        """All of it; `patience` is in seconds.

        Raises `UsageError` if that does not end in time, or is too much to be true, and `OSError`.
        """
        if not self.ends_within(patience):
            raise UsageError(f"the package manager's list did not end within {patience:.0f} s")
        return b"".join(self._parts)

    def ends_within(self, patience: float) -> bool:
        """Listen for so many seconds; raises as `read`."""
        deadline = time.monotonic() + patience
        while not self._ended and self._is_heard(deadline - time.monotonic()):
            part = os.read(self._source, _MAX_READ)
            self._ended = not part
            self._parts.append(part)
            self._size += len(part)
            if self._size > _MAX_INPUT:
                raise UsageError("the package manager's list has no end")
        return self._ended

    def _is_heard(self, patience: float) -> bool:
        return bool(select.select([self._source], [], [], max(0.0, patience))[0])
