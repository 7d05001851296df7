# SPDX-License-Identifier: Apache-2.0
"""Check: does this process, in its own world, find exactly what the store holds for it?"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdover.errors import ProcessError
from holdover.held import Holding
from holdover.model import Process
from holdover.procfs import ProcFs, file_id
from holdover.trust import closed_to

__all__ = ["verify", "loaded_twice"]


def verify(proc: ProcFs, process: Process, holding: Holding, directory: Path) -> str:
    """Why the snapshot is not to be found at `directory` as the process sees it, or "".

    Everything is looked at through the process's own root: another mount may hide the store from
    it, or forbid to execute what is there.
    """
    pid = process.id.pid
    seen = proc.path(pid, f"root{directory}")
    try:
        if proc.file_of(pid, f"root{directory}") != holding.view_file:
            return f"{directory} is something else in its mount namespace"
        if closed := closed_to(proc.owner(pid), seen, len(directory.parts)):
            return f"{directory} cannot be entered by its user: {closed} does not let others in"
        if os.statvfs(seen).f_flag & os.ST_NOEXEC:
            return f"{directory} is mounted noexec in its mount namespace"
        if _sees_what_we_see(proc, pid):
            return ""
        with _opened(seen) as inside, _opened(holding.view) as here:
            for held in holding.snapshot.files:
                found, expected = (os.stat(held.path, dir_fd=d) for d in (inside, here))  # noqa: PTH116
                if not os.path.samestat(found, expected):
                    return f"{held.path} is something else in its mount namespace"
    except (ProcessError, OSError) as error:
        return f"{directory} cannot be seen from it: {error}"
    return ""


def loaded_twice(process: Process, holding: Holding) -> str:
    """Why it would load a module once more that it has loaded already, or ""."""
    for name, file in process.loaded_files:
        there = file_id(holding.view / f"{name}.so")
        if there is None:
            return f"it has loaded {name}, which is not held"
        if there != file:
            return f"it has loaded {name} from another file than the one that is held"
    return ""


def _sees_what_we_see(proc: ProcFs, pid: int) -> bool:
    """Then every path leads it to where it leads us."""
    us = proc.own_pid
    if proc.namespace(pid) != proc.namespace(us):
        return False
    return all(ask(pid, "root") == ask(us, "root") for ask in (proc.link, proc.file_of))


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    """For looking at what lies in it; a path to each file takes many times as long."""
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
