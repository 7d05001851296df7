# SPDX-License-Identifier: Apache-2.0
"""The mount table of a process as text, and when a directory in it must not be covered.

Source: proc_pid_mountinfo(5), mount_namespaces(7).
"""

import re
from dataclasses import dataclass

from holdover.errors import MalformedError

__all__ = ["Mount", "parse_mountinfo", "sharing_refusal"]


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


def parse_mountinfo(text: str) -> tuple[Mount, ...]:
    """Parse /proc/PID/mountinfo; raises `MalformedError` for a line that is none."""
    # only a newline ends a line: names hold whatever else str.splitlines() takes for one
    return tuple(_parse_line(line) for line in text.removesuffix("\n").split("\n") if text)


def _parse_line(line: str) -> Mount:
    try:
        fields = line.split(" ")
        dash = fields.index("-", 6)
        shared = [f.removeprefix("shared:") for f in fields[6:dash] if f.startswith("shared:")]
        return Mount(
            id=int(fields[0]),
            parent=int(fields[1]),
            root=_unescape(fields[3]),
            point=_unescape(fields[4]),
            options=frozenset(fields[5].split(",")),
            peer_group=int(shared[0]) if shared else None,
            kind=fields[dash + 1],
        )
    except (ValueError, IndexError) as error:
        raise MalformedError(f"a line of mountinfo makes no sense: {line!r}") from error


def _unescape(text: str) -> str:
    """Blank, tab, newline and backslash are octal in the mount table."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def sharing_refusal(mount: Mount, others: tuple[Mount, ...]) -> str:
    """Why nothing may be mounted below `mount`, given the mounts of all other namespaces; or ""."""
    if mount.peer_group is None:
        return ""
    if any(other.peer_group == mount.peer_group for other in others):
        return (
            f"{mount.point} is shared with another mount namespace "
            f"(shared:{mount.peer_group}): the view would appear there too"
        )
    return ""
