# SPDX-License-Identifier: Apache-2.0
"""A Debian 12 with a MariaDB server of which the archive has two builds; the older one installed.

`policy-rc.d` forbids to stop or start any service: it is what an operator sets who cannot restart
his server now. The newer build lies in apt's cache, so that the update needs no network.
"""

import time
from dataclasses import dataclass
from subprocess import CompletedProcess

from holdover.demo.archive import HOST_PACKAGES, RELEASE, Recipe, builds
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress
from lab.bases import LabError

__all__ = ["PACKAGES", "RECIPE", "Server", "forbid_restarts"]

PACKAGES = (
    *("mariadb-server", "mariadb-server-core", "mariadb-client", "mariadb-client-core"),
    *("mariadb-common", "libmariadb3"),
)
"""What a point update changes."""
_PATIENCE = 60.0  # seconds until a server that should answer is taken for one that never will
_FORBID = r"printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d; chmod 755 /usr/sbin/policy-rc.d"
_START = """
install --directory --owner=mysql /run/mysqld
setsid mariadbd --user=mysql --skip-networking </dev/null >/tmp/mariadbd.log 2>&1 &
"""


def forbid_restarts(root: ThrowawayRoot) -> None:
    """What an operator sets before an update that is to restart nothing."""
    root.run("sh", "-c", _FORBID)


def _fill(root: ThrowawayRoot, progress: Progress) -> None:
    older, newer = builds(root, PACKAGES[0])
    forbid_restarts(root)
    progress(f"installing MariaDB {older} in it")
    root.apt("install", *(f"{package}={older}" for package in PACKAGES))
    progress(f"downloading MariaDB {newer} for later")
    root.apt("install", "--download-only", *(f"{package}={newer}" for package in PACKAGES))


# binutils: what docs/adding-a-program.md looks for the keys of a definition with
RECIPE = Recipe("mariadb", RELEASE, _fill, (*HOST_PACKAGES, "procps", "binutils"))


@dataclass(frozen=True)
class Server:
    """A running one."""

    root: ThrowawayRoot
    pid: int
    """Inside."""

    @classmethod
    def start(cls, root: ThrowawayRoot) -> "Server":
        """Raises `LabError` if it does not answer."""
        root.run("sh", "-c", _START)
        deadline = time.monotonic() + _PATIENCE
        while root.run("mariadb-admin", "ping", check=False).returncode != 0:
            if time.monotonic() > deadline:
                raise LabError(root.run("cat", "/tmp/mariadbd.log").stdout)
            time.sleep(0.1)
        return cls(root, int(root.run("pidof", "mariadbd").stdout))

    def ask(self, statement: str, *options: str) -> str:
        """What it answers, or the error that it tells."""
        words = ("mariadb", "--skip-column-names", "--batch", *options, "--execute", statement)
        done = self.root.run(*words, check=False)
        return (done.stdout + done.stderr).strip()

    def update(self) -> CompletedProcess[str]:
        """A real apt transaction to the newer build."""
        newer = builds(self.root, PACKAGES[0])[1]
        return self.root.apt("install", *(f"{package}={newer}" for package in PACKAGES))

    @property
    def lives(self) -> bool:
        return self.root.run("pidof", "mariadbd", check=False).stdout.split() == [str(self.pid)]
