# SPDX-License-Identifier: Apache-2.0
"""Deliver by the directory in which a build looks last: it is made to lead to the view.

All processes of that build are served by it. It comes last, so it is there only while no module of
the build lies where it looks first: what then loads is its own anyway, and the package that owns
those may write to that very directory when it is replaced, through the links (Debian's does).
"""

import os
from pathlib import Path

from holdover.errors import ProcessError, RefusedError, UnsupportedError
from holdover.fallbacks import Fallbacks, links_to
from holdover.model import Process
from holdover.procfs import ProcFs
from holdover.trust import closed_to, distrust

__all__ = ["deliver", "release", "problem_of"]


def deliver(proc: ProcFs, process: Process, fallbacks: Fallbacks, view: Path) -> None:
    """Make the process find `view` last, and every other process of its build.

    Raises `RefusedError` if it does not find it, `StoreError` if it cannot be made; then nothing
    stays that was not there before.
    """
    directory = _directory(process)
    if problem := distrust(directory):
        raise RefusedError(f"{directory} is not used: {problem}")
    old = fallbacks.view_at(directory)
    fallbacks.put(directory, view)
    if problem := problem_of(proc, process, view):
        if old is None:  # else it serves others
            fallbacks.remove(directory)
        raise RefusedError(f"process {process.id.pid}: {problem}")


def release(process: Process, fallbacks: Fallbacks) -> None:
    """Take it away from every process of the build."""
    fallbacks.remove(_directory(process))


def problem_of(proc: ProcFs, process: Process, view: Path) -> str:
    """Why its fallback directory, as the process sees it, does not lead to `view`, or ""."""
    pid, directory = process.id.pid, _directory(process)
    seen = proc.path(pid, f"root{directory}")
    try:
        for name, target in links_to(view):
            if os.readlink(seen / name) != str(target):
                return f"{directory}/{name} is something else in its mount namespace"
        if closed := closed_to(proc.owner(pid), seen, len(directory.parts)):
            return f"{directory} cannot be entered by its user: {closed} does not let others in"
    except (ProcessError, OSError) as error:
        return f"{directory} cannot be seen from it: {error}"
    return ""


def _directory(process: Process) -> Path:
    if process.build.fallback is None:
        raise UnsupportedError(f"process {process.id.pid}: its build has no fallback directory")
    return process.build.fallback
