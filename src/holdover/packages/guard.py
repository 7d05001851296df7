# SPDX-License-Identifier: Apache-2.0
"""The shell around a hook: it succeeds whatever happens to holdover, and says when it did not run.

holdover may be missing, half-upgraded, or without a Python; most managers stop at a failing hook.
"""

import re
from pathlib import Path

from holdover.errors import UsageError

__all__ = [
    "guarded",
    "guarded_without_list",
    "guarded_after",
    "having_asked",
    "unless_asked",
    "unless_asked_above",
    "command_word",
    "MARKER",
    "VETO",
]

MARKER = Path("/run/holdover/transaction")
"""Exists while a transaction that touches a program is under way; the shell guard looks at it."""
ASKED = Path("/run/holdover/asked")
"""Names the manager that called holdover last and changes files by way of another one (rpm's
library, dpkg), which need not call it again. Pid and start time, so that it never speaks for
anybody else."""
VETO = 75
"""The one exit code that stops a transaction; EX_TEMPFAIL of <sysexits.h>."""
# proc(5), stat: a program's name may hold anything; the start time is the 20th field after it
_IDENTIFY = "read -r stat </proc/{}/stat && set -- ${{stat##*) }}"
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


def guarded_without_list(manager: str) -> str:
    """The same before a transaction of which nothing is told: stdin is the operator's terminal, or
    his answers to the manager's questions, and not for us to read.
    """
    return guarded(f"hook {manager} before $PPID </dev/null")


def guarded_after(manager: str) -> str:
    """The same for the end of a transaction; it costs nothing if nothing was touched."""
    return f"test ! -e {MARKER} || {guarded(f'hook {manager} after')}"


def having_asked(text: str) -> str:
    """The same for a manager that drives rpm or dpkg: `text`, then a note for `unless_asked`."""
    made = f"{{ test -d {ASKED.parent} || mkdir -p {ASKED.parent}; }}"
    note = f"{made} && {_IDENTIFY.format('$PPID')} && echo $PPID ${{20}} >{ASKED}"
    return f"{text}; ({note})"


def unless_asked(text: str) -> str:
    """Run `text` unless the process above, or libzypp above that, has called for itself.

    Starts no process to find out.
    """
    same = f'{_IDENTIFY.format("$pid")} && test "$asked" = "$pid ${{20}}" && exit'
    asked = f"read -r asked <{ASKED} && for pid in $PPID $ZYPP_IS_RUNNING; do {same}; done; exit 1"
    return f"({asked}) 2>/dev/null || {{ {text}; }}"


def unless_asked_above(condition: str, text: str) -> str:
    """Run `text` unless `condition` is true and some process above this one has called.

    Starts no process to find out.
    """
    above = (
        f'{_IDENTIFY.format("$pid")} || exit 1; test "$asked" != "$pid ${{20}}" || exit 0; pid=$2'
    )
    walk = f'pid=$PPID; while test "$pid" -gt 1; do {above}; done; exit 1'
    return f"({condition} && read -r asked <{ASKED} && {{ {walk}; }}) 2>/dev/null || {text}"
