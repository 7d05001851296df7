# SPDX-License-Identifier: Apache-2.0
"""The memory of a process, for as long as it is that very process."""

from collections.abc import Iterator
from contextlib import contextmanager

from holdover.errors import VanishedError
from holdover.memory import Memory
from holdover.model import Process
from holdover.procfs import ProcFs

__all__ = ["memory_of"]


@contextmanager
def memory_of(proc: ProcFs, process: Process) -> Iterator[Memory]:
    """For writing; raises `VanishedError` if it is another process, before it or at its end.

    It is opened before the check: whatever comes after cannot reach a successor.
    """
    with Memory(proc, process.id.pid, writable=True) as memory:
        _check_identity(proc, process)
        try:
            yield memory
        finally:
            _check_identity(proc, process)  # one that is gone explains whatever went wrong


def _check_identity(proc: ProcFs, process: Process) -> None:
    pid = process.id.pid
    if proc.identity(pid) != process.id:
        raise VanishedError(f"process {pid} ended, and its number is another's")
    if proc.file_of(pid, "exe") != process.executable_file:
        raise VanishedError(f"process {pid} now runs something else")
