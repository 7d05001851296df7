# SPDX-License-Identifier: Apache-2.0
"""What the next boot removes of a holdover that let go of a machine.

The boot ends the processes that needed it, and nobody is there to collect. Where systemd-tmpfiles
is, it does it: lines with "!" are for boots only, "R" removes a tree, "r" a file; tmpfiles.d(5).
"""

import re
from collections.abc import Collection
from pathlib import Path

from holdover.durable import write_atomically
from holdover.store import Store

__all__ = ["BootCleanup", "doomed"]

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+:-]+")  # no pattern, no specifier, nothing to quote
_HEAD = """\
# Written by `holdover disable --release`, removed by `holdover enable`.
# Processes needed what is named here. The next boot ends them; then it goes, with this file.
"""


class BootCleanup:
    """The file that says so; below `root`, for tests."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._shipped = root / "usr/lib/tmpfiles.d"
        self.path = root / "etc/tmpfiles.d/holdover-left.conf"

    def write(self, paths: Collection[Path]) -> bool:
        """Have the next boot remove these; False if nobody here would do it."""
        if not self._shipped.is_dir() or not all(_PLAIN_PATH.fullmatch(str(p)) for p in paths):
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"R! {path}\n" for path in paths]
        write_atomically(self.path, "".join([_HEAD, *lines, f"r! {self.path}\n"]))
        return True

    def forget(self) -> None:
        """There is nothing to remove, or holdover is back and collects itself."""
        self.path.unlink(missing_ok=True)


def doomed(store: Store, snapshots: Collection[str], *, others: bool) -> list[Path]:
    """What to remove when nobody needs the snapshots any more.

    The store whole, unless there are `others` in it, or it is a directory of another name: then it
    may be somebody's `/srv`.
    """
    if not others and store.objects.name == store.state.name == "holdover":
        return [store.objects, store.state]
    manifests = store.state / "snapshot"
    return [path for name in snapshots for path in (store.views / name, manifests / f"{name}.json")]
