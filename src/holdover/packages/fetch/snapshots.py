# SPDX-License-Identifier: Apache-2.0
"""An archive of superseded builds: at which time a version was there, and apt sources of that time.

Source: the machine-readable interface of Debian's snapshot archive: ADDRESS/mr/binary/NAME/VERSION/
binfiles?fileinfo=1 tells for each architecture a hash, and for each hash the archive (debian,
debian-security) and when the file was first seen in it. ADDRESS/archive/ARCHIVE/TIME/ is that
archive as it was then; a time between two copies leads to the earlier one. The hash says where a
file is, and is trusted in nothing: apt checks the signed index of that time.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

from holdover.errors import MalformedError
from holdover.packages.fetch.aptsources import stanza

__all__ = ["Seen", "binfiles_address", "parse_binfiles", "sources_at"]

_TIME = "%Y%m%dT%H%M%SZ"
_LATER = (timedelta(), timedelta(days=1), timedelta(days=30))
"""After a file was first seen: an index may name it some time later."""
_MOST = 8
"""Times: each costs an update of package lists; a file is seen in one archive or two."""
_FIRST_YEAR = 1993  # of Debian
_SUITES = ("", "-updates", "-proposed-updates")
_SENSELESS = (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """When a package file was first seen in an archive."""

    time: datetime
    archive: str


def binfiles_address(address: str, name: str, version: str) -> str:
    where = f"{quote(name, safe='')}/{quote(version, safe='')}"
    return f"{address.rstrip('/')}/mr/binary/{where}/binfiles?fileinfo=1"


def parse_binfiles(text: str, architecture: str) -> tuple[Seen, ...]:
    """Where and when the file of that architecture was seen, the earliest first, and not all.

    Raises `MalformedError` if the answer is none.
    """
    try:
        answer = json.loads(text)
        hashes = {e["hash"] for e in answer["result"] if e["architecture"] in (architecture, "all")}
        found = {
            Seen(_time(info["first_seen"]), _word(info["archive_name"]))
            for one in hashes
            for info in answer["fileinfo"][one]
        }
    except _SENSELESS as error:
        raise MalformedError(f"the snapshot archive's answer makes no sense: {error!r}") from error
    return tuple(sorted(found)[:_MOST])


def _time(text: str) -> datetime:
    """Raises `ValueError`, also for one that has nothing after it."""
    time = datetime.strptime(text, _TIME)
    if not _FIRST_YEAR <= time.year < datetime.max.year:
        raise ValueError(f"nothing was seen in {time.year}")
    return time


def _word(name: object) -> str:
    """An archive's name: it becomes a part of an address."""
    if not isinstance(name, str) or not name.replace("-", "").isalnum() or not name.isascii():
        raise ValueError(f"{name!r} is no name of an archive")
    return name


def sources_at(
    address: str,
    seen: Iterable[Seen],
    codename: str,
    keys: Callable[[str], str],
    *,
    dependencies: bool,
) -> Iterator[tuple[str, list[str]]]:
    """A time, and the sources that may have the file then; one after the other until one has.

    `keys` tells the keys of an archive. Without `dependencies` only the archive of the file itself.
    """
    for one in seen:
        security = one.archive.endswith("-security")
        base = one.archive.removesuffix("-security")
        archives = (base, f"{base}-security") if dependencies else (one.archive,)
        for later in _LATER[: 1 if security else None]:
            time = (one.time + later).strftime(_TIME)
            yield (
                time,
                [
                    stanza(
                        f"{address.rstrip('/')}/archive/{archive}/{time}/",
                        [f"{codename}-security"]
                        if archive.endswith("-security")
                        else [f"{codename}{suite}" for suite in _SUITES],
                        ["main"],
                        keys(archive),
                    )
                    for archive in archives
                ],
            )
