# SPDX-License-Identifier: Apache-2.0
"""What /proc says of a process, what lies in its memory, and what it writes and answers."""

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from lab.between import touch_here

from fuzz.target import MIB, QEMU, Target, text_of, workplace
from holdover.complaints import Said, failed_load, of_this_run
from holdover.environ import (
    Layout,
    LiveEnvironment,
    changed_since,
    entry_values,
    read_again,
    read_values,
    room_needed,
)
from holdover.errors import (
    MalformedError,
    ProcessError,
    RefusedError,
    UnreadableError,
    UnsupportedError,
)
from holdover.lateloads import LateLoads
from holdover.loaded import _auxiliary, mapped_objects
from holdover.loaderlog import last_words, parse_loads
from holdover.memory import Memory
from holdover.monitors import qmp_sockets
from holdover.mounts import parse_mountinfo, sharing_refusal, view_on
from holdover.procfs import ProcFs, mapped_name, parse_maps
from holdover.qmp import Monitor
from holdover.stderr import _mount_of
from holdover.steps.deliver.preload import complaint_of
from holdover.variables import continued, read_name

__all__ = ["TARGETS"]

_VIEWS = Path("/usr/lib/holdover/view")
_PID = 1
_ENVIRON_AT = 0
"""Address of the pointer to the environment in the memory of a process."""


def _proc(name: str, data: bytes) -> ProcFs:
    """A /proc with one process, of which one file has that content."""
    root = workplace("proc")
    (root / str(_PID)).mkdir(exist_ok=True)
    (root / str(_PID) / name).write_bytes(data)
    return ProcFs(root)


def _maps(data: bytes) -> None:
    for mapping, _ in mapped_objects(parse_maps(data.decode("utf-8", "surrogateescape"))):
        mapped_name(mapping)


def _stat(data: bytes) -> None:
    _proc("stat", data).stat(_PID)


def _mountinfo(data: bytes) -> None:
    mounts = parse_mountinfo(data.decode("utf-8", "surrogateescape"))
    for mount in mounts[:20]:
        view_on(mount, _VIEWS)
        sharing_refusal(mount, mounts[:20])


def _environ(data: bytes) -> None:
    LateLoads(_proc("environ", data)).library_path(_PID)


def _command_line(data: bytes) -> None:
    text = _proc("cmdline", data).read(_PID, "cmdline")
    qmp_sockets(text.split("\0"))
    QEMU.guest_name(b"\0" + text.encode("utf-8", "surrogateescape"))


def _executable(data: bytes) -> None:
    QEMU.runs(data.decode("utf-8", "surrogateescape"))
    QEMU.is_module(data.decode("utf-8", "surrogateescape"))


def _status(data: bytes) -> None:
    _proc("status", data).is_process(_PID)


def _uptime(data: bytes) -> None:
    _proc("stat", b"1 (x) S 0 " + b"1 " * 60)
    (workplace("proc") / "uptime").write_bytes(data)
    ProcFs(workplace("proc")).age(_PID)


def _memory(data: bytes) -> None:
    """An environment, as it lies in the memory of who made it what he likes."""
    proc = _proc("mem", data)
    layout = Layout.__new__(Layout)  # where it is was found out by another target
    layout.pointer = _ENVIRON_AT
    with pytest.MonkeyPatch.context() as patch, Memory(proc, _PID) as memory:
        touch_here(patch)
        live = read_again(memory, layout)
        entry_values(memory, live, "QEMU_MODULE_DIR")
        read_values(memory, layout, "QEMU_MODULE_DIR")
        changed_since(memory, LiveEnvironment(live.array, live.entries[1:]))
        room_needed(len(live.entries), "QEMU_MODULE_DIR", "/x")


_DIRECTORY = re.compile(rb"/[^\x00]+")


def _name(data: bytes) -> None:
    """Of a module directory, as it lies in the memory of who made it what he likes."""
    with pytest.MonkeyPatch.context() as patch, Memory(_proc("mem", data), _PID) as memory:
        touch_here(patch)
        for pointer in (True, False):
            with suppress(UnsupportedError, MalformedError):
                name = memory.ask(read_name, 0, len(data), _DIRECTORY, pointer)
                continued(name, "/", _VIEWS)


