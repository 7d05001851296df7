# SPDX-License-Identifier: Apache-2.0
"""apt: its hook lines, what a transaction is about to change, and what a simulated one would.

Source: apt.conf(5), DPkg::Pre-Install-Pkgs, protocol version 3; FACTS 6.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import UsageError
from holdover.packages import Change, HookFile
from holdover.packages.guard import command_word, guarded, guarded_after, having_asked

__all__ = [
    "is_here",
    "hook_files",
    "read_change",
    "Package",
    "Pending",
    "parse_changes",
    "parse_simulation",
    "changed_files",
    "archive_path",
    "DPKG_INFO",
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
    r"(?: \((?P<version>[A-Za-z0-9.+~:-]+)(?: [^)]*)? \[(?P<architecture>[a-z0-9-]+)\]\))?(?: |$)"
)


@dataclass(frozen=True, slots=True)
class Package:
    """One whose files are about to be replaced or removed."""

    name: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Pending:
    """One package in a simulated transaction; `version` is "" if it would be removed."""

    package: Package
    version: str
    new: bool
    """It is not installed now."""


def is_here() -> bool:
    return HOOK_PATH.parent.is_dir()


def hook_files(command: Path) -> tuple[HookFile, ...]:
    """apt takes the first word of a hook's command as the key of its options."""
    word = command_word(command)
    before = having_asked(guarded("hook apt before $PPID"))
    text = f"""\
// Written by `holdover enable`, removed by `holdover disable`.
// Whatever happens to holdover, these lines succeed: apt stops at a hook that fails.
DPkg::Pre-Install-Pkgs {{ "{word} {before}; true"; }};
DPkg::Tools::Options::"{word}"::Version "3";
DPkg::Post-Invoke {{ "{word} {guarded_after("apt")}; true"; }};
"""
    return (HookFile(HOOK_PATH, text),)


def read_change(_: Sequence[str], listing: bytes, info: Path = DPKG_INFO) -> Change:
    """Raises `UsageError`, or `OSError` if dpkg's own lists cannot be read."""
    text = listing.decode("utf-8", "surrogateescape")
    packages = parse_changes(text.removesuffix("\n").split("\n"))
    return Change(tuple(package.name for package in packages), changed_files(packages, info))


def parse_changes(lines: Iterable[str]) -> tuple[Package, ...]:
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


def _parse_all(lines: Iterator[str]) -> Iterator[Package]:
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
        yield Package(name, architecture)


def parse_simulation(text: str, native: str) -> tuple[Pending, ...]:
    """Parse what `apt-get --simulate` prints; raises `UsageError` for a line that makes no sense.

    Inst libssh-4 [0.10.6-0+deb12u1] (0.10.6-0+deb12u2 Debian:12.12/stable [amd64])
    Remv librbd1 [16.2.11+ds-2]

    `native` is dpkg's architecture, which apt does not name where it removes something.
    """
    return tuple(
        _parse_pending(line, native)
        for line in text.split("\n")
        if line[:5] in ("Inst ", "Remv ", "Purg ")
    )


def _parse_pending(line: str, native: str) -> Pending:
    found = _PENDING.match(line)
    if found is None or (found["verb"] == "Inst") != (found["version"] is not None):
        raise UsageError(f"a line of apt's simulation makes no sense: {line[:200]!r}")
    name, _, architecture = found["name"].partition(":")
    package = Package(name, architecture or found["architecture"] or native)
    return Pending(package, found["version"] or "", new=found["old"] is None)


def archive_path(pending: Pending, directory: Path = ARCHIVES) -> Path:
    """Where apt keeps the package file once it has downloaded it; epochs are escaped."""
    version = pending.version.replace(":", "%3a")
    return directory / f"{pending.package.name}_{version}_{pending.package.architecture}.deb"


def changed_files(packages: Iterable[Package], info: Path = DPKG_INFO) -> str:
    """Files that the installed versions of these packages own, one a line; dpkg-query(1)."""
    found = []
    for package in packages:
        for name in (package.name, f"{package.name}:{package.architecture}"):
            with suppress(FileNotFoundError), open(f"{info}/{name}.list", "rb") as listing:
                found.append(listing.read())
    return b"".join(found).decode("utf-8", "surrogateescape")
