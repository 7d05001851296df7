# SPDX-License-Identifier: Apache-2.0
"""Deliver by mount: cover the module directory in the process's own mount namespace.

Source: open_tree(2), move_mount(2), setns(2). A bind over a single file would vanish at the next
rename (FACTS), so it is always the directory.
"""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from holdover import linux
from holdover.covering import FOREIGN, MountTables
from holdover.entering import Helper
from holdover.errors import ProcessError, RefusedError, UnsupportedError, VanishedError
from holdover.identity import FileId
from holdover.model import Process
from holdover.mounted import is_of_root
from holdover.mounts import parse_mountinfo, view_on
from holdover.procfs import ProcFs, file_id

__all__ = ["Mounter"]

_FRESH = 1.0  # seconds


class Mounter:
    """For as long as one run takes: what all deliveries of it share."""

    def __init__(self, proc: ProcFs) -> None:
        self._proc = proc
        self._helper = Helper()
        self._tables = MountTables(proc)
        self._read_at = -math.inf

    def close(self) -> None:
        self._helper.close()

    def deliver(self, process: Process, view: Path) -> None:
        """Make the process see `view` at its module directory, read-only, and nobody else.

        Raises `RefusedError` with the rule that forbids it; then nothing is mounted anywhere.
        """
        proc, directory = self._proc, _directory(process)
        if proc.file_of(process.id.pid, f"root{directory}") == file_id(view):
            return
        refusal = self._fresh_tables().refusal(process.id.pid, process.executable_file, directory)
        if refusal:
            raise RefusedError(f"process {process.id.pid}: {refusal}")
        ours = file_id(directory)
        with _opened(proc, process, directory) as (namespace, target):
            _check_target(process, target, ours, view.parent)
            tree = linux.clone_directory(str(view))
            try:
                self._helper.attach(namespace, tree, target)
            finally:
                os.close(tree)
        self._check(process, directory, view, ours)

    def release(self, process: Process, view: Path) -> None:
        """Take the mount away again, if it is there, and with it every view that lies below it."""
        directory = _directory(process)
        with _opened(self._proc, process, directory.parent) as (namespace, parent):
            count = _views_on(self._proc, process, directory, view.parent)
            if count:
                self._helper.unmount(namespace, parent, directory.name, count)

    def _fresh_tables(self) -> MountTables:
        """To read all tables takes as long as all processes take; whatever comes into being while
        some guests are served is seen before the next ones."""
        if time.monotonic() - self._read_at > _FRESH:
            self._tables, self._read_at = MountTables(self._proc), time.monotonic()
        return self._tables

    def _check(self, process: Process, directory: Path, view: Path, ours: FileId | None) -> None:
        """The process sees the view, and this system's directory is what it was; else undo."""
        pid = process.id.pid
        if file_id(directory) != ours:
            self.release(process, view)
            raise RefusedError(f"the mount showed up outside process {pid}; it was undone")
        try:
            seen = self._proc.file_of(pid, f"root{directory}")
        except ProcessError:
            seen = None
        if seen != file_id(view):
            self.release(process, view)
            raise RefusedError(f"process {pid} does not see the view that was mounted")


def _views_on(proc: ProcFs, process: Process, directory: Path, views: Path) -> int:
    """How many of our views are the topmost mounts on `directory`."""
    mounts = parse_mountinfo(proc.read(process.id.pid, "mountinfo"))
    there = [mount for mount in mounts if mount.point == str(directory)]
    return sum(1 for _ in takewhile(lambda mount: view_on(mount, views), reversed(there)))


def _check_target(process: Process, target: int, ours: FileId | None, views: Path) -> None:
    """It may have changed its root since we looked, to have something else covered."""
    found = os.fstat(target)
    known = {ours, *(file_id(view) for view in views.iterdir())}
    if FileId(found.st_dev, found.st_ino) not in known:
        raise RefusedError(f"process {process.id.pid}: its module directory is not this system's")


def _directory(process: Process) -> Path:
    if not process.build.directories:
        raise UnsupportedError(f"process {process.id.pid}: no module directory is known for it")
    return process.build.directories[0]


@contextmanager
def _opened(proc: ProcFs, process: Process, directory: Path) -> Iterator[tuple[int, int]]:
    """Descriptors of its mount namespace and of `directory` as it sees it.

    Both are taken before the identity is checked, so they are that process's or the check fails;
    and of a namespace that is entered it must have been asked whose it is. setns puts the helper at
    the namespace's root, which need not be the process's: hence a descriptor instead of a path.
    """
    pid = process.id.pid
    with proc.open(pid, "ns/mnt") as namespace:
        if not is_of_root(proc, namespace.fileno()):
            raise RefusedError(f"process {pid}: {FOREIGN}")
        target = _open_directory(proc, pid, directory)
        try:
            if proc.identity(pid) != process.id or proc.file_of(pid, "exe") != (
                process.executable_file
            ):
                raise VanishedError(f"process {pid} ended, or now runs something else")
            yield namespace.fileno(), target
        finally:
            os.close(target)


def _open_directory(proc: ProcFs, pid: int, directory: Path) -> int:
    try:
        return os.open(proc.at(pid, f"root{directory}"), os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise RefusedError(f"process {pid} has no {directory}: {error.strerror}") from error
