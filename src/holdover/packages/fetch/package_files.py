# SPDX-License-Identifier: Apache-2.0
"""Package files that somebody has: looked for by name, copied, and checked while they are copied.

What is checked is the copy, which nobody else can write to. A file of the right name with another
digest is refused, and said with both.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from holdover.packages.fetch import PackageFile
from holdover.procfs import open_regular

__all__ = ["Holdings", "Place", "files_below", "copy_verified", "copy_without_links"]

_LARGEST = 1 << 30  # bytes of a package file
_STRONG = ("sha256", "sha384", "sha512")


@dataclass(frozen=True, slots=True)
class Place:
    """Where package files may lie: by name, and what people call it."""

    called: str
    files: dict[str, tuple[Path, ...]]


def files_below(directory: Path, called: str, suffix: str) -> Place:
    """All files of that suffix in a directory and those below it; none if it cannot be read."""
    found: dict[str, tuple[Path, ...]] = {}
    for at, below, names in os.walk(directory):
        if "partial" in below:
            below.remove("partial")  # where apt keeps what it has not got whole
        for name in names:
            if name.endswith(suffix):
                found[name] = (*found.get(name, ()), Path(at, name))
    return Place(called, found)


class Holdings:
    """Verified copies below a directory of ours, one directory for each place they came from."""

    def __init__(self, directory: Path, notes: list[str]) -> None:
        self._directory = directory
        self._notes = notes
        directory.mkdir(mode=0o700, exist_ok=True)

    def path(self, file: PackageFile) -> Path:
        """Where the copy of a file with that origin lies."""
        return self._directory / file.origin.replace("/", "%") / file.file_name

    def find(self, file: PackageFile) -> PackageFile | None:
        """The file with its origin, if an earlier copy is still as it was."""
        for directory in sorted(self._directory.iterdir()):
            known = replace(file, origin=directory.name.replace("%", "/"))
            if (path := self.path(known)).exists() and not verify(path, file):
                return known
        return None

    def take(
        self, file: PackageFile, names: Iterable[str], places: Iterable[Place]
    ) -> PackageFile | None:
        """Copy it from the first place that has it under one of these names; None if none has.

        What is refused is noted.
        """
        for place in places:
            paths = (path for name in dict.fromkeys(names) for path in place.files.get(name, ()))
            for path in paths:
                taken = replace(file, origin=place.called)
                self.path(taken).parent.mkdir(mode=0o700, exist_ok=True)
                problem = copy_verified(path, self.path(taken), file)
                if not problem:
                    return taken
                if problem not in self._notes:
                    self._notes.append(problem)
        return None


def verify(path: Path, file: PackageFile) -> str:
    """Why a file is not the one that an index vouches for, or ""."""
    return copy_verified(path, Path(os.devnull), file)


def copy_verified(source: Path, target: Path, file: PackageFile) -> str:
    """Copy a file if it has the digest that is asked for; else why not, and there is no copy.

    Raises `OSError` if the copy cannot be written.
    """
    kind, _, wanted = file.digest.partition(":")
    if kind not in _STRONG:
        return f"{file.file_name}: no index vouches for it with a digest that can be relied on"
    try:
        opened = open_regular(source)
    except OSError as error:
        return f"{source} cannot be read: {error.strerror}"
    if opened is None:
        return f"{source} is no regular file"
    with opened, open(target, "wb", opener=_only_for_root) as copy:
        size, digest = _copy(opened, copy, kind, file.size)
    if (size, digest) == (file.size, wanted):
        return ""
    if target != Path(os.devnull):
        target.unlink()
    has = f"{kind}:{digest}" if size <= _LARGEST else f"more than {_LARGEST} bytes"
    return f"refused {source}: it has {has}, the index says {file.digest}"


def copy_without_links(directory: int, name: str, target: Path) -> bool:
    """Copy a file of an open directory; False for what is no file itself: a link may lead anywhere.

    Raises `OSError`.
    """
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        with open(f"/proc/self/fd/{handle}", "rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy)
    finally:
        os.close(handle)
    return True


def _copy(opened: BinaryIO, copy: BinaryIO, kind: str, limit: int) -> tuple[int, str]:
    """How many bytes that were, and their digest; what is beyond `limit` is not copied.

    A file may claim more bytes than can be read in a lifetime: it ends beyond those of any package.
    """
    digest, size = hashlib.new(kind), 0
    while size <= max(limit, _LARGEST) and (block := opened.read(1 << 20)):
        size += len(block)
        digest.update(block)
        if size <= limit:
            copy.write(block)
    return size, digest.hexdigest()


def _only_for_root(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
