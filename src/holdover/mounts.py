# SPDX-License-Identifier: Apache-2.0
"""The mount table of a process as text, and when a directory in it must not be covered.

Source: proc_pid_mountinfo(5), mount_namespaces(7).
"""

import re
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import MalformedError

__all__ = ["Mount", "parse_mountinfo", "view_on", "sharing_refusal"]


@dataclass(frozen=True, slots=True)
class Mount:
    id: int
    parent: int
    root: str
    point: str
    options: frozenset[str]
    peer_group: int | None
    """N of "shared:N": mounts made below it appear in every other mount of that group."""
    kind: str
    master: int | None = None
    """N of "master:N": mounts made below the mounts of that group appear here as well."""


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Parse /proc/PID/mountinfo; raises `MalformedError` for a line that is none."""
    # only a newline ends a line: names hold whatever else str.splitlines() takes for one
    return tuple(_parse_line(line) for line in text.removesuffix("\n").split("\n") if text)


def _parse_line(line: str) -> Mount:
    try:
        fields = line.split(" ")
        dash = fields.index("-", 6)
        optional = dict(field.partition(":")[::2] for field in fields[6:dash])
        return Mount(
            id=int(fields[0]),
            parent=int(fields[1]),
            root=_unescape(fields[3]),
            point=_unescape(fields[4]),
            options=frozenset(fields[5].split(",")),
            peer_group=int(optional["shared"]) if "shared" in optional else None,
            master=int(optional["master"]) if "master" in optional else None,
            kind=fields[dash + 1],
        )
    except (ValueError, IndexError) as error:
        raise MalformedError(f"a line of mountinfo makes no sense: {line!r}") from error


def _unescape(text: str) -> str:
    """Blank, tab, newline and backslash are octal in the mount table."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def view_on(mount: Mount, views: Path) -> str:
    """The snapshot whose view is mounted there, gone or not; "" if it is something else."""
    _, ours, rest = mount.root.partition(f"/{views.parent.name}/{views.name}/")
    return rest.partition("/")[0] if ours else ""


def sharing_refusal(mount: Mount, others: tuple[Mount, ...]) -> str:
    """Why nothing may be mounted below `mount`, given the mounts of all other namespaces; or ""."""
    if mount.peer_group is None:
        return ""
    if any(mount.peer_group in (other.peer_group, other.master) for other in others):
        return (
            f"{mount.point} is shared with another mount namespace "
            f"(shared:{mount.peer_group}): the view would appear there too"
        )
    return ""
