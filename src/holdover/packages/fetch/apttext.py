# SPDX-License-Identifier: Apache-2.0
"""What apt's and dpkg's commands print, as values.

What decides is the digest of a file; a line that is read wrong can cost a package, not more.
Sources: apt-get(8), --print-uris; apt-cache(8), madison, show; dpkg-query(1), --search.
"""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from holdover.errors import MalformedError
from holdover.packages.fetch import PackageFile

__all__ = ["parse_uris", "parse_resolved", "parse_madison", "parse_records", "parse_owners"]
__all__ += ["parse_downloaded", "cache_name", "depends_on"]

_NAME = r"[a-z0-9][a-z0-9+.-]*"
_VERSION = r"[A-Za-z0-9.+~:-]+"
_URI = re.compile(
    rf"'(?P<address>[^'\s]+)' (?P<name>{_NAME})_(?P<version>[A-Za-z0-9.+~%-]+)_"
    r"(?P<architecture>[a-z0-9-]+)\.deb (?P<size>\d{1,15})"
    r"(?: (?P<kind>[A-Za-z0-9]+):(?P<hash>[0-9a-fA-F]+))?"
)
_MADISON = re.compile(rf"\s*({_NAME}) \| +({_VERSION}) +\| ")
_OWNER = re.compile(rf"({_NAME}(?::[a-z0-9-]+)?(?:, {_NAME}(?::[a-z0-9-]+)?)*): /")
_FETCHED = re.compile(r"(?m)^Fetched ([0-9,.]{1,20}) ?([kMG]?)B")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def parse_uris(text: str) -> tuple[PackageFile, ...]:
    """Parse `apt-get --print-uris`; the digest is "" where none is given.

    Raises `MalformedError` for an address of something that makes no sense as a package.
    """
    files = []
    for line in (line.rstrip() for line in text.split("\n") if line.startswith("'")):
        found = _URI.fullmatch(line)
        if found is None:
            raise MalformedError(f"a line of apt's makes no sense: {line[:200]!r}")
        file_name = unquote(found["address"].rpartition("/")[2])
        if "/" in file_name or "\0" in file_name or file_name in ("", ".", ".."):
            raise MalformedError(f"no package file can be called {file_name[:200]!r}")
        digest = f"{found['kind'].lower()}:{found['hash'].lower()}" if found["kind"] else ""
        files.append(
            PackageFile(
                name=found["name"],
                version=unquote(found["version"]),
                architecture=found["architecture"],
                file_name=file_name,
                digest=digest,
                size=int(found["size"]),
                address=found["address"],
            )
        )
    return tuple(files)


def parse_resolved(text: str, native: str) -> tuple[str, ...]:
    """The packages that `apt-get --print-uris install` would install, as arguments for apt."""
    return tuple(
        f"{file.name}={file.version}"
        if file.architecture in (native, "all")
        else f"{file.name}:{file.architecture}={file.version}"
        for file in parse_uris(text)
    )


def cache_name(file: PackageFile) -> str:
    """As apt calls it in its cache."""
    return f"{file.name}_{file.version.replace(':', '%3a')}_{file.architecture}.deb"


def parse_madison(text: str) -> dict[str, tuple[str, ...]]:
    """Versions of each package in the order of `apt-cache madison`: newest first."""
    found: dict[str, dict[str, None]] = {}
    for line in filter(None, map(_MADISON.match, text.splitlines())):
        found.setdefault(line[1], {})[line[2]] = None
    return {name: tuple(versions) for name, versions in found.items()}


def parse_records(text: str) -> tuple[dict[str, str], ...]:
    """Fields of each package in `apt-cache show`; of fields with more lines the first."""
    records = []
    for body in text.split("\n\n"):
        pairs = (line.split(": ", 1) for line in body.split("\n") if ": " in line)
        fields = {pair[0]: pair[1].strip() for pair in pairs if not pair[0].startswith(" ")}
        if "Package" in fields and "Version" in fields:
            records.append(fields)
    return tuple(records)


def depends_on(record: dict[str, str], names: Iterable[str]) -> bool:
    """Whether a package names one of these, as an alternative or with what it enhances too."""
    fields = ("Depends", "Pre-Depends", "Recommends", "Suggests", "Enhances")
    said = ", ".join(record.get(field, "") for field in fields)
    return not set(re.findall(rf"(?:^|[,|] *)({_NAME})", said)).isdisjoint(names)


def parse_owners(text: str) -> tuple[str, ...]:
    """Names of the packages in `dpkg-query --search`, without diversions."""
    found: dict[str, None] = {}
    for line in filter(None, map(_OWNER.match, text.splitlines())):
        found.update(dict.fromkeys(name.partition(":")[0] for name in line[1].split(", ")))
    return tuple(found)


def parse_downloaded(text: str) -> int:
    """Bytes that apt says it has fetched, as exactly as it says."""
    total = 0.0
    for number, unit in _FETCHED.findall(text):
        try:
            total += float(number.replace(",", "")) * _UNITS[unit]
        except ValueError:
            continue
    return int(total)
