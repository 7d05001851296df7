# SPDX-License-Identifier: Apache-2.0
"""rpm, and everything that uses its library: file triggers, which only a package can carry.

So `holdover enable` has nothing to write; holdover's own rpm package contains `spec_fragment`.
Where holdover came without it, `rpm` itself calls nobody, while dnf and zypper are served by hook
files of their own; there is no other way into a transaction of rpm but a plugin in C.

- %transfiletriggerun runs once, after all checks and before the first file is replaced, if the
  outgoing packages own files below one of the prefixes; these come on stdin. What a *new* package
  brings does not matter then: it may not overwrite what an installed one owns.
- %transfiletriggerin runs once at the end if something came, %transfiletriggerpostun if something
  went.
- When holdover's own package is replaced or removed, *all* files below the prefixes come on stdin:
  rpm runs a trigger that goes for everything it ever matched. Then everybody is protected again.
- rpm ignores the exit code: a veto cannot stop it here. Under dnf it can, which asks earlier.

Source: rpm-scriptlets(7), FILE TRIGGERS; rpmtsRun() in transaction.c, runFileTriggers() in
rpmtriggers.c; all of it seen with rpm 4.18.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from holdover.errors import UsageError
from holdover.packages import Change
from holdover.packages.adapter import HookFile
from holdover.packages.guard import command_word, guarded, guarded_after, unless_asked
from holdover.programs import Program, our_programs

__all__ = ["is_here", "hook_files", "read_change", "spec_fragment"]

_PROGRAM = Path("/usr/bin/rpm")
_NO_PATH = re.compile(r"(?m)^(?!/).{0,200}")
_LIBRARIES = ("/usr/lib", "/lib")  # and lib64: rpm compares the beginnings of paths
_BEFORE = """\
files=$(grep -E '[.]so([.][0-9.]+)?$|^({names})$');
test -z "$files" || printf '%s\\n' "$files" | {hook}"""
_NO_VETO = "echo holdover: rpm does not let itself be stopped here, it goes on >&2"


def is_here() -> bool:
    return _PROGRAM.exists()


def hook_files(_: Path) -> tuple[HookFile, ...]:
    return ()


def read_change(_: Sequence[str], listing: bytes) -> Change:
    """The paths themselves, one a line."""
    text = listing.decode("utf-8", "surrogateescape")
    wrong = _NO_PATH.search(text.removesuffix("\n"))
    if wrong:
        raise UsageError(f"a line of rpm's list is no path: {wrong[0]!r}")
    return Change((), text)


def spec_fragment(command: Path, programs: Iterable[Program] | None = None) -> str:
    """The triggers, as a part of a spec file."""
    chosen = tuple(our_programs() if programs is None else programs)
    executables = [path for program in chosen for path in program.installed]
    below = " ".join(_beginnings([*_LIBRARIES, *map(_directory, executables)]))
    names = "|".join(_expression(path) for path in executables)
    hook = f"{{ {guarded('hook rpm before $PPID')}; }} || {_NO_VETO}"
    before = _BEFORE.format(names=names, hook=hook)
    after = unless_asked(guarded_after("rpm"))
    return "".join(
        f"%{when} -- {below}\n{command_word(command)}\n{script.replace('%', '%%')}\n:\n"
        for when, script in (
            ("transfiletriggerun", unless_asked(before)),
            ("transfiletriggerin", after),
            ("transfiletriggerpostun", after),
        )
    )


def _directory(pattern: str) -> str:
    """As far as it is the same for all."""
    return pattern.rpartition("/")[0].partition("*")[0]


def _beginnings(paths: Iterable[str]) -> list[str]:
    """Without those that begin with another one."""
    found: list[str] = []
    for path in sorted(paths):
        if not path.startswith(tuple(found)):
            found.append(path)
    return found


def _expression(pattern: str) -> str:
    """A pattern of file names as an extended regular expression."""
    return re.escape(pattern).replace(r"\*", "[^/]*").replace(r"\-", "-")
