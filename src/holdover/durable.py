# SPDX-License-Identifier: Apache-2.0
"""Writes that survive a crash, and what it means when they fail."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdover.errors import StoreError

__all__ = ["write_atomically", "sync", "store_errors"]


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    sync(path.parent)


def sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "make room on its file system; nothing half-made was left",
            errno.EROFS: "mount it writable",
            errno.EACCES: "run holdover as root",
            errno.EPERM: "run holdover as root",
        }
        raise StoreError(
            f"could not {doing}: {error.strerror} ({error.filename})",
            hint=hints.get(error.errno or 0, ""),
        ) from error
