# SPDX-License-Identifier: Apache-2.0
"""A child of ours that enters mount namespaces, one after another, and mounts there.

setns moves who calls it for good, and is refused to a process with threads: so it takes a child.
To fork one takes as long as all the rest of a delivery, so one serves all. It ends with us, however
we end: it listens to a socket of which we have the other end.

Source: setns(2), unix(7) SCM_RIGHTS.
"""

import os
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from holdover import linux
from holdover.errors import RefusedError

if TYPE_CHECKING:
    import socket

__all__ = ["Helper"]

_PATIENCE = 1.0  # seconds
_MOST = 4096  # bytes of a message: a name has 255
_ATTACH, _UNMOUNT, _DONE = b"attach", b"unmount", b"done"


class Helper:
    """Starts when it is needed first. Everything raises `RefusedError` with what it met."""

    def __init__(self) -> None:
        self._ours: socket.socket | None = None
        self._child = 0

    def attach(self, namespace: int, tree: int, target: int) -> None:
        """In the mount namespace, mount the detached `tree` on the directory `target`."""
        self._ask(_ATTACH, namespace, target, tree)

    def unmount(self, namespace: int, parent: int, name: str, count: int) -> None:
        """There, take away the `count` topmost mounts on `name` in the directory `parent`."""
        self._ask(b"%s %d %s" % (_UNMOUNT, count, os.fsencode(name)), namespace, parent)

    def close(self) -> None:
        """The child ends; one that the kernel keeps is not waited for."""
        if self._ours is None:
            return
        self._ours.close()
        self._ours = None
        deadline = time.monotonic() + _PATIENCE
        while not os.waitpid(self._child, os.WNOHANG)[0]:
            if time.monotonic() > deadline:
                os.kill(self._child, signal.SIGKILL)
                return
            time.sleep(0.001)

    def _ask(self, message: bytes, *descriptors: int) -> None:
        import socket

        if self._ours is None:
            self._ours = self._start()
        try:
            socket.send_fds(self._ours, [message], descriptors)
            answer = self._ours.recv(_MOST)
        except OSError as error:
            answer = str(error).encode()
        except BaseException:  # a hook's time is over: what the child still answers is for nobody
            self.close()
            raise
        if answer != _DONE:
            reason = answer.decode("utf-8", "replace") or "the child died"
            self.close()  # the next one is asked of another
            raise RefusedError(f"the kernel refused the mount: {reason}")

    def _start(self) -> "socket.socket":
        import socket

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._child = os.fork()
        if self._child == 0:
            with suppress(BaseException):  # whatever it is: none of our code runs on in the child
                ours.close()
                _serve(theirs)
            os._exit(0)
        theirs.close()
        return ours


def _serve(asked: "socket.socket") -> None:
    """Do what is asked until nobody is there to ask."""
    import socket

    while True:
        message, descriptors, _, _ = socket.recv_fds(asked, _MOST, 3)
        if not message:
            return
        try:
            _carry_out(message, descriptors)
            answer = _DONE
        except OSError as error:
            answer = str(error).encode("utf-8", "replace")[:_MOST]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        asked.send(answer)


def _carry_out(message: bytes, descriptors: list[int]) -> None:
    namespace, directory, *tree = descriptors
    linux.enter_mount_namespace(namespace)
    if message == _ATTACH:
        linux.attach(tree[0], directory)
        return
    _, count, name = message.split(b" ", 2)
    os.fchdir(directory)
    for _ in range(int(count)):
        linux.unmount(os.fsdecode(name))
