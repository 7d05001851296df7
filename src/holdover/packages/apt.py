# SPDX-License-Identifier: Apache-2.0
"""apt: its hook lines, and what a simulated transaction would change.

Source: apt.conf(5), apt-get(8).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import UsageError
from holdover.packages.adapter import HookFile
from holdover.packages.aptlist import read_change
from holdover.packages.guard import command_word, guarded, guarded_after, having_asked

__all__ = [
    "is_here",
    "hook_files",
    "read_change",
    "Pending",
    "parse_simulation",
    "archive_path",
]

HOOK_PATH = Path("/etc/apt/apt.conf.d/90holdover")
ARCHIVES = Path("/var/cache/apt/archives")
_PENDING = re.compile(
    r"(?P<verb>Inst|Remv|Purg) (?P<name>[a-z0-9][a-z0-9+.-]*(?::[a-z0-9-]+)?)"
    r"(?: \[(?P<old>[^] ]+)\])?"
    r"(?: \((?P<version>[A-Za-z0-9.+~:-]+)(?: [^)]*)? \[(?P<architecture>[a-z0-9-]+)\]\))?(?: |$)"
)


@dataclass(frozen=True, slots=True)
class Pending:
    """One package in a simulated transaction; `version` is "" if it would be removed."""

    name: str
    architecture: str
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
    architecture = architecture or found["architecture"] or native
    return Pending(name, architecture, found["version"] or "", new=found["old"] is None)


def archive_path(pending: Pending, directory: Path = ARCHIVES) -> Path:
    """Where apt keeps the package file once it has downloaded it; epochs are escaped."""
    version = pending.version.replace(":", "%3a")
    return directory / f"{pending.name}_{version}_{pending.architecture}.deb"
