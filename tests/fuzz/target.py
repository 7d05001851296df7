# SPDX-License-Identifier: Apache-2.0
"""What a target is, and what its functions share."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from holdover.programs import load_programs

__all__ = ["Target", "MIB", "KIB", "QEMU", "workplace", "written", "opened", "text_of"]

KIB, MIB = 1 << 10, 1 << 20
QEMU = next(p for p in load_programs() if p.name == "qemu")


@dataclass(frozen=True, slots=True)
class Target:
    """One way of hostile input into holdover, taken as it is taken in production."""

    read: Callable[[bytes], object]
    """Raises `refusals` for what makes no sense, and nothing else."""
    refusals: tuple[type[Exception], ...] = ()
    """As the docstrings of what it calls promise."""
    accepted: str = "64 MiB (/proc text)"
    """How much production lets in, and what limits it."""
    fixed: int = 8 * MIB
    """Bytes of memory that any input may cost, however short it is."""
    growth: int = 24
    """Bytes of memory for each byte of input beyond that."""
    longest: int = 4 * KIB
    """Bytes of a mutation: what is found with more is found with less, and sooner."""
    trials: int = 150
    """How many mutations the usual tests make."""
    swells: bool = True
    """Whether it is worth while to repeat a part of an input until it has a megabyte."""

    def memory(self, size: int) -> int:
        """Bytes that an input of that size may cost at the most."""
        return self.fixed + self.growth * size

    def attempt(self, data: bytes) -> bool:
        """Whether the input was understood; whatever else is raised than a refusal is a finding."""
        try:
            self.read(data)
        except self.refusals:
            return False
        return True


@cache
def _workplace() -> tempfile.TemporaryDirectory[str]:
    memory = "/dev/shm"
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


def workplace(name: str) -> Path:
    """An own directory for a target, which goes with the process."""
    directory = Path(_workplace().name, name)
    directory.mkdir(exist_ok=True)
    return directory


def written(directory: str, name: str, data: bytes) -> Path:
    """A file with that content."""
    path = workplace(directory) / name
    path.write_bytes(data)
    return path


def opened(data: bytes, size: int = 0) -> BinaryIO:
    """An open file with that content; `size` is what it claims to have, if that is more."""
    file = os.fdopen(os.memfd_create("input"), "w+b")
    file.write(data)
    file.flush()
    if size > len(data):
        os.truncate(file.fileno(), size)
    return file


def text_of(data: bytes) -> str:
    """As `run` decodes what a command prints."""
    return data.decode("utf-8", "replace")
