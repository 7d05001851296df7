# SPDX-License-Identifier: Apache-2.0
"""Whose word is a file? What only root could have put there may reach other people's guests.

Anybody may run a program called qemu-system-x86_64, and any guest's user may set its environment.
Without this, one user's files would be held as those of a build, and loaded by everybody's guests.
"""

import os
import stat
from pathlib import Path

__all__ = ["distrust", "distrust_file", "closed_to"]

_MAX_LINKS = 40  # MAXSYMLINKS of <linux/namei.h>


def distrust_file(found: os.stat_result) -> str:
    """Why somebody but root may have written this file or directory, or ""."""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}"
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
        return "others can write to it"
    return ""


def distrust(path: Path) -> str:
    """Why somebody but root may have made what is or was at `path`, or "".

    Walks down from the root and stops at the first name that is not root's: what lies below may be
    anything, also a file system that never answers.
    """
    if not path.is_absolute() or ".." in path.parts:
        return f"{path} is no absolute path"
    todo, at, shared = list(path.parts[1:]), Path("/"), False
    for _ in range(_MAX_LINKS + len(path.parts)):
        try:
            found = at.lstat()
        except FileNotFoundError:  # if not, only root can make it now
            return f"{at}: anybody can make it" if shared else ""
        except OSError as error:
            return f"{at} cannot be looked at: {error.strerror}"
        if stat.S_ISLNK(found.st_mode):
            target = Path(os.readlink(at))
            if found.st_uid != 0 or ".." in target.parts:
                return f"{at} is a link that leads anywhere"
            todo = [*(target.parts[1:] if target.is_absolute() else target.parts), *todo]
            at = Path("/") if target.is_absolute() else at.parent
        elif problem := distrust_file(found):
            return f"{at}: {problem}"
        elif not todo:
            return ""
        else:
            shared = bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
            at /= todo.pop(0)
    return f"{path} has too many links"


def closed_to(user: int, seen: Path, depth: int) -> str:
    """Which of the last `depth` directories of a path keeps a user out, or "".

    Only what is open to everybody counts: groups and access lists may say otherwise, and change.
    """
    if user == 0:
        return ""
    for directory in (seen, *seen.parents[: depth - 1]):
        if not directory.stat().st_mode & stat.S_IXOTH:
            return directory.name
    return ""
