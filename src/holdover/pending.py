# SPDX-License-Identifier: Apache-2.0
"""The libraries of this system as they will be once pending changes of packages are made.

What a package replaces is gone, unless its new files are at hand; then they lie in their places.
Names are compared without a leading /usr: where /lib is a link to /usr/lib, packages say either.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from holdover.libraries import Libraries
from holdover.linker import Library
from holdover.procfs import file_id

__all__ = ["PendingFiles", "Replacement", "PendingLibraries", "plain_name"]


@dataclass(frozen=True, slots=True)
class Replacement:
    """What becomes of a package; `version` is "" if it is removed."""

    package: str
    version: str
    at_hand: bool = False
    """Its new files are there to be looked at."""

    def __str__(self) -> str:
        return f"{self.package} {self.version}" if self.version else f"{self.package} is removed"


@dataclass(frozen=True)
class PendingFiles:
    """`owners` has each file that a pending change concerns, `contents` where the new ones are."""

    owners: Mapping[str, Replacement]
    contents: Mapping[str, Path] = field(default_factory=dict)
    everything: bool = False
    """It may concern any program: a package is among them whose files are not known yet."""

    def concerns(self, path: Path) -> bool:
        return self.everything or self.replacement(path) is not None

    def replacement(self, path: Path) -> Replacement | None:
        """What happens to the package that owns the file; None if nothing does."""
        return self.owners.get(plain_name(path))

    def new_file(self, path: Path) -> Path | None:
        """Where the file that will lie at `path` can be read now."""
        return self.contents.get(plain_name(path))


def plain_name(path: str | os.PathLike[str]) -> str:
    return os.fspath(path).removeprefix("/usr")


class PendingLibraries(Libraries):
    """The libraries that a process will find after the change."""

    def __init__(self, now: Libraries, pending: PendingFiles) -> None:
        super().__init__(now.machine, now.loader, now.check, now.cache)
        self._now = now
        self._pending = pending

    def library(self, path: Path) -> Library | None:
        new = self._pending.new_file(path)
        if new is not None:
            found = super().library(new)
            return None if found is None else replace(found, path=path)
        real = Path(os.path.realpath(path))
        if self._pending.replacement(real) or self._pending.replacement(path):
            return None
        return self._now.library(path)

    def open(self, library: Library) -> BinaryIO:
        """The very file, whether it lies in its place still, or not yet."""
        new = self._pending.new_file(library.path)
        comes = new is not None and file_id(new) == library.file
        return super().open(replace(library, path=new) if new and comes else library)
