# SPDX-License-Identifier: Apache-2.0
"""Who kept us waiting: such a process is not looked at again for a while.

Each look leaves a child of ours behind, as long as the process likes (touching.py). An hour later
it may have been the machine, and not the process.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import SilentError
from holdover.model import ProcessId
from holdover.procfs import ProcFs

__all__ = ["Silence"]

_WHILE = 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Silence:
    """One empty file for each process, named after (pid, start time)."""

    proc: ProcFs
    directory: Path

    @contextmanager
    def minding(self, pid: int) -> Iterator[None]:
        """Raises `SilentError` before a look at a process that did not answer the last one."""
        process = self.proc.identity(pid)
        if self._is_kept_by(process):
            raise SilentError("its memory did not answer, and is not asked again for an hour")
        try:
            yield
        except SilentError:
            with suppress(OSError):  # who may not write there may look again
                self._note(process)
            raise

    def _is_kept_by(self, process: ProcessId) -> bool:
        try:
            age = time.time() - (self.directory / str(process)).stat().st_mtime
        except OSError:
            return False
        return 0 <= age < _WHILE

    def _note(self, process: ProcessId) -> None:
        """Remember it, and forget those that have ended."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for path in self.directory.iterdir():
            pid, _, start = path.name.partition("-")
            if not self.proc.is_alive(ProcessId(int(pid), int(start))):
                path.unlink(missing_ok=True)
        (self.directory / str(process)).touch()
