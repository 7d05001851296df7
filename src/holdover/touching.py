# SPDX-License-Identifier: Apache-2.0
"""A child of ours that touches the memory of other processes, so that a hang is the child's.

A page may lie in a file whose file system is a user's own program (FUSE; in a user namespace he
needs nobody's leave for it). Who touches it waits until that program answers, and nothing wakes
him, not even SIGKILL: a package manager would wait with us for ever. Nor does a look at the
mapping help, as it may be another one a moment later. So the child is left behind if it does not
come back, until that program ends. It has none of our files: with one it would keep our locks.

It is a fork and has our code, so it is asked by the name of a function, and an answer is whatever
that returns. Most of what a question takes is the change from one process to the other and back.

Source: proc_pid_mem(5); fs/fuse/dev.c, request_wait_answer(); unix(7), SCM_RIGHTS.
"""

import os
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

from holdover.errors import SilentError, UnreadableError

if TYPE_CHECKING:
    import socket

__all__ = ["TOUCHER", "Toucher", "time_taken"]

PATIENCE = 10.0
"""Seconds for one answer. An honest one takes microseconds, but on a machine that is busy or swaps
some seconds, and who is passed over is not protected."""
_IN_ALL = 20.0
"""Seconds that all who do not answer may take together; then whoever is left gets `_LEAST`."""
_LEAST = 0.5
_SIZE = struct.Struct("<Q")  # what a message begins with: the bytes that follow
_PACKET = 1 << 16  # bytes; less than a socket's buffer
_FIRST_FREE = 3  # descriptor after stdin, stdout and stderr
A = TypeVarTuple("A")
T = TypeVar("T")


class Toucher:
    """Starts when it is needed first."""

    def __init__(self) -> None:
        self.took = 0.0
        """Seconds of processor time that all answers took."""
        self._ours: socket.socket | None = None
        self._owner = 0
        self._child = 0
        self._left_behind: list[int] = []
        self._waited = 0.0

    def ask(self, file: int, question: Callable[[int, *A], T], *arguments: *A) -> T:
        """What `question`, a function of a module, returns in the child when it has the file.

        All that is wanted at one moment should be one question. Raises what that raises,
        `SilentError` if there is no answer in time, `UnreadableError` if there is no child to ask.
        """
        import pickle

        message = pickle.dumps((question, arguments))
        answer = self._exchange(message, file)
        found: T
        took, found, error = pickle.loads(answer)  # noqa: S301 - it comes from ourselves
        self.took += took
        if error is not None:
            raise error
        return found

    def _exchange(self, message: bytes, file: int) -> bytes:
        started = time.monotonic()
        patience = max(_LEAST, min(PATIENCE, _IN_ALL - self._waited))
        try:
            if self._ours is None or self._owner != os.getpid():
                self._ours = self._start()
            self._ours.settimeout(patience)
            _send(self._ours, message, file)
            return _receive(self._ours)[0]
        except TimeoutError:
            self._waited += time.monotonic() - started
            self._leave_behind()
            raise SilentError("its memory does not answer", self._child) from None
        except OSError as error:  # it was killed, or there can be none
            self._leave_behind()
            raise UnreadableError(f"its memory cannot be looked at: {error}") from error
        except BaseException:
            self._leave_behind()  # what it still says would be taken for the next answer
            raise

    def _leave_behind(self) -> None:
        if self._ours is not None:
            self._ours.close()
            self._ours = None
            with suppress(ProcessLookupError):
                os.kill(self._child, signal.SIGKILL)
            self._left_behind.append(self._child)

    def _start(self) -> "socket.socket":
        import socket

        self._reap()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._owner = os.getpid()
        self._child = os.fork()
        if self._child == 0:
            with suppress(BaseException):  # whatever it is: none of our code runs on in the child
                _serve(_alone(theirs))
            os._exit(0)
        theirs.close()
        return ours

    def _reap(self) -> None:
        """Those left behind that came back."""
        if self._owner != os.getpid():
            self._left_behind.clear()  # they are our parent's
        for child in tuple(self._left_behind):
            if os.waitpid(child, os.WNOHANG)[0]:
                self._left_behind.remove(child)


def _send(to: "socket.socket", message: bytes, *files: int) -> None:
    import socket

    content, at = memoryview(message), _PACKET - _SIZE.size
    socket.send_fds(to, [_SIZE.pack(len(message)), content[:at]], files)
    for start in range(at, len(message), _PACKET):
        to.send(content[start : start + _PACKET])


def _receive(ours: "socket.socket") -> tuple[bytes, list[int]]:
    """A message and its files. The rest of it is there as soon as its first packet is."""
    import socket

    first, files, _, _ = socket.recv_fds(ours, _PACKET, 1)
    (missing,) = _SIZE.unpack_from(_existing(first))
    parts = [first[_SIZE.size :]]
    missing -= len(parts[0])
    while missing:
        parts.append(_existing(ours.recv(_PACKET)))
        missing -= len(parts[-1])
    return b"".join(parts), files


def _existing(packet: bytes) -> bytes:
    if not packet:
        raise ConnectionResetError("the child died")
    return packet


# -- in the child ----------------------------------------------------------------------------------


def _alone(asked: "socket.socket") -> "socket.socket":
    """Without any other file of ours: what reads the other end of a pipe would wait for us too."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(_FIRST_FREE):
        os.dup2(nowhere, standard)
    kept = (*range(_FIRST_FREE), asked.fileno())
    for file in set(map(int, os.listdir("/proc/self/fd"))) - set(kept):
        with suppress(OSError):  # that of the listing is closed already
            os.close(file)
    return asked


def _serve(asked: "socket.socket") -> None:
    """Answer until nobody is there to ask."""
    import pickle

    while True:
        message, (file,) = _receive(asked)
        began, found, failed = time.process_time(), None, None
        try:
            question, arguments = pickle.loads(message)  # noqa: S301 - it comes from ourselves
            found = question(file, *arguments)
        except Exception as error:
            failed = error
        os.close(file)
        _send(asked, pickle.dumps((time.process_time() - began, found, failed)))


TOUCHER = Toucher()
"""One for all of this process."""


def time_taken() -> float:
    """Seconds of processor time: ours, and the child's for what it was asked."""
    return time.process_time() + TOUCHER.took
