# SPDX-License-Identifier: Apache-2.0
"""A Debian 11 with Asterisk, and with what the upgrade to Debian 12 needs; that one has none.

So the old one stays, and runs on; the libraries of its modules are replaced.
"""

import time
from dataclasses import dataclass

from holdover.demo.archive import HOST_PACKAGES, Recipe
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress
from lab.bases import LabError
from lab.distributions import BOOKWORM, BULLSEYE, download_next
from lab.mariadb import forbid_restarts

__all__ = ["RECIPE", "Exchange"]

_PATIENCE = 60.0  # seconds until one that should answer is taken for one that never will
# all directories that it writes to are its own, and it loads nothing that is not asked for
_START = r"""
set -e
install --directory --owner=asterisk /srv/$1 /srv/$1/run
cp --archive /etc/asterisk /srv/$1/etc
cd /srv/$1
sed -i -E "s,^\[directories\].*,[directories],; s,^(astetcdir).*,\1 => $PWD/etc,; \
    s,^(astrundir).*,\1 => $PWD/run,; s,^(astlogdir|astdbdir|astspooldir).*,\1 => $PWD," \
    etc/asterisk.conf
printf '[modules]\nautoload=no\n' >etc/modules.conf
setsid asterisk -f -U asterisk -C /srv/$1/etc/asterisk.conf </dev/null >out 2>&1 &
echo $!
"""


def _fill(root: ThrowawayRoot, progress: Progress) -> None:
    forbid_restarts(root)
    progress("installing Asterisk in it")
    root.apt("install", "asterisk")
    root.apt("clean")
    download_next(root, BOOKWORM, progress)


RECIPE = Recipe("asterisk-to-bookworm", BULLSEYE, _fill, (*HOST_PACKAGES, "procps"))


@dataclass(frozen=True)
class Exchange:
    """A running one, with a configuration of its own."""

    root: ThrowawayRoot
    name: str
    pid: int
    """Inside."""

    @classmethod
    def start(cls, root: ThrowawayRoot, name: str) -> "Exchange":
        """Raises `LabError` if it does not answer."""
        made = cls(root, name, int(root.run("sh", "-c", _START, "sh", name).stdout))
        deadline = time.monotonic() + _PATIENCE
        while "fully booted" not in made.ask("core waitfullybooted"):
            if time.monotonic() > deadline:
                raise LabError(root.run("cat", f"/srv/{name}/out").stdout)
            time.sleep(0.1)
        return made

    def ask(self, command: str) -> str:
        """What its console says."""
        words = ("asterisk", "-C", f"/srv/{self.name}/etc/asterisk.conf", "-rx", command)
        done = self.root.run(*words, check=False)
        return (done.stdout + done.stderr).strip()

    def load(self, module: str) -> str:
        return self.ask(f"module load {module}.so")
