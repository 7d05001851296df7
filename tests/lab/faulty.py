# SPDX-License-Identifier: Apache-2.0
"""A file system that is another directory, until a file says that the disk is broken: from then on
every operation on it fails with EIO. It runs in a throwaway root, with Debian's python3-fusepy.

Usage: python3 faulty.py DIRECTORY MOUNTPOINT BROKEN
"""

import errno
import os
import sys
from typing import Any

from fusepy import FUSE, FuseOSError, Operations

__all__ = ["Faulty"]


class Faulty(Operations):  # type: ignore[misc]  # the package has no types
    """Of which files are named by their paths below the root, and open ones by descriptors."""

    def __init__(self, directory: str, broken: str) -> None:
        self._directory, self._broken = directory, broken

    def __call__(self, operation: str, path: str, *arguments: Any) -> Any:
        if os.path.exists(self._broken):
            raise FuseOSError(errno.EIO)
        return super().__call__(operation, self._directory + (path or "/"), *arguments)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.lstat(path)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(path)]

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags)

    def create(self, path: str, mode: int, fi: object = None) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(path, length)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, self._directory + new)

    def link(self, target: str, source: str) -> None:
        os.link(self._directory + source, target)

    def symlink(self, target: str, source: str) -> None:
        os.symlink(source, target)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(path, uid, gid, follow_symlinks=False)

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
        os.utime(path, times)

    def statfs(self, path: str) -> dict[str, Any]:
        found = os.statvfs(path)
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


if __name__ == "__main__":
    source, point, broken = sys.argv[1:]
    options = {"allow_other": True, "default_permissions": True, "nonempty": True}
    FUSE(Faulty(source, broken), point, foreground=True, nothreads=True, dev=True, **options)
