# SPDX-License-Identifier: Apache-2.0
"""Libraries of a system that is nowhere: values by path."""

from pathlib import Path
from typing import Any

from holdover.identity import FileId
from holdover.linker import Library, System

__all__ = ["Disk", "DEFAULT", "PLAIN"]

DEFAULT = Path("/usr/lib")
PLAIN = System({}, (DEFAULT,))
"""Nothing in the cache, one default directory."""


class Disk:
    """Objects by path; each has an inode of its own unless it is a link to another."""

    def __init__(self) -> None:
        self.objects: dict[Path, Library] = {}

    def add(self, path: str, *needed: str, **more: Any) -> Library:
        soname = more.pop("soname", Path(path).name)
        file = more.pop("file", FileId(1, len(self.objects) + 1))
        library = Library(Path(path), file, soname, needed, **more)
        self.objects[Path(path)] = library
        return library

    def library(self, path: Path) -> Library | None:
        return self.objects.get(path)
