# SPDX-License-Identifier: Apache-2.0
"""A container in a throwaway root: a tree of its own, in mount and pid namespaces of its own."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from holdover.demo.root import ThrowawayRoot
from lab.bases import LabError

__all__ = ["Container", "container"]

_TREE = "/srv/container"
_FOREVER = ("sleep", "987654321")  # a name by which its init is found
_PATIENCE = 30.0  # seconds
# Links: a package manager outside replaces files, and those in here stay.
_MAKE = f"""
set -e
mkdir {_TREE}
cd {_TREE}
cp --archive --link /usr /bin /lib* /sbin .
cp --archive /etc .
mkdir -p -m 1777 tmp dev proc run srv var/lib/postgresql var/log/postgresql var/cache
for device in "null 1 3" "zero 1 5" "urandom 1 9"; do
    set -- $device
    mknod -m 666 dev/$1 c $2 $3
done
chown postgres: var/lib/postgresql var/log/postgresql
"""
_START = f'mount -t proc proc {_TREE}/proc && exec chroot {_TREE} "$@"'


class Container(ThrowawayRoot):
    """As a throwaway root, one level further in; `init` is its pid in the root around it."""

    def __init__(self, around: ThrowawayRoot, init: int) -> None:
        super().__init__(around.root / _TREE.lstrip("/"), init)
        self._around = around

    @property
    def inside(self) -> Path:
        return self._around.inside / f"proc/{self.init}/root"

    def command(self, *words: str) -> tuple[str, ...]:
        enter = ("nsenter", f"--target={self.init}", "--mount", "--pid", "--root", "--wd")
        return self._around.command(*enter, "--", *words)


@contextmanager
def container(around: ThrowawayRoot) -> Iterator[Container]:
    """One that has the same files as the root around it has now."""
    around.run("sh", "-c", _MAKE)
    namespaces = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
    command = around.command(*namespaces, "sh", "-c", _START, "sh", *_FOREVER)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield Container(around, _init(around))
        finally:
            process.kill()


def _init(around: ThrowawayRoot) -> int:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = around.run("pgrep", "--exact", "--full", " ".join(_FOREVER), check=False).stdout
        if found:
            return int(found)
        time.sleep(0.05)
    raise LabError("a container did not start")
