# SPDX-License-Identifier: Apache-2.0
"""apt and dpkg: what a transaction is about to change, and the hook lines.

Source: apt.conf(5), DPkg::Pre-Install-Pkgs, protocol version 3; FACTS 6.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from holdover.errors import UsageError

__all__ = [
    "Change",
    "Pending",
    "parse_changes",
    "parse_simulation",
    "changed_files",
    "names_any",
    "archive_path",
    "HOOK_PATH",
]

HOOK_PATH = Path("/etc/apt/apt.conf.d/90holdover")
DPKG_INFO = Path("/var/lib/dpkg/info")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,200}")
_ARCHITECTURE = re.compile(r"[a-z0-9-]{1,50}")
_MAX_LINE = 65536
ARCHIVES = Path("/var/cache/apt/archives")
_PENDING = re.compile(
    r"(?P<verb>Inst|Remv|Purg) (?P<name>[a-z0-9][a-z0-9+.-]*(?::[a-z0-9-]+)?)"
    r"(?: \[(?P<old>[^] ]+)\])?"
    r"(?: \((?P<version>[^ )]+)[^)]* \[(?P<architecture>[a-z0-9-]+)\]\))?(?: |$)"
)


@dataclass(frozen=True, slots=True)
class Change:
    """One package whose files are about to be replaced or removed."""

    package: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Pending:
    """One package in a simulated transaction; `version` is "" if it would be removed."""

    change: Change
    version: str
    new: bool
    """It is not installed now."""


def parse_changes(lines: Iterable[str]) -> tuple[Change, ...]:
    """Parse what apt writes to a Pre-Install-Pkgs hook of protocol version 3.

    Packages that are only configured change no file and are left out. Raises `UsageError` for
    anything else; then the change is not known, and concerns everything.
    """
    iterator = iter(lines)
    if next(iterator, "").strip() != "VERSION 3":
        raise UsageError("apt's list does not begin with VERSION 3")
    for line in iterator:  # apt's configuration, up to a blank line
        if not line.strip():
            break
    else:
        raise UsageError("apt's list is cut off")
    return tuple(_parse_all(iterator))


def _parse_all(lines: Iterator[str]) -> Iterator[Change]:
    for line in lines:
        fields = line[:_MAX_LINE].rstrip("\n").split(" ", 8)
        if len(fields) != 9 or not _PACKAGE.fullmatch(fields[0]):
            raise UsageError(f"a line of apt's list makes no sense: {line[:200]!r}")
        name, old_version, old_architecture, *_, new_architecture, _, path = fields
        if path == "**CONFIGURE**":
            continue
        architecture = old_architecture if old_version != "-" else new_architecture
        if not _ARCHITECTURE.fullmatch(architecture):
            raise UsageError(f"a line of apt's list makes no sense: {line[:200]!r}")
        yield Change(name, architecture)


def parse_simulation(text: str) -> tuple[Pending, ...]:
    """Parse what `apt-get --simulate` prints; raises `UsageError` for a line that makes no sense.

    Inst libssh-4 [0.10.6-0+deb12u1] (0.10.6-0+deb12u2 Debian:12.12/stable [amd64])
    Remv librbd1 [16.2.11+ds-2]
    """
    return tuple(
        _parse_pending(line)
        for line in text.splitlines()
        if line[:5] in ("Inst ", "Remv ", "Purg ")
    )


def _parse_pending(line: str) -> Pending:
    found = _PENDING.match(line)
    if found is None or (found["verb"] == "Inst") != (found["version"] is not None):
        raise UsageError(f"a line of apt's simulation makes no sense: {line[:200]!r}")
    name, _, architecture = found["name"].partition(":")
    change = Change(name, architecture or found["architecture"] or "all")
    return Pending(change, found["version"] or "", new=found["old"] is None)


def archive_path(pending: Pending, directory: Path = ARCHIVES) -> Path:
    """Where apt keeps the package file once it has downloaded it; epochs are escaped."""
    version = pending.version.replace(":", "%3a")
    return directory / f"{pending.change.package}_{version}_{pending.change.architecture}.deb"


def changed_files(changes: Iterable[Change], info: Path = DPKG_INFO) -> str:
    """Files that the installed versions of these packages own, one a line; dpkg-query(1).

    Text, because a distribution upgrade names a hundred thousand, and few are ever asked for.
    """
    found = []
    for change in changes:
        for name in (change.package, f"{change.package}:{change.architecture}"):
            with suppress(FileNotFoundError), open(f"{info}/{name}.list", "rb") as listing:
                found.append(listing.read())
    return b"".join(found).decode("utf-8", "surrogateescape")


def names_any(changes: Iterable[Change], patterns: Iterable[str]) -> bool:
    """Whether a package, installed or new, has a name that a program definition lists."""
    return any(fnmatch(change.package, p) for p in patterns for change in changes)
