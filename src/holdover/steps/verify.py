# SPDX-License-Identifier: Apache-2.0
"""Check: does this process, in its own world, find exactly what the store holds for it?"""

import os
from pathlib import Path

from holdover.errors import ProcessError
from holdover.model import Holding, Process
from holdover.procfs import ProcFs, file_id

__all__ = ["verify"]


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
        if os.statvfs(seen).f_flag & os.ST_NOEXEC:
            return f"{directory} is mounted noexec in its mount namespace"
        for held in holding.snapshot.files:
            inside = proc.file_of(pid, f"root{directory}/{held.path}")
            if inside != file_id(holding.view / held.path):
                return f"{held.path} is something else in its mount namespace"
    except (ProcessError, OSError) as error:
        return f"{directory} cannot be seen from it: {error}"
    return ""
