# SPDX-License-Identifier: Apache-2.0
"""What a process is, and what a file is: never a name."""

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ProcessId", "FileId"]


@dataclass(frozen=True, slots=True, order=True)
class ProcessId:
    """`start_time` is field 22 of proc_pid_stat(5): clock ticks after boot."""

    pid: int
    start_time: int

    def __str__(self) -> str:
        return f"{self.pid}-{self.start_time}"


class FileId(NamedTuple):  # a look at a host makes, hashes and compares a hundred thousand
    device: int
    inode: int
