# SPDX-License-Identifier: Apache-2.0
"""A child of ours that touches the memory of other processes, so that a hang is the child's.

A page may lie in a file whose file system is a user's own program (FUSE; in a user namespace he
needs nobody's leave for it). Who touches it waits until that program answers, and nothing wakes
him, not even SIGKILL: a package manager would wait with us for ever. Nor does a look at the
mapping help, as it may be another one a moment later. So the child is left behind if it does not
come back, until that program ends. It has none of our files: with one it would keep our locks.

Source: proc_pid_mem(5); fs/fuse/dev.c, request_wait_answer(); unix(7), SCM_RIGHTS.
"""

import errno
import os
import signal
import struct
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from holdover.errors import SilentError, UnreadableError

if TYPE_CHECKING:
    import socket

__all__ = ["Toucher", "TOUCHER"]

PATIENCE = 10.0
"""Seconds for one answer. An honest one takes microseconds, but on a machine that is busy or swaps
some seconds, and who is passed over is not protected."""
_IN_ALL = 20.0
"""Seconds that all who do not answer may take together; then whoever is left gets `_LEAST`."""
_LEAST = 0.5
_REQUEST, _ANSWER = struct.Struct("<cqQ"), struct.Struct("<iQ")  # a file position has a sign
_READ, _WRITE, _ALL = b"r", b"w", b"a"
_PACKET = 1 << 16  # bytes; less than a socket's buffer
_FIRST_FREE = 3  # descriptor after stdin, stdout and stderr


class Toucher:
    """Starts when it is needed first.

    All raise `OSError` as the kernel does, `SilentError` if there is no answer in time, and
    `UnreadableError` if there is no child to ask.
    """

    def __init__(self) -> None:
        self._ours: socket.socket | None = None
        self._owner = 0
        self._child = 0
        self._left_behind: list[int] = []
        self._waited = 0.0

    def read(self, file: int, address: int, size: int) -> bytes:
        """Like os.pread."""
        return self._ask(_READ, file, address, size)[1]

    def write(self, file: int, address: int, data: bytes) -> int:
        """Like os.pwrite."""
        return self._ask(_WRITE, file, address, len(data), data)[0]

    def read_all(self, file: int, most: int) -> bytes:
        """What is left of the file, or `most` bytes of it."""
        return self._ask(_ALL, file, 0, most)[1]

    def _ask(
        self, what: bytes, file: int, address: int, size: int, data: bytes = b""
    ) -> tuple[int, bytes]:
        """The number and the bytes that are answered; raises `OverflowError` as os.pread does."""
        try:
            message = _REQUEST.pack(what, address, size) + data
        except struct.error as error:
            raise OverflowError(str(error)) from error
        number, answer = self._exchange(message, file)
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        return number, answer

    def _exchange(self, message: bytes, file: int) -> tuple[int, bytes]:
        started = time.monotonic()
        patience = max(_LEAST, min(PATIENCE, _IN_ALL - self._waited))
        try:
            import socket

            if self._ours is None or self._owner != os.getpid():
                self._ours = self._start()
            self._ours.settimeout(patience)
            socket.send_fds(self._ours, [message], [file])
            return _answer(self._ours)
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


def _answer(ours: "socket.socket") -> tuple[int, bytes]:
    """All has been read when the first part comes."""
    number, size = _ANSWER.unpack(_packet(ours))
    parts, length = list[bytes](), 0
    while length < size:
        ours.settimeout(PATIENCE)
        parts.append(_packet(ours))
        length += len(parts[-1])
    return number, b"".join(parts)


def _packet(ours: "socket.socket") -> bytes:
    packet = ours.recv(_PACKET)
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
    """Do what is asked until nobody is there to ask."""
    import socket

    while True:
        message, (file, *_), _, _ = socket.recv_fds(asked, _PACKET, 1)
        try:
            number, answer = _touch(message, file)
        except OSError as error:
            number, answer = -(error.errno or errno.EIO), b""
        finally:
            os.close(file)
        asked.send(_ANSWER.pack(number, len(answer)))
        for at in range(0, len(answer), _PACKET):
            asked.send(answer[at : at + _PACKET])


def _touch(message: bytes, file: int) -> tuple[int, bytes]:
    what, address, size = _REQUEST.unpack_from(message)
    if what == _WRITE:
        return os.pwrite(file, message[_REQUEST.size :], address), b""
    if what == _READ:
        return 0, os.pread(file, size, address)
    with open(file, "rb", closefd=False) as whole:
        return 0, whole.read(size)


TOUCHER = Toucher()
"""One for all of this process."""
