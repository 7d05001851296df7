# SPDX-License-Identifier: Apache-2.0
"""Reads /proc; the root is injectable, the parsers are pure. Source: proc(5).

Nothing here follows a name that a process chose: executables are told by `exe`, mapped files by
device and inode. Whatever cannot be read is an error, never an empty answer.
"""

import errno
import functools
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

from holdover.errors import MalformedError, ProcessError, UnreadableError, VanishedError
from holdover.held import Lease
from holdover.identity import FileId, ProcessId
from holdover.touching import TOUCHER

__all__ = ["ProcFs", "file_id", "open_regular", "Mapping", "mapped_name"]
__all__ += ["Stat", "parse_maps", "parse_stat"]

DELETED = " (deleted)"
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (.+)$", re.MULTILINE)
_OF_MEMORY = ("maps", "cmdline", "environ")
"""To read these is to wait for who holds the lock of a process's memory, which may be for ever."""
_MAX_TEXT = 1 << 26  # bytes
_MAX_WORDS = 1 << 23  # a process may say that its environment is as long as its memory: exec(2)
_WORDS = ("environ", "cmdline")  # takes six million bytes of both, and of words without a letter
T = TypeVar("T")
_new = tuple.__new__  # what a call of a named tuple's class comes to, without the call


class Mapping(NamedTuple):  # a guest has hundreds, and a dataclass takes thrice as long to make
    """One line of maps; addresses and offset in bytes. `path` may lie, `file` does not."""

    start: int
    end: int
    permissions: str
    offset: int
    file: FileId
    path: str

    @property
    def readable_and_writable(self) -> bool:
        return self.permissions.startswith("rw")


@dataclass(frozen=True, slots=True)
class Stat:
    """The fields of stat that are used; times in clock ticks, addresses in bytes."""

    state: str
    parent: int
    start_time: int
    start_brk: int


def parse_maps(text: str) -> tuple[Mapping, ...]:
    """Parse /proc/PID/maps; raises `MalformedError` for a line that is none."""
    # only a newline ends a line: names hold whatever else str.splitlines() takes for one
    lines = _MAPPING.findall(text)
    if len(lines) != text.removesuffix("\n").count("\n") + bool(text):
        wrong = next(line for line in text.split("\n") if not _MAPPING.fullmatch(line))
        raise MalformedError(f"a line of maps makes no sense: {wrong!r}")
    try:
        return tuple(
            _new(Mapping, (int(start, 16), int(end, 16), *_parse_mapped(rest)))
            for start, end, rest in lines
        )
    except (ValueError, OverflowError) as error:
        raise MalformedError(f"a line of maps makes no sense: {error}") from error


@functools.lru_cache(maxsize=2048)  # all processes of a build map the same, and elsewhere
def _parse_mapped(rest: str) -> tuple[str, int, FileId, str]:
    permissions, offset, device, inode, *path = rest.split(None, 4)
    major, minor = (int(number, 16) for number in device.split(":"))
    file = FileId(os.makedev(major, minor), int(inode))
    return permissions, int(offset, 16), file, path[0] if path else ""


def parse_stat(text: str) -> Stat:
    """Parse /proc/PID/stat. The name in parentheses may hold anything, ")" and blanks included."""
    try:
        fields = text[text.rindex(")") + 2 :].split()
        # proc(5) counts from 1, and the two fields before the state are cut off here
        return Stat(fields[0], int(fields[4 - 3]), int(fields[22 - 3]), int(fields[47 - 3]))
    except (ValueError, IndexError) as error:
        raise MalformedError(f"stat makes no sense: {text[:200]!r}") from error


def file_id(path: Path | str | int) -> FileId | None:
    """What lies at `path` or is open as that descriptor; None if nothing can be seen there."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return FileId(found.st_dev, found.st_ino)


def _version(found: os.stat_result) -> tuple[int, ...]:
    """Of a file that may be written to in place; nobody can set back the last one."""
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def open_regular(path: Path) -> BinaryIO | None:
    """The file at `path`, or None if it is no regular one; raises `OSError`.

    Users choose what lies where their processes look: to open a pipe may take forever, and to open
    a device may do anything. Nothing can be put in its place between the look and the opening.
    """
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return None
        return open(f"/proc/self/fd/{handle}", "rb")
    finally:
        os.close(handle)


def mapped_name(mapping: Mapping) -> str:
    """The link in a process's directory that leads to what it has mapped there."""
    return f"map_files/{mapping.start:x}-{mapping.end:x}"


def _most(name: str) -> int:
    """Bytes that are read of it."""
    return _MAX_WORDS if name in _WORDS else _MAX_TEXT


