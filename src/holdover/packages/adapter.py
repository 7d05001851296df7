# SPDX-License-Identifier: Apache-2.0
"""What the module of a package manager offers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from holdover.packages import Change

__all__ = ["Adapter", "HookFile"]


@dataclass(frozen=True, slots=True)
class HookFile:
    """A file that makes a package manager call holdover."""

    path: Path
    text: str
    mode: int = 0o644


class Adapter(Protocol):
    """The three functions of each."""

    def is_here(self) -> bool:
        """Whether this system has the package manager."""

    def hook_files(self, command: Path) -> tuple[HookFile, ...]:
        """What makes it call `command`, before and after each transaction.

        Raises `UsageError` if its configuration cannot hold that path.
        """

    def read_change(self, words: Sequence[str], listing: bytes) -> Change | None:
        """What it says before a transaction, on the command line and on stdin; None: it does not.

        Raises `UsageError` if that makes no sense; then it may be anything.
        """
