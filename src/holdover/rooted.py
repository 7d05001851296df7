# SPDX-License-Identifier: Apache-2.0
"""The libraries of another system, unpacked below a directory, for a process of this one.

What the process has mapped it keeps; all else is looked for below the root and nowhere else, by the
names that it would have there. An absolute link that leads out of the root leads nowhere.
"""

import os
from pathlib import Path
from typing import BinaryIO

from holdover.elf import ElfFile
from holdover.errors import HoldoverError, UnreadableError
from holdover.libraries import Libraries
from holdover.linker import Library

__all__ = ["RootedLibraries"]


class RootedLibraries(Libraries):
    """Raises as `Libraries`; `now` are those of this system."""

    def __init__(self, now: Libraries, root: Path) -> None:
        super().__init__(now.machine, now.loader, now.check, now.cache)
        self._now = now
        self._root = root

    def library(self, path: Path) -> Library | None:
        inside = self._inside(path)
        real = os.path.realpath(inside)
        return super().library(inside) if Path(real).is_relative_to(self._root) else None

    def names_in(self, directory: Path) -> tuple[str, ...]:
        return super().names_in(self._inside(directory))

    def unlisted(self, name: str) -> Path | None:
        return None  # there is no cache that could be brought up to date

    def is_same(self, one: Library, other: Library) -> bool:
        """Unpacked again a library is another file, but it is of the same build."""
        try:
            return one.file == other.file or self._build_id(one) == self._build_id(other) != ""
        except HoldoverError:
            return False

    def open(self, library: Library) -> BinaryIO:
        try:
            return super().open(library)
        except UnreadableError:
            return self._now.open(library)

    def _build_id(self, library: Library) -> str:
        with self.open(library) as file:
            return ElfFile(file).build_id

    def _inside(self, path: Path) -> Path:
        if path.is_relative_to(self._root):
            return path
        return self._root / str(path).lstrip("/")  # "//usr/lib" is a path, too
