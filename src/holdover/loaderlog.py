# SPDX-License-Identifier: Apache-2.0
"""What the dynamic linker tells of its work (LD_DEBUG=files), amid what the program writes.

Whether an object was loaded is seen from `calling init`: by then all it needs was found, mapped
and bound, and what follows is its own code. Lines of the program may come in between, in order.

Source: ld.so(8); the messages are those of glibc's elf/dl-load.c, dl-init.c and dl-exception.c.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

__all__ = ["Load", "parse_loads", "last_words"]

_LINE = re.compile(r" *[0-9]+:\t(.*)")
_ASKED = re.compile(r"file=(.+) \[[0-9]+\];  dynamically loaded by .*")
# a line of a megabyte is nobody's, and must not be tried with each of its parts as the first one
_NEEDED = re.compile(r"file=(?>(.+?) \[[0-9]+\];  needed by )(.+) \[[0-9]+\].*")
_FOUND = re.compile(r"file=(.+) \[[0-9]+\];  generating link map.*")
_INIT = re.compile(r"calling init: (.+)")
_ERROR = re.compile(r"(?>.+?: error: )(?:[^:]+: )?(.+) \((?:fatal|continued)\)")


@dataclass(frozen=True, slots=True)
class Load:
    """One attempt to load the object at `path`."""

    path: str
    failure: str
    """Why it is not loaded, or was not accepted; "" if it was."""


@dataclass(slots=True)
class _Attempt:
    path: str
    initialised: bool = False
    complaint: str = ""
    """What the program said about it."""
    error: str = ""
    """What the loader said about it."""
    missing: dict[str, str] = field(default_factory=dict)
    """Libraries that were asked for and not found (yet), with who needs them."""

    def outcome(self) -> Load:
        if self.initialised and not self.complaint:
            return Load(self.path, "")
        return Load(self.path, self.complaint or self.error or self._missing())

    def _missing(self) -> str:
        for library, needed_by in self.missing.items():
            return f"{library}, which {needed_by} needs, was not found"
        return "the dynamic linker did not finish loading it"


def parse_loads(text: str, directory: str, complaint: re.Pattern[str]) -> tuple[Load, ...]:
    """All attempts to load a file of `directory`, in order, failed ones included.

    `complaint` matches what the program says of a load that failed; its group 1 is the reason.
    """
    return tuple(attempt.outcome() for attempt in _attempts(text, directory, complaint))


def last_words(text: str) -> str:
    """The last line that the program itself wrote, or ""."""
    own = (line for line in reversed(text.split("\n")) if not _LINE.fullmatch(line))
    return next(filter(None, (line.strip() for line in own)), "")


def _attempts(text: str, directory: str, complaint: re.Pattern[str]) -> Iterator[_Attempt]:
    current: _Attempt | None = None
    for line in text.split("\n"):
        said = _LINE.fullmatch(line)
        asked = said and _ASKED.fullmatch(said[1])
        if asked and asked[1].rpartition("/")[0] == directory:
            if current is not None:
                yield current
            current = _Attempt(asked[1])
        elif current is None:
            continue
        elif said:
            _note(current, said[1])
        elif found := complaint.search(line):
            current.complaint = current.complaint or found[1].strip()
    if current is not None:
        yield current


def _note(attempt: _Attempt, said: str) -> None:
    """Keep what the loader said if it is about an object that is not loaded yet."""
    if attempt.initialised:
        return
    if init := _INIT.fullmatch(said):
        attempt.initialised = init[1] == attempt.path
    elif found := _FOUND.fullmatch(said):
        attempt.missing.pop(found[1], None)
    elif needed := _NEEDED.fullmatch(said):
        attempt.missing[needed[1]] = needed[2]
    elif error := _ERROR.fullmatch(said):
        attempt.error = attempt.error or error[1]
