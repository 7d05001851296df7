# SPDX-License-Identifier: Apache-2.0
"""What a transaction of apt is about to change, as it tells its hooks, and the files of packages.

Every transaction waits for it: nothing is imported here that costs a millisecond.

Source: apt.conf(5), DPkg::Pre-Install-Pkgs, protocol version 3; dpkg-query(1).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from holdover.errors import UsageError
from holdover.packages import Change

__all__ = ["read_change", "parse_changes", "changed_files", "DPKG_INFO"]

DPKG_INFO = "/var/lib/dpkg/info"
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,200}")
_ARCHITECTURE = re.compile(r"[a-z0-9-]{1,50}")
_MAX_LINE = 65536
_Package = tuple[str, str]  # name and architecture


def read_change(_: Sequence[str], listing: bytes, info: str = DPKG_INFO) -> Change:
    """Raises `UsageError`, or `OSError` if dpkg's own lists cannot be read."""
    text = listing.decode("utf-8", "surrogateescape")
    packages = parse_changes(text.removesuffix("\n").split("\n"))
    return Change(tuple(name for name, _ in packages), changed_files(packages, info))


def parse_changes(lines: Iterable[str]) -> tuple[_Package, ...]:
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


def _parse_all(lines: Iterator[str]) -> Iterator[_Package]:
    for line in lines:
        fields = line[:_MAX_LINE].rstrip("\n").split(" ", 8)
        if len(fields) != 9 or not _NAME.fullmatch(fields[0]):
            raise UsageError(f"a line of apt's list makes no sense: {line[:200]!r}")
        name, old_version, old_architecture, *_, new_architecture, _, path = fields
        if path == "**CONFIGURE**":
            continue
        architecture = old_architecture if old_version != "-" else new_architecture
        if not _ARCHITECTURE.fullmatch(architecture):
            raise UsageError(f"a line of apt's list makes no sense: {line[:200]!r}")
        yield name, architecture


def changed_files(packages: Iterable[_Package], info: str = DPKG_INFO) -> str:
    """Files that the installed versions of these packages own, one a line."""
    found = []
    for name, architecture in dict.fromkeys(packages):  # one that is named again has no more files
        for listed in (name, f"{name}:{architecture}"):
            try:
                with open(f"{info}/{listed}.list", "rb") as listing:
                    found.append(listing.read())
            except FileNotFoundError:
                continue  # it is called otherwise, or is new
    return b"".join(found).decode("utf-8", "surrogateescape")
