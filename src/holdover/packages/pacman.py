# SPDX-License-Identifier: Apache-2.0
"""pacman: two hooks of its library, which itself decides whether a transaction concerns us.

A trigger of type Path matches what the outgoing or the incoming packages own, and NeedsTargets
gives these paths on stdin, without the leading slash. AbortOnFail makes a hook that fails stop the
transaction before anything is changed.

Source: alpm-hooks(5), hook.c; seen with pacman 6.0.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from holdover.errors import UsageError
from holdover.packages import Change
from holdover.packages.adapter import HookFile
from holdover.packages.guard import command_word, guarded, guarded_after
from holdover.programs import Program, our_programs

__all__ = ["is_here", "hook_files", "read_change"]

_PROGRAM = Path("/usr/bin/pacman")
_HOOKS = Path("/usr/share/libalpm/hooks")  # always read, whatever HookDir says
_LIBRARIES = ("usr/lib/*.so", "usr/lib/*.so.*")
_HOOK = """\
# Written by `holdover enable`, removed by `holdover disable`.
# Whatever happens to holdover, it succeeds; only a veto stops the transaction.
[Trigger]
Operation = Install
Operation = Upgrade
Operation = Remove
Type = Path
{targets}
[Action]
Description = {description}
When = {when}Transaction
Exec = /bin/sh -c '{script}; true'
{options}"""


def is_here() -> bool:
    return _PROGRAM.exists()


def hook_files(command: Path, programs: Iterable[Program] | None = None) -> tuple[HookFile, ...]:
    """They are run in the order of their names: first of all before, last of all after."""
    chosen = our_programs() if programs is None else programs
    executables = [path.lstrip("/") for program in chosen for path in program.installed]
    targets = "".join(f"Target = {path}\n" for path in (*_LIBRARIES, *executables))
    word = command_word(command)
    before = _HOOK.format(
        targets=targets,
        description="Holding what live processes may still load...",
        when="Pre",
        script=f"{word} {guarded('hook pacman before $PPID')}",
        options="NeedsTargets\nAbortOnFail\n",
    )
    after = _HOOK.format(
        targets=targets,
        description="Letting go of what no process needs any more...",
        when="Post",
        script=f"{word} {guarded_after('pacman')}",
        options="",
    )
    return (
        HookFile(_HOOKS / "00-holdover-before.hook", before),
        HookFile(_HOOKS / "zz-holdover-after.hook", after),
    )


def read_change(_: Sequence[str], listing: bytes) -> Change:
    """Paths without their leading slash, one a line."""
    text = listing.decode("utf-8", "surrogateescape").removesuffix("\n")
    if re.search(r"(?m)^$", text):
        raise UsageError("a line of pacman's list is empty")
    return Change((), re.sub(r"(?m)^/*", "/", text) + "\n")
