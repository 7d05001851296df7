# SPDX-License-Identifier: Apache-2.0
"""What rpm's database knows, for the managers that only name the packages they change.

Source: rpm(8), --queryformat. A query takes no lock, so it may be asked in a transaction.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from holdover.errors import CommandError, UsageError
from holdover.packages import Change
from holdover.run import run

__all__ = ["Owned", "change_of", "ask_rpm", "checked_names", "parse_answer"]

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~^-]{0,250}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Owned:
    """What the packages of some names own that are installed."""

    installed: frozenset[str]
    """Those names."""
    files: str
    """One a line."""


def change_of(names: Sequence[str]) -> Change:
    """A change of the packages of these names; raises `UsageError` as `ask_rpm` does."""
    return Change(tuple(names), ask_rpm(names).files)


def ask_rpm(names: Sequence[str]) -> Owned:
    """Raises `UsageError` for a name that no package has, or if rpm cannot be asked."""
    if not names:
        return Owned(frozenset(), "")
    what = ("--query", "--queryformat", r"%{NAME}\n[%{FILENAMES}\n]")
    try:
        done = run("rpm", *what, *checked_names(names), check=False)
    except CommandError as error:
        raise UsageError(error.message) from error
    if done.stderr.strip():  # of a package that is not installed it speaks on stdout
        raise UsageError(f"rpm does not say what is owned: {done.stderr.strip()[:200]}")
    return parse_answer(names, done.stdout)


def checked_names(names: Sequence[str]) -> Sequence[str]:
    """The same; raises `UsageError` for one that no package has."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"this is no name of a package: {name[:100]!r}")
    return names


def parse_answer(names: Sequence[str], answer: str) -> Owned:
    """Each installed package's name and files; "package NAME is not installed" for another."""
    asked, lines = frozenset(names), answer.split("\n")
    files = "".join(f"{line}\n" for line in lines if line.startswith("/"))
    return Owned(asked.intersection(lines), files)
