# SPDX-License-Identifier: Apache-2.0
"""Who keeps a child of ours waiting: such a process is not looked at again until it comes back.

Or each look would leave one more behind, for as long as the process likes (touching.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import ProcessError, SilentError
from holdover.identity import ProcessId
from holdover.procfs import ProcFs

__all__ = ["Silence"]


@dataclass(frozen=True, slots=True)
class Silence:
    """One file for each process, named after (pid, start time); in it is the same of the child."""

    proc: ProcFs
    directory: Path

    @contextmanager
    def minding(self, pid: int) -> Iterator[ProcessId]:
        """Who it is; raises `SilentError` if that process has not answered the last look."""
        process = self.proc.identity(pid)
        if self._waits(self.directory / str(process)):
            raise SilentError("its memory has not answered an earlier look yet")
        try:
            yield process
        except SilentError as error:
            with suppress(OSError, ProcessError):  # who may not write there may look again
                self._note(process, self.proc.identity(error.left_behind))
            raise

    def _waits(self, note: Path) -> bool:
        """Whether the child that was left behind is still there."""
        try:
            child = _parse(note.read_text())
        except (OSError, ValueError):
            return False
        return self.proc.is_alive(child)

    def _note(self, process: ProcessId, child: ProcessId) -> None:
        """Remember it, and forget those whose child came back."""
        self.directory.mkdir(parents=True, exist_ok=True)
        for note in self.directory.iterdir():
            if not self._waits(note):
                note.unlink(missing_ok=True)
        (self.directory / str(process)).write_text(str(child))


def _parse(text: str) -> ProcessId:
    pid, _, start_time = text.partition("-")
    return ProcessId(int(pid), int(start_time))
