# SPDX-License-Identifier: Apache-2.0
"""dnf 4: a plugin, which runs inside dnf and dnf's own Python, and only starts a shell.

`pre_transaction` is called when all packages are downloaded and all checks are passed, right before
librpm changes anything; `dnf.exceptions.Error` stops dnf there, and any other exception would be
logged. `transaction` is called after a transaction that succeeded: after another one the marker
stays, and the next hook makes good.

Where dnf looks for plugins is a constant of its package: beside the package itself, one for each
Python (dnf/const.py, PLUGINPATH).

Source: dnf-plugins(8), dnf/plugin.py, Base.do_transaction() in dnf/base.py; seen with dnf 4.14.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from holdover.errors import UsageError
from holdover.packages import Change
from holdover.packages.adapter import HookFile
from holdover.packages.guard import command_word, guarded, guarded_after, having_asked
from holdover.packages.rpmdb import change_of

__all__ = ["is_here", "hook_files", "read_change", "parse_names"]

_PYTHONS = ("usr/lib/python3*/site-packages", "usr/lib/python3*/dist-packages")
_PLUGIN = '''\
# Written by `holdover enable`, removed by `holdover disable`.
# Runs inside dnf, with Python 3.6 or later. Whatever happens to holdover, dnf goes on; the one
# exception is a veto, which the operator has to ask for.
import os
import subprocess
import sys

import dnf

BEFORE = {before!r}
AFTER = {after!r}


def call(script, listing=""):
    try:
        shell = ["/bin/sh", "-c", script]
        process = subprocess.Popen(shell, stdin=subprocess.PIPE, universal_newlines=True)
        process.communicate(listing)
        return process.returncode
    except Exception as error:
        sys.stderr.write("holdover: live guests were not looked at: %r\\n" % error)
        return 0


class Holdover(dnf.Plugin):
    name = "holdover"

    def pre_transaction(self):
        if self.is_for_this_system() and call(BEFORE, self.names()) == 1:
            raise dnf.exceptions.Error("holdover stops the transaction: hook.veto is set")

    def transaction(self):
        if self.is_for_this_system():
            call(AFTER)

    def is_for_this_system(self):
        changes = self.base.transaction  # none if only groups or modules change
        return bool(changes) and os.path.realpath(self.base.conf.installroot) == "/"

    def names(self):
        """Of packages that come or go; without them, everything is protected."""
        try:
            changes = self.base.transaction
            packages = set(changes.install_set) | set(changes.remove_set)
            return "".join(sorted({{package.name + "\\n" for package in packages}}))
        except Exception as error:
            sys.stderr.write("holdover: dnf does not say what it changes: %r\\n" % error)
            return ""
'''


def is_here() -> bool:
    return any(_plugin_directories())


def hook_files(command: Path, root: Path = Path("/")) -> tuple[HookFile, ...]:
    word = command_word(command)
    before = f"{word} {having_asked(guarded('hook dnf4 before $PPID'))}; true"
    text = _PLUGIN.format(before=before, after=f"{word} {guarded_after('dnf4')}; true")
    return tuple(HookFile(path / "holdover.py", text) for path in _plugin_directories(root))


def _plugin_directories(root: Path = Path("/")) -> Iterator[Path]:
    """Of each Python that has dnf, or had it when the plugin was written."""
    for python in sorted(path for pattern in _PYTHONS for path in root.glob(pattern)):
        directory = python / "dnf-plugins"
        if (python / "dnf/plugin.py").exists() or (directory / "holdover.py").exists():
            yield directory


def read_change(_: Sequence[str], listing: bytes) -> Change:
    return change_of(parse_names(listing))


def parse_names(listing: bytes) -> tuple[str, ...]:
    """Names of packages, one a line; raises `UsageError` if there are none."""
    names = tuple(listing.decode("utf-8", "replace").split())
    if not names:
        raise UsageError("dnf names no package")
    return names
