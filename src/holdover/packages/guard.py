# SPDX-License-Identifier: Apache-2.0
"""The shell around a hook: it succeeds whatever happens to holdover, and says when it did not run.

holdover may be missing, half-upgraded, or without a Python; most managers stop at a failing hook.
"""

import re
from pathlib import Path

from holdover.errors import UsageError

__all__ = ["guarded", "guarded_after", "command_word", "MARKER", "VETO"]

MARKER = Path("/run/holdover/transaction")
"""Exists while a transaction that touches a program is under way; the shell guard looks at it."""
VETO = 75
"""The one exit code that stops a transaction; EX_TEMPFAIL of <sysexits.h>."""
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+:-]+")  # neither a shell nor a manager reads it otherwise


def command_word(command: Path) -> str:
    """The first word of a hook's line; the rest calls `$holdover`."""
    if not _PLAIN_PATH.fullmatch(str(command)):
        raise UsageError(
            f"{command} cannot be written into the configuration of a package manager",
            hint="install holdover at a path of letters, digits and ./_+:-",
        )
    return f"holdover={command};"


def guarded(arguments: str) -> str:
    """A shell command that runs `$holdover` with these arguments, and fails for a veto only."""
    complaint = "echo holdover: $holdover did not run, live guests were not looked at >&2"
    veto = f"test $? != {VETO} || exit 1"
    return (
        f"if test -x $holdover; then $holdover {arguments} || {{ {veto}; {complaint}; }}; "
        f"else {complaint}; fi"
    )


def guarded_after(manager: str) -> str:
    """The same for the end of a transaction; it costs nothing if nothing was touched."""
    return f"test ! -e {MARKER} || {guarded(f'hook {manager} after')}"
