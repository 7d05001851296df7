# SPDX-License-Identifier: Apache-2.0
"""Package managers, one thin file each: how one is told to call holdover, and what it then says.

Each module has the three functions of `Adapter`. The order of `MANAGERS` means nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from holdover.errors import UsageError

__all__ = ["Adapter", "Change", "HookFile", "MANAGERS", "SILENT", "load_adapter", "names_any"]

MANAGERS = ("apt", "dpkg", "rpm", "dnf4", "libdnf5", "zypp", "pacman", "apk")
SILENT = ("dpkg", "apk")
"""Those that do not say what they change. Their stdin is the operator's terminal, or whatever a
script has there: it may never end, and the answers to their questions are in it."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a transaction is about to change."""

    names: tuple[str, ...]
    """Packages, installed or new."""
    files: str
    """Paths that the installed ones own, one a line: a distribution upgrade names a hundred
    thousand, and few are ever asked for."""


@dataclass(frozen=True, slots=True)
class HookFile:
    """A file that makes a package manager call holdover."""

    path: Path
    text: str
    mode: int = 0o644


class Adapter(Protocol):
    """What the module of a package manager offers."""

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


def load_adapter(manager: str) -> Adapter:
    """Raises `UsageError` for one that is not known."""
    if manager not in MANAGERS:
        raise UsageError(f"no such hook: {manager}", hint="run `holdover enable` again")
    return cast(Adapter, import_module(f"holdover.packages.{manager}"))


def names_any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether a package has a name that a program definition lists."""
    return any(fnmatch(name, pattern) for pattern in patterns for name in names)
