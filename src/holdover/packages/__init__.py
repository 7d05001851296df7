# SPDX-License-Identifier: Apache-2.0
"""Package managers, one thin file each: how one is told to call holdover, and what it then says.

Each module has the three functions of `Adapter`. The order of `MANAGERS` means nothing.
"""

from importlib import import_module

from holdover.errors import UsageError

TYPE_CHECKING = False  # nothing is imported here that costs a millisecond
if TYPE_CHECKING:
    from typing import cast

    from holdover.packages.adapter import Adapter

__all__ = ["Change", "MANAGERS", "load_adapter"]

MANAGERS = ("apt", "dpkg", "rpm", "dnf4", "libdnf5", "zypp", "pacman", "apk")


class Change:
    """What a transaction is about to change."""

    __slots__ = ("files", "names")

    def __init__(self, names: tuple[str, ...], files: str) -> None:
        """`names` are of packages, installed or new.

        `files` are paths that the installed ones own, one a line: a distribution upgrade names a
        hundred thousand, and few are ever asked for.
        """
        self.names = names
        self.files = files


def load_adapter(manager: str) -> "Adapter":
    """Raises `UsageError` for one that is not known."""
    if manager not in MANAGERS:
        raise UsageError(f"no such hook: {manager}", hint="run `holdover enable` again")
    adapter = import_module(f"holdover.packages.{manager}")
    return cast("Adapter", adapter) if TYPE_CHECKING else adapter
