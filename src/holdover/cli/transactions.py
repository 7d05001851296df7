# SPDX-License-Identifier: Apache-2.0
"""The marker of transactions that are under way: who makes them, one process a line.

More than one at a time is rare, and happens: a `dpkg --root` or an rpm has another lock than apt,
and a second dpkg runs its hook before it finds that the lock is taken. Their hooks may run at the
same moment: none must write what it read before another wrote.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from holdover.errors import BusyError, HoldoverError
from holdover.identity import ProcessId
from holdover.locks import take
from holdover.packages.guard import MARKER
from holdover.procfs import ProcFs

__all__ = ["mark", "unmark", "marked", "own", "under_way", "parse_marker"]

_LINE = re.compile(rb"([0-9]{1,19}) ([0-9]{1,19})")
_MAX = 65536  # bytes
_PATIENCE = 1.0  # seconds


def mark(transaction: ProcessId | None, proc: ProcFs, marker: Path = MARKER) -> None:
    """The shell guards look whether it is there. Raises `OSError`."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    with _alone(marker):
        others = [each for each in marked(marker) if each != transaction and proc.is_alive(each)]
        _write([*others, *([transaction] if transaction else [])], marker)


def unmark(proc: ProcFs, marker: Path = MARKER) -> None:
    """This one is over; the marker stays for others that are under way. Raises `OSError`."""
    with suppress(FileNotFoundError), _alone(marker):
        ended = own(proc, marker)
        others = [other for other in marked(marker) if other != ended and proc.is_alive(other)]
        if others:
            _write(others, marker)
        else:
            marker.unlink(missing_ok=True)


@contextmanager
def _alone(marker: Path) -> Iterator[None]:
    """Nobody else changes the marker. Who does takes no time; one who is halted in the middle of it
    is not waited for: better a transaction too few in it than a guest that is not protected.
    """
    directory = os.open(marker.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(BusyError):
            take(directory, time.monotonic() + _PATIENCE)
        yield
    finally:
        os.close(directory)


def _write(transactions: Iterable[ProcessId], marker: Path) -> None:
    """Whatever is there now, and nobody reads half of it."""
    temporary = marker.with_name(f".{marker.name}.{os.getpid()}")
    try:
        temporary.write_text("".join(f"{each.pid} {each.start_time}\n" for each in transactions))
        temporary.rename(marker)
    except BaseException:  # the hook's time may be over
        temporary.unlink(missing_ok=True)
        raise


def marked(marker: Path = MARKER) -> tuple[ProcessId, ...]:
    """The package managers' processes, alive or not."""
    with suppress(OSError), open(os.open(marker, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        return parse_marker(file.read(_MAX))
    return ()


def parse_marker(content: bytes) -> tuple[ProcessId, ...]:
    """Lines that make no sense name nobody."""
    found = (_LINE.fullmatch(line) for line in content.split(b"\n")[:-1])
    return tuple(ProcessId(int(each[1]), int(each[2])) for each in found if each)


def own(proc: ProcFs, marker: Path = MARKER) -> ProcessId | None:
    """The transaction that this process is a hook of: there are shells between."""
    transactions, pid = frozenset(marked(marker)), os.getppid()
    with suppress(HoldoverError):
        while transactions and pid > 1:
            stat = proc.stat(pid)
            if (above := ProcessId(pid, stat.start_time)) in transactions:
                return above
            pid = stat.parent
    return None


def under_way(proc: ProcFs, marker: Path = MARKER) -> ProcessId | None:
    """A process that is changing packages now; one that was killed changes nothing any more."""
    return next((each for each in marked(marker) if proc.is_alive(each)), None)
