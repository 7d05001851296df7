# SPDX-License-Identifier: Apache-2.0
"""The name of a module directory in another process's own variable, and how a view gets into it.

The name is never exchanged for another one, it is continued: behind the directory that the program
itself has put there comes a way up to the root, and down again to the view.

    /usr/lib/postgresql/15/lib
    /usr/lib/postgresql/15/lib/../../../../../usr/lib/holdover/view/postgresql-0123456789ab

All that is new lies behind the end of the old name, so whoever reads it at any moment reads one of
the two; and what was there before is still there to be read. It leads nowhere when the program's
own directory is removed.
Source: path_resolution(7).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import MalformedError, UnsupportedError
from holdover.loaded import executable
from holdover.memory import Contents
from holdover.procfs import Mapping, ProcFs
from holdover.slack import is_its_own

__all__ = ["Name", "locate", "parse_name", "read_name", "continued"]

# a program may have steps up in its own name, but none that end at the root and go on without more
_WAY_UP = re.compile(
    rb"(?P<own>/.*?)(?P<up>(?:/\.\.)+)(?P<led>(?:/(?!\.\.?(?:/|$))[^/]+)+)", re.DOTALL
)
_LONGEST = 4096  # PATH_MAX


@dataclass(frozen=True, slots=True)
class Name:
    """As it was read."""

    text: bytes
    """Without the NUL at its end."""
    before: bytes
    """As the program itself wrote it, a slash at its end included."""
    led_to: Path | None
    """Where it was continued to; None if nobody did."""

    @property
    def own(self) -> Path:
        """The directory that the program itself chose."""
        return Path(os.fsdecode(self.before))


def locate(proc: ProcFs, pid: int, maps: Sequence[Mapping], symbol: str, size: int) -> int:
    """Address of the variable of the executable, `size` bytes long.

    Raises `UnsupportedError` if there is none, or another one of that name.
    """
    program = executable(proc, pid, maps)
    found = program.symbol(symbol)
    if found is None:
        raise UnsupportedError(f"process {pid}: its executable has no variable {symbol}")
    if not found.is_data:
        raise UnsupportedError(f"process {pid}: {symbol} is no variable of its executable")
    if found.size != size:
        raise UnsupportedError(
            f"process {pid}: {symbol} has {found.size} bytes, and {size} were expected"
        )
    start = program.base + found.value
    within = (
        program.base + s.address <= start
        and start + size <= program.base + s.address + s.memory_size
        for s in program.anatomy.loads
        if s.writable
    )
    if not any(within) or not is_its_own(maps, program, start, start + size):
        raise UnsupportedError(f"process {pid}: {symbol} is not among its executable's data")
    return start


def read_name(
    memory: Contents, address: int, size: int, pattern: re.Pattern[bytes], pointer: bool
) -> Name:
    """What the variable says now; raises `UnsupportedError` if that is no such name."""
    if pointer:
        at = memory.read_pointer(address)
        text = memory.read_strings([at])[0] if at else b""
    else:
        text, end, _ = memory.read(address, size).partition(b"\0")
        if not end:
            raise MalformedError(f"process {memory.pid}: the name at {address:#x} has no end")
    name = parse_name(text[:_LONGEST])
    if len(text) >= _LONGEST or not pattern.fullmatch(name.before):
        raise UnsupportedError(
            f"process {memory.pid}: {name.before[:80]!r} is no module directory's name"
        )
    return name


def parse_name(text: bytes) -> Name:
    """Tell what the program wrote from what it was continued by."""
    found = _WAY_UP.fullmatch(text)
    if found and found["up"].count(b"/") >= len(Path(os.fsdecode(found["own"])).parts) - 1:
        return Name(text, found["own"], Path(os.fsdecode(found["led"])))
    return Name(text, text, None)


def continued(name: Name, seen: str, view: Path) -> bytes:
    """The name that leads to the view; `seen` is the program's own directory as we reach it.

    The way up begins where links lead to; too many steps end at the root all the same.
    """
    real = Path(os.path.realpath(seen))
    steps = len(real.parts) - 1 + (0 if real == name.own else len(name.own.parts))
    return name.before + b"/.." * steps + os.fsencode(view)
