# SPDX-License-Identifier: Apache-2.0
"""A view in the making: how a file gets into the store, and which files never do."""

import errno
import math
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from holdover import linux
from holdover.durable import store_errors
from holdover.errors import StoreError, UntrustedError
from holdover.held import HeldFile
from holdover.trust import distrust_file

__all__ = ["Staging", "file_digest"]

_DIGESTS: dict[tuple[int, ...], str] = {}
"""Of linked files that this run has read: snapshots of one build share almost all of them."""
_CAPABILITY = "security.capability"


@dataclass
class Staging:
    """A view in the making."""

    directory: Path
    room: float = math.inf
    """How many bytes may still be written; links cost none."""

    def hold(self, name: str, origin: Path, rescued: str = "", *, beside: bool = False) -> HeldFile:
        """Hold a file under `name`: a hard link if possible, else a reflink, else a copy.

        `rescued` says where it was got from, if it lies here for our sake only. It is a module, a
        library in `lib`, or anything else that is `beside` them.

        Raises `StoreError`, also for a set-id file or one with capabilities (a link would keep its
        holes reachable) and for one that somebody but root can write (it would get into everybody's
        processes).
        """
        target = self._target(name, beside=beside)
        with store_errors(f"hold {origin}"):
            _check_holdable(origin, origin.lstat())
            how = _hold(origin, target, self._take)
            _check_holdable(target, target.lstat())  # it may have been replaced meanwhile
            if rescued and how != "copy":
                how = "rescued"
                self._take(target.lstat().st_size)
            return _describe(name, rescued or str(origin), target, how)

    def hold_changed(
        self, name: str, origin: Path, change: Callable[[BinaryIO], bytes], rescued: str = ""
    ) -> HeldFile:
        """Hold what `change` makes of a file, with its group, times, mode, extended attributes and
        labels.

        It is not synced: a power cut ends every process that could need it. Raises as `hold`, and
        whatever `change` raises.
        """
        target = self._target(name)
        with store_errors(f"hold {origin}"):
            with origin.open("rb") as file:
                _check_holdable(origin, os.fstat(file.fileno()))
                content = change(file)
            self._take(len(content))
            with target.open("xb") as copy:
                copy.write(content)
            _copy_attributes(origin, target)
            _check_holdable(target, target.lstat())  # it may have been replaced meanwhile
            return _describe(name, rescued or str(origin), target, "rewritten")

    def _take(self, size: int) -> None:
        if size > self.room:
            raise StoreError(
                "more would be written to the store than store.budget allows",
                hint="`holdover list` shows what is held for whom; raise the setting",
            )
        self.room -= size

    def _target(self, name: str, *, beside: bool = False) -> Path:
        """Names come from files that others made; only what is `beside` may lie deeper."""
        parts = name.split("/") if beside else [name.removeprefix("lib/")]
        if any("/" in part or "\0" in part or part in ("", ".", "..") for part in parts):
            raise StoreError(f"{name!r} cannot be the name of a held file")
        target = self.directory / name
        with store_errors("write to the store"):
            target.parent.mkdir(0o755, parents=True, exist_ok=True)
        return target

    def add_decoys(self, names: tuple[str, ...]) -> None:
        """Put an empty file under each name; all are one inode."""
        with store_errors("write the decoys"):
            first: Path | None = None
            for name in names:
                path = self.directory / f"{name}.so"
                if first is None:
                    path.touch(0o644)
                    first = path
                else:
                    path.hardlink_to(first)

    def add_links(self, names: dict[str, Path]) -> None:
        """Put links under these names to what stays where it is."""
        with store_errors("write the links"):
            for name, path in names.items():
                (self.directory / name).symlink_to(path)


def _describe(name: str, origin: str, target: Path, how: str) -> HeldFile:
    found = target.lstat()
    version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    digest = _DIGESTS.get(version, "") if how == "link" else ""
    digest = digest or file_digest(target)
    if how == "link":
        _DIGESTS[version] = digest
    return HeldFile(name, origin, found.st_size, found.st_mtime_ns, digest, how)


def _check_holdable(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise StoreError(f"{path} is set-id or no regular file: it is never held")
    if problem := distrust_file(found):
        raise UntrustedError(f"{path} is not held: {problem}")
    if _CAPABILITY in os.listxattr(path, follow_symlinks=False):
        raise StoreError(f"{path} has file capabilities: it is never held")


def file_digest(path: Path) -> str:
    import hashlib  # OpenSSL comes with it: 3 ms, for whoever only looks

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hold(origin: Path, target: Path, take: Callable[[int], None]) -> str:
    try:
        target.hardlink_to(origin)
        return "link"
    except OSError as error:
        # another mount, an immutable file, too many links, a file system without links
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
    with origin.open("rb") as source, target.open("xb") as copy:
        try:
            linux.reflink(source.fileno(), copy.fileno())
            how = "reflink"
        except OSError:
            take(os.fstat(source.fileno()).st_size)
            shutil.copyfileobj(source, copy)
            how = "copy"
        copy.flush()
        os.fsync(copy.fileno())
    _copy_attributes(origin, target)
    return how


def _copy_attributes(origin: Path, target: Path) -> None:
    """Whoever could read the origin can read the copy; its owner, root, is the copy's already."""
    os.chown(target, -1, origin.stat().st_gid)
    shutil.copystat(origin, target)
