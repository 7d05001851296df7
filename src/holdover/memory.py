# SPDX-License-Identifier: Apache-2.0
"""Another process's data, through /proc/PID/mem: no stop, no attach, nothing called in it.

It is a child that reads and writes: a page may keep who touches it waiting for ever (touching.py).
The file stays bound to the address space that the process had when it was opened. If the process
ends or executes something else, reads and writes fail; they never reach the successor. (A child of
vfork shares its parent's until it executes something: then they still reach the parent.)
Source: proc_pid_mem(5); fs/proc/base.c, mem_open() and mem_rw().
"""

import os
import struct
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TypeVar, TypeVarTuple

from holdover.errors import MalformedError, UnreadableError, VanishedError
from holdover.procfs import ProcFs
from holdover.touching import TOUCHER

__all__ = ["Memory", "Contents"]

_POINTER = struct.Struct("<Q")
_PAGE = 4096
_MAX_STRING = 128 * 1024  # MAX_ARG_STRLEN: no longer string enters a process from outside
_MAX_STRINGS = 1 << 25  # bytes of all; six millions enter from outside, and they may overlap
_MAX_KEPT = 1 << 12  # pages
A = TypeVarTuple("A")
T = TypeVar("T")


class Memory:
    """A context manager over one process's address space.

    Whatever asks, reads or writes raises `SilentError` if the process keeps it waiting.
    """

    def __init__(self, proc: ProcFs, pid: int, *, writable: bool = False) -> None:
        self.pid = pid
        flags = os.O_RDWR if writable else os.O_RDONLY
        try:
            self._fd = os.open(proc.at(pid, "mem"), flags | os.O_CLOEXEC)
        except (FileNotFoundError, ProcessLookupError) as error:
            raise VanishedError(f"process {pid} ended") from error
        except OSError as error:
            raise UnreadableError(
                f"process {pid}: its memory cannot be opened: {error.strerror}",
                hint="run holdover as root with CAP_SYS_PTRACE; check kernel.yama.ptrace_scope",
            ) from error

    def __enter__(self) -> "Memory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)

    def ask(self, question: Callable[["Contents", *A], T], *arguments: *A) -> T:
        """What `question` returns when it has the contents: many reads, and one wait for them."""
        return TOUCHER.ask(self._fd, _answer, self.pid, question, *arguments)

    def read(self, address: int, size: int) -> bytes:
        return self.ask(Contents.read, address, size)

    def write(self, address: int, data: bytes) -> None:
        """Store `data`; eight aligned bytes were never seen torn (docs/decisions/0002)."""
        self.ask(Contents.write, address, data)

    def write_pointer(self, address: int, value: int) -> None:
        if address % 8:
            raise MalformedError(f"process {self.pid}: pointer at the odd address {address:#x}")
        self.write(address, _POINTER.pack(value))


def _answer(file: int, pid: int, question: Callable[["Contents", *A], T], *arguments: *A) -> T:
    return question(Contents(pid, file), *arguments)


class Contents:
    """What is in a memory, for the child: all of this may take for ever."""

    def __init__(self, pid: int, file: int) -> None:
        self.pid = pid
        self._fd = file

    def read(self, address: int, size: int) -> bytes:
        try:
            data = os.pread(self._fd, size, address)
        except (OSError, OverflowError) as error:
            raise MalformedError(f"process {self.pid}: nothing to read at {address:#x}") from error
        if not data and size:
            raise VanishedError(f"process {self.pid} ended or replaced itself")
        if len(data) != size:
            raise MalformedError(f"process {self.pid}: memory ends before {address + size:#x}")
        return data

    def write(self, address: int, data: bytes) -> None:
        try:
            written = os.pwrite(self._fd, data, address)
        except (OSError, OverflowError) as error:
            raise UnreadableError(
                f"process {self.pid}: {address:#x} cannot be written: {error}"
            ) from error
        if written == 0:
            raise VanishedError(f"process {self.pid} ended or replaced itself")
        if written != len(data):
            raise UnreadableError(f"process {self.pid}: only {written} bytes were written")

    def read_pointer(self, address: int) -> int:
        return int(_POINTER.unpack(self.read(address, 8))[0])

    def read_strings(self, addresses: Iterable[int]) -> list[bytes]:
        """The zero-terminated strings that begin there, without the zeros.

        They mostly lie side by side, so each page is read once. Raises `MalformedError` if they
        are too long to be true, each or together.
        """
        pages: dict[int, bytes] = {}
        found, left = [], _MAX_STRINGS
        for address in addresses:
            found.append(self._string(address, pages))
            left -= len(found[-1])
            if left < 0:
                raise MalformedError(f"process {self.pid}: its strings have no end")
        return found

    def _string(self, address: int, pages: dict[int, bytes]) -> bytes:
        data = b""
        while len(data) < _MAX_STRING:
            page, start = divmod(address + len(data), _PAGE)
            if page not in pages:
                if len(pages) >= _MAX_KEPT:
                    pages.clear()
                pages[page] = self.read(page * _PAGE, _PAGE)
            end = pages[page].find(b"\0", start)
            data += pages[page][start : end if end >= 0 else _PAGE]
            if end >= 0:
                return data
        raise MalformedError(f"process {self.pid}: the string at {address:#x} has no end")

    def read_pointers(self, address: int, most: int) -> list[int]:
        """Those that lie there up to a null pointer; raises `MalformedError` if there are more."""
        found: list[int] = []
        while len(found) <= most:
            at = address + 8 * len(found)
            size = max(8, (_PAGE - at % _PAGE) // 8 * 8)
            values = [value for (value,) in _POINTER.iter_unpack(self.read(at, size))]
            if 0 in values:
                return found + values[: values.index(0)]
            found += values
        raise MalformedError(f"process {self.pid}: more than {most} pointers at {address:#x}")
