# SPDX-License-Identifier: Apache-2.0
"""Whether a change of packages can concern any program at all: by little more than names.

Every transaction of a host waits for that, and for most the answer is no. So it takes no more of
the definitions than hints.py has, and nothing is imported that Python does not start with but `re`.
"""

import os
import re
from collections.abc import Iterable
from fnmatch import fnmatch

from holdover.hints import HINTS

__all__ = ["Hint", "hints", "names_any", "touched"]

OWN = "/etc/holdover/programs"
_LIBRARY = re.compile(r"\.so(?:\.[0-9.]+)?$", re.MULTILINE)


class Hint:
    """What of a program definition is asked for first."""

    __slots__ = ("_files", "_runs", "name", "packages")

    def __init__(
        self, name: str, packages: tuple[str, ...], executable: str, directory: str
    ) -> None:
        """`packages` are glob patterns, the rest regular expressions: see qemu.toml."""
        self.name = name
        self.packages = packages
        self._runs = re.compile(rf"(?s)(?:.*/)?(?:{executable})(?: \(deleted\))?")
        # modules lie right in the directory
        files = rf"/(?:{executable})$|^{directory}/[^/\n]+\.so$"
        self._files = re.compile(files, re.MULTILINE)

    def is_among(self, files: str) -> bool:
        """Whether a list of files, one a line, names an executable or a module of it."""
        return self._files.search(files) is not None

    def runs(self, link: str) -> bool:
        """Whether a process with this link `exe` may be an instance."""
        return self._runs.fullmatch(link) is not None


def hints(but: Iterable[str] = ()) -> tuple[Hint, ...]:
    """Of all definitions `but` those of these names."""
    found = {str(values[0]): values for values in (*HINTS, *_own())}
    return tuple(Hint(*values) for name, values in found.items() if name not in but)


def _own() -> "list[tuple[str, tuple[str, ...], str, str]]":
    """Of the operator's definitions, as far as they make sense: the rest is told elsewhere."""
    try:
        names = [name for name in os.listdir(OWN) if name.endswith(".toml")]
    except OSError:
        return []
    return [hint for name in names if (hint := _hint_of(f"{OWN}/{name}"))]


def _hint_of(path: str) -> "tuple[str, tuple[str, ...], str, str] | None":
    import tomllib  # 4 ms, for those who have written definitions

    try:
        with open(path, "rb") as file:
            data = tomllib.load(file)
        directory = data["build"]["directory"].removeprefix(r"\x00").removesuffix(r"\x00")
        values = data["name"], tuple(data["packages"]), data["executable"], directory
        Hint(*values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error):
        return None
    return values


def names_any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    """Whether a package has a name that a program definition lists."""
    return any(fnmatch(name, pattern) for pattern in patterns for name in names)


def touched(
    names: tuple[str, ...], files: str, programs: tuple[Hint, ...], proc: str = "/proc"
) -> bool:
    """Whether anybody is concerned by a change of packages of these names, which own these files.

    Raises `OSError` without a /proc.
    """
    if any(names_any(names, program.packages) or program.is_among(files) for program in programs):
        return True
    return _LIBRARY.search(files) is not None and _anybody_runs(programs, proc)


def _anybody_runs(programs: tuple[Hint, ...], proc: str) -> bool:
    """Whether a library can matter to anybody at all."""
    for pid in filter(str.isdecimal, os.listdir(proc)):
        try:
            link = os.readlink(f"{proc}/{pid}/exe")
        except (FileNotFoundError, ProcessLookupError):
            continue  # a kernel thread, or gone
        except OSError:
            return True  # who knows; it is told by those who look
        if any(program.runs(link) for program in programs):
            return True
    return False