def _log(data: bytes) -> None:
    if QEMU.poison is None:
        return
    failed_load(Said(data, own=True), QEMU.poison)
    QEMU.poison.concerns(text_of(data[:100]))
    text = of_this_run(data, QEMU.logs, 1.7e9)
    failed_load(Said(text or b"", own=False, missing="x"), QEMU.poison)


def _loader_log(data: bytes) -> None:
    parse_loads(text_of(data), "/v", QEMU.complaint)
    last_words(text_of(data))


# -- monitors --------------------------------------------------------------------------------------

_PATIENCE = 0.3
"""Seconds; who answers nonsense is not asked anything more."""
_COMMAND = {"execute": "qom-list-types"}


@contextmanager
def _answering(data: bytes) -> Iterator[Path]:
    """A socket on which this very process says that to who connects, and hangs up."""
    path = workplace("qmp") / f"{os.getpid()}.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(1)
        thread = threading.Thread(target=_say, args=(server, data))
        thread.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX) as last, _broken():
                last.connect(str(path))  # nobody came: it still waits
            thread.join()


@contextmanager
def _broken() -> Iterator[None]:
    try:
        yield
    except OSError:
        return


def _say(server: socket.socket, data: bytes) -> None:
    """The first line at once, one more for each command, all that is left behind the second."""
    first, *lines = data.split(b"\n", 2)
    connection, _ = server.accept()
    with connection, _broken():
        connection.settimeout(_PATIENCE)
        connection.sendall(first + b"\n" * bool(lines))
        for line in lines:
            if not connection.recv(65536):
                return
            connection.sendall(line + b"\n")
        with _broken():
            connection.recv(65536)  # an answer counts only if nobody hangs up at once
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def _monitor(data: bytes) -> None:
    with _answering(data) as path:
        monitor = Monitor(path, os.getpid(), 5.0)
        monitor.open()
        try:
            monitor.ask(_COMMAND)
        finally:
            monitor.close()


def _fdinfo(data: bytes) -> None:
    _mount_of(_proc("fdinfo", data).read(_PID, "fdinfo"))


_PROCESS = (ProcessError, MalformedError)
_WORDS = "8 MiB (/proc text)"
_TEXT = 72 * MIB
"""The buffer that a text of the kernel's is read into has room for the longest."""
TARGETS = {
    "proc-maps": Target(_maps, (MalformedError,)),
    "proc-stat": Target(_stat, _PROCESS, fixed=_TEXT),
    "proc-mountinfo": Target(_mountinfo, (MalformedError,)),
    "proc-environ": Target(_environ, _PROCESS, _WORDS, fixed=16 * MIB),
    "proc-cmdline": Target(_command_line, _PROCESS, _WORDS, fixed=16 * MIB),
    "proc-exe": Target(_executable, (), "4 KiB (PATH_MAX)"),
    "proc-status": Target(_status, _PROCESS, fixed=_TEXT),
    "proc-uptime": Target(_uptime, _PROCESS, "the kernel's own text", fixed=_TEXT),
    "proc-fdinfo": Target(_fdinfo, _PROCESS, fixed=_TEXT),
    "proc-auxv": Target(lambda data: _auxiliary(_proc("auxv", data), _PID), (), "4 KiB"),
    "proc-mem": Target(_memory, _PROCESS, "65536 pointers, 32 MiB of text", fixed=96 * MIB),
    "proc-name": Target(_name, _PROCESS, "64 KiB"),
    "stderr": Target(_log, (UnreadableError,), "2 MiB, its end"),
    "loader-log": Target(_loader_log, (), "16 MiB, its beginning"),
    "qmp": Target(
        *(_monitor, (RefusedError,), "10 MiB an answer, 10 s"),
        fixed=48 * MIB,
        trials=20,
        swells=False,  # it takes what comes in its time, as another test shows
    ),
    "virsh": Target(lambda data: complaint_of(text_of(data)), (RefusedError,), "what virsh prints"),
}
