# SPDX-License-Identifier: Apache-2.0
"""What a process has written to its stderr since it started, as far as that can be read.

Its user chooses what that is: a file of his that never answers, or one that has no end. Only
regular files of local file systems are read, and of those the end.
"""

import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from holdover import linux
from holdover.complaints import Log, Said, of_this_run
from holdover.errors import CommandError, MalformedError, UnreadableError, VanishedError
from holdover.mounts import parse_mountinfo
from holdover.procfs import ProcFs
from holdover.trust import distrust

__all__ = ["Stderr"]

_ANSWERING = frozenset(
    ("bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "ramfs", "tmpfs", "xfs", "zfs")
)
"""File systems that no user's program and no other machine has to answer for."""
_DEVICES = ("devpts", "devtmpfs")
_MOST = 1 << 21
"""Bytes that are read of a log, its last ones; virtlogd begins a new file after as many."""
_ROTATED = ("", ".0", ".1", ".2")
"""The newest first; logrotate packs what is older."""
_MOST_LINES = 10_000
_PATIENCE = 5.0
"""Seconds until the journal is not asked any more."""
_INACCURACY = 0.05
"""Seconds: that far two looks at when a process started differ (/proc/uptime has hundredths)."""
_CLOCKS = 0.05
"""Seconds by which the start of a process and the birth of a file may seem to differ."""
_SHORT = 80  # characters of what a process may call its stderr
_LONGER = "its log is longer than what is read of it"
_NOT_THE_START = "its log does not go back to its start"


@dataclass(frozen=True, slots=True)
class _End:
    """The end of a log."""

    text: bytes
    born: float | None
    whole: bool
    """It has no more than that."""

    def born_after(self, started: float) -> bool:
        return self.born is not None and self.born > started - _CLOCKS


class Stderr:
    """Reads what processes wrote; `journal` says whether the journal may be asked."""

    def __init__(self, proc: ProcFs, *, journal: bool = False) -> None:
        """To ask the journal is to run a command: nothing for a package manager's hook."""
        self.proc = proc
        self.journal = journal
        self._goes_back = float("inf")
        """From when on the journal is known to be there, in seconds of the epoch."""

    def of(self, pid: int, name: str, logs: tuple[Log, ...]) -> Said:
        """`name` is what `logs` may know the process by.

        Raises `UnreadableError` with the reason, and `ProcessError`.
        """
        try:
            target = self.proc.link(pid, "fd/2")
        except VanishedError as error:
            raise UnreadableError("it has closed its stderr") from error
        started = self._started(pid)
        if target.startswith("pipe:["):
            return self._in_logs(name, logs, started)
        if target.startswith("socket:["):
            return self._in_journal(pid, target, started)
        return self._in_file(pid, target, logs, started)

    def _started(self, pid: int) -> float:
        """When the process started, in seconds of the epoch, as the clock is set now."""
        ticks, per_second = self.proc.stat(pid).start_time, os.sysconf("SC_CLK_TCK")
        running = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / per_second
        return time.time() - running

    # -- a file --------------------------------------------------------------------------------

    def _in_file(self, pid: int, target: str, logs: tuple[Log, ...], started: float) -> Said:
        self._check_kind(pid, target, _mount_of(self.proc.read(pid, "fdinfo/2")))
        handle = os.open(self.proc.at(pid, "fd/2"), os.O_PATH | os.O_CLOEXEC)
        try:
            self._check_kind(pid, target, linux.mount_id(handle))  # it may be another by now
            end = _read_end(handle)
        finally:
            os.close(handle)
        if end is None:
            raise UnreadableError(f"its stderr is {target[:_SHORT]}")
        own = of_this_run(end.text, logs, started)
        if own is not None:
            return Said(own, own=True)
        return Said(end.text, end.born_after(started), "" if end.whole else _LONGER)

    def _check_kind(self, pid: int, target: str, mount: int) -> None:
        """Before anything is asked of the file itself: that may already take for ever."""
        own = self._own_mounts.get(mount)
        kind = own or self._kinds_of(pid).get(mount)
        if kind in _DEVICES:
            raise UnreadableError(f"its stderr is {target[:_SHORT]}")
        if kind is None:
            raise UnreadableError("its stderr is a file on a mount that is not to be seen")
        # only root can have made an overlay here, of what only he knows
        if kind not in _ANSWERING and own != "overlay":
            raise UnreadableError(f"its stderr is a file on {kind}, which may never answer")

    @cached_property
    def _own_mounts(self) -> dict[int, str]:
        """Most files lie here, also those of processes in other mount namespaces."""
        return self._kinds_of(self.proc.own_pid)

    def _kinds_of(self, pid: int) -> dict[int, str]:
        return {m.id: m.kind for m in parse_mountinfo(self.proc.read(pid, "mountinfo"))}

    # -- somebody else's log -------------------------------------------------------------------

    def _in_logs(self, name: str, logs: tuple[Log, ...], started: float) -> Said:
        """Nobody can tell who reads a pipe; but the log tells of the start."""
        ends = list[_End]()
        for path in _rotated(name, logs):
            end = _end_of(path)
            if end is None:
                continue
            own = of_this_run(end.text, logs, started)
            if own is not None:
                return Said(b"".join((own, *(newer.text for newer in reversed(ends)))), own=True)
            ends.append(end)
            if not end.whole:
                break
        if not ends:
            raise UnreadableError("its stderr is a pipe, and nobody is known to keep a log of it")
        text = b"".join(end.text for end in reversed(ends))
        return Said(text, all(end.born_after(started) for end in ends), _NOT_THE_START)

    # -- the journal ---------------------------------------------------------------------------

    def _in_journal(self, pid: int, target: str, started: float) -> Said:
        inode = target.removeprefix("socket:[").removesuffix("]")
        stream = re.compile(rf"JOURNAL_STREAM=[0-9]+:{inode}")  # systemd.exec(5)
        if not any(map(stream.fullmatch, self.proc.read(pid, "environ").split("\0"))):
            raise UnreadableError("its stderr is a socket")
        if not self.journal:
            raise UnreadableError("its stderr goes to the journal, which is not asked now")
        text = self._journal(f"--since=@{started - 1:.3f}", f"--lines={_MOST_LINES}", f"_PID={pid}")
        missing = ""
        if text.count(b"\n") >= _MOST_LINES or len(text) >= _MOST:
            missing = _LONGER
        elif started < self._goes_back - _INACCURACY:
            if self._journal(f"--until=@{started:.3f}", "--lines=1"):
                self._goes_back = started
            else:
                missing = _NOT_THE_START
        return Said(text, True, missing)

    def _journal(self, *words: str) -> bytes:
        """A line may have megabytes."""
        from holdover.run import end_of_output

        command = ("journalctl", "--quiet", "--boot", "--no-pager", "--output=cat", *words)
        try:
            return end_of_output(*command, most=_MOST, timeout=_PATIENCE)
        except CommandError as error:
            self.journal = False  # one that hangs would hang again
            raise UnreadableError(f"the journal cannot be asked: {error.message}") from error


def _mount_of(fdinfo: str) -> int:
    found = re.search(r"^mnt_id:\s*([0-9]{1,19})$", fdinfo, re.MULTILINE)
    if found is None:
        raise MalformedError("fdinfo names no mount")
    return int(found[1])


def _rotated(name: str, logs: tuple[Log, ...]) -> Iterator[Path]:
    """What only root can have put there; `name` is what a user may have chosen."""
    if not name or "/" in name or "\0" in name:
        return
    for path in (Path(log.path.format(name) + suffix) for log in logs for suffix in _ROTATED):
        if not distrust(path):
            yield path


def _end_of(path: Path) -> _End | None:
    """None if there is no such file."""
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return _read_end(handle)
    finally:
        os.close(handle)


def _read_end(handle: int) -> _End | None:
    """Of the file behind an O_PATH descriptor; None if it is no regular one."""
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        return None
    # who has a lease on it could make us wait otherwise
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(f"/proc/self/fd/{handle}", flags), "rb") as file:
        file.seek(max(0, found.st_size - _MOST))
        return _End(file.read(_MOST), linux.birth(handle), found.st_size <= _MOST)
