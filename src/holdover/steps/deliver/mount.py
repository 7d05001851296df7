# SPDX-License-Identifier: Apache-2.0
"""Deliver by mount: cover the module directory in the process's own mount namespace.

Source: open_tree(2), move_mount(2), setns(2). A bind over a single file would vanish at the next
rename (FACTS), so it is always the directory.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from holdover import linux
from holdover.covering import MountTables
from holdover.errors import ProcessError, RefusedError, UnsupportedError, VanishedError
from holdover.model import FileId, Process
from holdover.mounts import parse_mountinfo, view_on
from holdover.procfs import ProcFs, file_id

__all__ = ["deliver", "release"]


def deliver(proc: ProcFs, process: Process, view: Path) -> None:
    """Make the process see `view` at its module directory, read-only, and nobody else.

    Raises `RefusedError` with the rule that forbids it; then nothing is mounted anywhere.
    """
    directory = _directory(process)
    if proc.file_of(process.id.pid, f"root{directory}") == file_id(view):
        return
    refusal = MountTables(proc).refusal(process.id.pid, process.executable_file, directory)
    if refusal:
        raise RefusedError(f"process {process.id.pid}: {refusal}")
    ours = file_id(directory)
    with _inside(proc, process, directory) as (target, enter):
        _check_target(process, target, ours, view.parent)
        tree = linux.clone_directory(str(view))
        try:
            _in_child(enter, lambda: linux.attach(tree, target))
        finally:
            os.close(tree)
    _check(proc, process, directory, view, ours)


def release(proc: ProcFs, process: Process, view: Path) -> None:
    """Take the mount away again, if it is there, and with it every view that lies below it."""
    directory = _directory(process)
    with _inside(proc, process, directory.parent) as (parent, enter):
        count = _views_on(proc, process, directory, view.parent)

        def unmount() -> None:
            os.fchdir(parent)
            for _ in range(count):
                linux.unmount(directory.name)

        if count:
            _in_child(enter, unmount)


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
def _inside(
    proc: ProcFs, process: Process, directory: Path
) -> Iterator[tuple[int, Callable[[], None]]]:
    """A descriptor of `directory` as the process sees it, and how a child enters its namespace.

    Both are taken before the identity is checked, so they are that process's or the check fails.
    setns puts the child at the namespace's root, which need not be the process's: hence the
    descriptor instead of a path.
    """
    pid = process.id.pid
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise VanishedError(f"process {pid} ended") from error
    try:
        target = _open_directory(proc, pid, directory)
        try:
            if proc.identity(pid) != process.id or proc.file_of(pid, "exe") != (
                process.executable_file
            ):
                raise VanishedError(f"process {pid} ended, or now runs something else")
            yield target, lambda: linux.enter_mount_namespace(pidfd)
        finally:
            os.close(target)
    finally:
        os.close(pidfd)


def _open_directory(proc: ProcFs, pid: int, directory: Path) -> int:
    try:
        return os.open(proc.path(pid, f"root{directory}"), os.O_PATH | os.O_DIRECTORY)
    except OSError as error:
        raise RefusedError(f"process {pid} has no {directory}: {error.strerror}") from error


def _in_child(enter: Callable[[], None], work: Callable[[], None]) -> None:
    """Run `work` in a child inside the namespace; raise what it met as `RefusedError`.

    A child, because setns would move us for good and refuses a process with threads.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            enter()
            work()
            status = 0
        except OSError as error:
            os.write(writer, str(error).encode()[:512])
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, "rb") as pipe:
        message = pipe.read().decode("utf-8", "replace")
    if os.waitpid(child, 0)[1] != 0:
        raise RefusedError(f"the kernel refused the mount: {message or 'the child died'}")


def _check(
    proc: ProcFs, process: Process, directory: Path, view: Path, ours: FileId | None
) -> None:
    """The process sees the view, and this system's directory is what it was; else undo."""
    if file_id(directory) != ours:
        release(proc, process, view)
        raise RefusedError(f"the mount showed up outside process {process.id.pid}; it was undone")
    try:
        seen = proc.file_of(process.id.pid, f"root{directory}")
    except ProcessError:
        seen = None
    if seen != file_id(view):
        release(proc, process, view)
        raise RefusedError(f"process {process.id.pid} does not see the view that was mounted")
