# SPDX-License-Identifier: Apache-2.0
"""What a process said about loads that failed, and what that says about the next one. Pure.

A log may hold what earlier processes said, and may have lost what this one did: neither proves
anything, and both are said.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from holdover.errors import UnreadableError

__all__ = ["Log", "Poison", "Said", "failed_load", "of_this_run"]

_SAME_START = 60.0
"""Seconds between the line that tells of a start and the start itself, on a busy machine."""
_LONGEST = 80  # characters of what a process may call a module


@dataclass(frozen=True, slots=True)
class Log:
    """A file to which somebody else writes what a process says; it may be rotated."""

    path: str
    """With {} for the name of the process."""
    begins: re.Pattern[bytes]
    """The line that tells of a start, with the newline before it, which is quick to find; group 1
    is when, ISO 8601 with the zone."""


@dataclass(frozen=True, slots=True)
class Poison:
    """How a program tells that a load failed in such a way that the next one kills it."""

    since: tuple[int, ...]
    """The first version that dies of it."""
    message: re.Pattern[bytes]
    """Group 1 is the file of the module."""

    def concerns(self, version: str) -> bool:
        """Whether a build of this version would die; one that does not tell its version may."""
        numbers = tuple(int(number) for number in re.findall(r"[0-9]{1,9}", version))
        return not numbers or numbers >= self.since


@dataclass(frozen=True, slots=True)
class Said:
    """What a process wrote, as far as it is there to be read."""

    text: bytes
    own: bool
    """No other process wrote any of it."""
    missing: str = ""
    """Why there may have been more; "" if there was not."""


def failed_load(said: Said, poison: Poison) -> tuple[str, str]:
    """The module that failed so that the next load kills, and why that cannot be told; or ""."""
    found = poison.message.search(said.text)
    if found is None:
        return "", said.missing
    file = found[1].decode("utf-8", "replace").rpartition("/")[2]
    name = file.strip().removesuffix(".so")[:_LONGEST] or "a module"
    return (
        (name, "")
        if said.own
        else ("", f"its log tells that {name} failed, perhaps in an earlier run")
    )


def of_this_run(text: bytes, logs: Iterable[Log], started: float) -> bytes | None:
    """What follows the last line that tells of a start; None if there is none.

    `started` is in seconds of the epoch. Raises `UnreadableError` if that is another's start.
    """
    text = b"\n" + text
    lines = (found for log in logs for found in log.begins.finditer(text))
    last = max(lines, key=lambda found: found.start(), default=None)
    if last is None:
        return None
    if abs(_seconds(last[1]) - started) > _SAME_START:
        raise UnreadableError("the last start that its log tells of is not its own")
    return text[last.end() :]


def _seconds(when: bytes) -> float:
    try:
        return datetime.fromisoformat(when.decode()).timestamp()
    except (ValueError, OverflowError):
        return 0.0
