# SPDX-License-Identifier: Apache-2.0
"""Speak QMP to a process through its own socket; by the library qemu.qmp, imported only here.

What answers is hostile input: it has to be the very process that was meant, one answer is 10 MiB at
most (the library's limit), events are dropped, and all of it has to come in time.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from holdover.errors import BudgetError, RefusedError

__all__ = ["Monitor", "Command"]

Command = Mapping[str, Any]
"""`execute`, and `arguments` if it takes any."""
T = TypeVar("T")
_PARTING = 1.0  # seconds for each step of taking leave


class Monitor:
    """A session with the QMP server of one process: `open`, `ask`, `close`. Takes `seconds` in all.

    Raises `RefusedError`: the library is missing, nobody answers, or it is somebody else.
    """

    def __init__(self, path: Path, pid: int, seconds: float) -> None:
        try:
            from qemu.qmp import QMPClient
        except ImportError as error:
            raise RefusedError(
                "the Python package qemu.qmp is not installed", hint="pip install qemu.qmp"
            ) from error
        for told_by_us in ("qemu.qmp", "asyncio"):
            logging.getLogger(told_by_us).setLevel(logging.CRITICAL)
        self._path = path
        self._pid = pid
        self._seconds = seconds

        class Client(QMPClient):
            """What was read at once is not worked off at once: the clock has its turn."""

            async def _on_message(self, msg: Any) -> None:
                await asyncio.sleep(0)
                await super()._on_message(msg)

        self._client = Client("holdover")
        self._client.events.event_filter = lambda _: False

    def open(self) -> None:
        connection = _connect(self._path, self._pid, self._seconds)
        self._loop = asyncio.new_event_loop()
        self._deadline = self._loop.time() + self._seconds
        try:
            self._wait(self._client.connect(connection))
        except BaseException:
            self.close()
            connection.close()
            raise

    def close(self) -> None:
        with suppress(Exception):  # it hung up first, or hangs
            self._within(self._client.disconnect(), _PARTING)
        if left := asyncio.all_tasks(self._loop):
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.wait(left, timeout=_PARTING))
        self._loop.close()

    def ask(self, command: Command) -> str:
        """What the process says against a command; "" if it carried it out."""
        from qemu.qmp import ExecuteError

        arguments = dict(command.get("arguments", {}))
        try:
            self._wait(self._client.execute(command["execute"], arguments))
        except ExecuteError as error:
            return str(error) or "it failed"
        return ""

    def _wait(self, answer: Coroutine[Any, Any, T]) -> T:
        from qemu.qmp import ExecuteError

        left = max(0.0, self._deadline - self._loop.time())
        try:
            return self._within(answer, left)
        except TimeoutError as error:
            text = f"its monitor does not answer within {self._seconds:.0f} s"
            raise RefusedError(text, hint="another client may be connected to it") from error
        except (ExecuteError, BudgetError):
            raise
        except Exception as error:  # the library asserts that nobody hangs up in the wrong moment
            raise RefusedError(f"its monitor makes no sense: {error!r:.200}") from error

    def _within(self, answer: Coroutine[Any, Any, T], seconds: float) -> T:
        """`asyncio.wait_for` would wait for ever for a task that does not let itself be stopped."""
        task = self._loop.create_task(answer)
        self._loop.run_until_complete(asyncio.wait([task], timeout=seconds))
        if not task.done():
            task.cancel()
            raise TimeoutError
        return task.result()


def _connect(path: Path, pid: int, seconds: float) -> socket.socket:
    """A connection of which the other end is that process.

    The kernel remembers who called listen(2), and tells it as our pid namespace counts (0 if it is
    not to be seen from here); source: unix(7). What others opened for it, as libvirt does, is
    theirs. A path in /proc may be longer than an address can be, hence the descriptor.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(seconds)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{directory}/{path.name}")
        finally:
            os.close(directory)
        size = struct.calcsize("3i")
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        listener = struct.unpack("3i", peer)[0]
        if listener != pid:
            raise RefusedError(f"its monitor is served by process {listener}, not by itself")
        connection.setblocking(False)
    except OSError as error:
        connection.close()
        raise RefusedError(f"its monitor cannot be reached: {error.strerror or error}") from error
    except RefusedError:
        connection.close()
        raise
    return connection