def _texts(directory: int, names: tuple[str, ...]) -> list[bytes | OSError]:
    """In the child: what the files say, or why they do not."""
    return [_text(directory, name) for name in names]


def _text(directory: int, name: str) -> bytes | OSError:
    try:
        file = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
        with open(file, "rb") as opened:
            return opened.read(_most(name))
    except OSError as error:
        return error


class ProcFs:
    """/proc, or a directory that looks like it."""

    def __init__(self, root: Path = Path("/proc")) -> None:
        self.root = root
        self._prefix = f"{root}/"
        self._last_maps: tuple[int, tuple[Mapping, ...]] = (0, ())
        self._answers: dict[tuple[object, ...], Any] = {}
        self._together: dict[int, tuple[str, ...]] = {}
        self._ahead: dict[tuple[int, str], bytes | OSError] = {}

    @cached_property
    def own_pid(self) -> int:
        """Ours, as this /proc counts."""
        with self._root_errors():
            return int(os.readlink(self.root / "self"))

    def boot_id(self) -> str:
        """Changes with every boot; source: random(4)."""
        try:
            return (self.root / "sys/kernel/random/boot_id").read_text().strip()
        except OSError as error:
            raise UnreadableError(f"the boot id cannot be read: {error.strerror}") from error

    @cached_property
    def world(self) -> tuple[str, str]:
        """Boot id and namespaces: within one world, (pid, start time) is one process for ever.

        Start times count suspended time too, and the time namespace of who reads shifts them;
        source: proc_pid_stat(5), time_namespaces(7). A part that cannot be read is "".
        """
        boot, counted = "", []
        with suppress(UnreadableError):
            boot = self.boot_id()
        for kind in ("pid", "time"):
            with suppress(ProcessError):
                counted.append(f"{kind} {self.namespace(self.own_pid, kind)}")
        return boot, " ".join(counted)

    def pids(self) -> list[int]:
        """All processes, in the kernel's order; raises `UnreadableError` without a /proc."""
        with self._root_errors():
            return [int(name) for name in os.listdir(self.root) if name.isdecimal()]

    def children(self, parents: Collection[int]) -> list[int]:
        """Processes that one of these has forked and that go on to run the same.

        Of all others only the link is read: who hangs in execve keeps who reads his stat waiting.
        """
        links, found = set[str](), list[int]()
        for pid in parents:
            with suppress(ProcessError):  # it ended
                links.add(self.link(pid, "exe"))
        for pid in self.pids() if links else ():
            with suppress(ProcessError, MalformedError):
                if self.link(pid, "exe") in links and self.stat(pid).parent in parents:
                    found.append(pid)
        return found

    def is_process(self, pid: int) -> bool:
        """/proc also answers for threads, though it does not list them."""
        try:
            return f"\nTgid:\t{pid}\n" in self.read(pid, "status")
        except ProcessError:
            return False

    def threads(self, pid: int) -> list[int]:
        with self._errors(pid, "task"):
            return [int(name) for name in os.listdir(self.path(pid, "task"))]

    def path(self, pid: int, name: str) -> Path:
        return Path(self.at(pid, name))

    def at(self, pid: int, name: str) -> str:
        """The same as text: a `Path` takes longer to make than the system call that it is for."""
        return f"{self._prefix}{pid}/{name}"

    def link(self, pid: int, name: str) -> str:
        with self._errors(pid, name):
            return os.readlink(self.at(pid, name))

    def read(self, pid: int, name: str) -> str:
        with self._errors(pid, name):
            raw = (self._touch if name in _OF_MEMORY else self._read)(pid, name)
        if len(raw) == _most(name):
            raise UnreadableError(f"process {pid}: {name} is longer than any real one")
        if not raw and name in ("maps", "stat"):
            raise VanishedError(f"process {pid} ended")  # a zombie has no memory any more
        return raw.decode("utf-8", "surrogateescape")

    def _read(self, pid: int, name: str) -> bytes:
        with open(self.at(pid, name), "rb") as file:
            return file.read(_most(name))

    @contextmanager
    def together(self, pid: int, *names: str) -> Iterator[None]:
        """Whoever reads the first of these gets it, and each of the others will be as it was then.

        For what is read in a moment anyway: a question for each would take longer than the answers.
        """
        self._together[pid] = names
        try:
            yield
        finally:
            self._together.clear()
            self._ahead.clear()

    def _touch(self, pid: int, name: str) -> bytes:
        if (pid, name) not in self._ahead:
            names = self._together.pop(pid, ())
            names = names if name in names else (name,)
            directory = os.open(f"{self._prefix}{pid}", os.O_PATH | os.O_CLOEXEC)
            try:
                found = TOUCHER.ask(directory, _texts, names)
            finally:
                os.close(directory)
            self._ahead.update(((pid, name), text) for name, text in zip(names, found, strict=True))
        text = self._ahead.pop((pid, name))  # another look is another question
        if isinstance(text, OSError):
            raise text
        return text

    def open(self, pid: int, name: str) -> BinaryIO:
        with self._errors(pid, name):
            return open(self.at(pid, name), "rb")

    def open_mapped(self, pid: int, mapping: Mapping) -> BinaryIO | None:
        """The very file that is mapped, replaced or not; None if it is no regular one."""
        name = mapped_name(mapping)
        with self._errors(pid, name):
            return open_regular(self.path(pid, name))

    def answer(self, pid: int, name: str, read: Callable[[BinaryIO], T]) -> T | None:
        """What `read` finds in the file that a link leads to; None if it is no regular one.

        It is asked once for each file, however many processes have it. Raises as `read`.
        """
        path = self.at(pid, name)
        with self._errors(pid, name):
            key = (read, *_version(os.stat(path)))  # noqa: PTH116
        if key not in self._answers:
            with self._errors(pid, name):
                file = open_regular(Path(path))
            if file is None:
                return None
            with file:
                key = (read, *_version(os.fstat(file.fileno())))
                self._answers[key] = read(file)
        found: T = self._answers[key]
        return found

    def identity(self, pid: int) -> ProcessId:
        return ProcessId(pid, self.stat(pid).start_time)

    def stat(self, pid: int) -> Stat:
        return parse_stat(self.read(pid, "stat"))

    def age(self, pid: int) -> float:
        """Seconds since the process started."""
        try:
            uptime = float((self.root / "uptime").read_text().split()[0])
        except (OSError, ValueError, IndexError) as error:
            raise UnreadableError(f"{self.root}/uptime cannot be read: {error}") from error
        return uptime - self.stat(pid).start_time / os.sysconf("SC_CLK_TCK")

    def maps(self, pid: int) -> tuple[Mapping, ...]:
        found = parse_maps(self.read(pid, "maps"))
        self._last_maps = pid, found
        return found

    def maps_lately(self, pid: int) -> tuple[Mapping, ...]:
        """What `maps` found, if nobody else's were asked for since: for another look, not for a
        write."""
        last, found = self._last_maps
        return found if last == pid else self.maps(pid)

    def file_of(self, pid: int, name: str) -> FileId:
        """Identity of what the link `name` (exe, root, root/some/path) leads to."""
        with self._errors(pid, name):
            found = os.stat(self.at(pid, name))  # noqa: PTH116
        return FileId(found.st_dev, found.st_ino)

    def owner(self, pid: int) -> int:
        """Its effective user, also if it is not dumpable: that holds for directories only."""
        with self._errors(pid, "task"):
            return os.stat(self.at(pid, "task")).st_uid  # noqa: PTH116

    def namespace(self, pid: int, kind: str = "mnt") -> int:
        with self._errors(pid, f"ns/{kind}"):
            return os.stat(self.at(pid, f"ns/{kind}")).st_ino  # noqa: PTH116

    def is_alive(self, process: ProcessId) -> bool:
        """Whether that very process still runs; a zombie does not. In doubt it does."""
        try:
            stat = self.stat(process.pid)
        except VanishedError:
            return False
        except (UnreadableError, MalformedError):
            return True
        return stat.start_time == process.start_time and stat.state not in "ZXx"

    def is_alive_in(self, lease: Lease) -> bool | None:
        """Whether the process of a lease still runs; None if that cannot be told from here."""
        boot, namespaces = self.world
        if lease.boot and boot and lease.boot != boot:
            return False
        if lease.namespaces and lease.namespaces != namespaces:
            return None
        return self.is_alive(lease.process)

    @contextmanager
    def _root_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UnreadableError(
                f"{self.root} cannot be read: {error.strerror}",
                hint="mount it: mount -t proc proc /proc",
            ) from error

    @contextmanager
    def _errors(self, pid: int, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # a kernel thread or a zombie has no executable and no memory: ENOENT as well
            if error.errno in (errno.ENOENT, errno.ESRCH, errno.ENOTDIR):
                raise VanishedError(f"process {pid} has no {name} (any more)") from error
            raise UnreadableError(
                f"process {pid}: {name} cannot be read: {error.strerror}",
                hint="run holdover as root, with CAP_SYS_PTRACE and CAP_SYS_ADMIN",
            ) from error
