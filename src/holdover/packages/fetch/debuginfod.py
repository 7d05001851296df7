# SPDX-License-Identifier: Apache-2.0
"""Modules by their build-ids, from servers that keep what archives have dropped: the last resort.

Nothing vouches for what a server sends but the build-id in it: one is asked only if the operator
names it. Source: debuginfod-find(1).
"""

import re
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from holdover.elf import ElfFile
from holdover.errors import CommandError, ElfError
from holdover.packages.fetch import PackageFile, Progress, Wanted
from holdover.run import run

__all__ = ["modules_by_build_id", "file_name"]

_ORIGIN = "debuginfod, by its build-id alone"
_BUILD_ID = re.compile(r"[0-9a-f]{16,128}")
_FILE = re.compile(r"(?im)^x-debuginfod-file:(?> *)(?:[^\r\n]*/)?([A-Za-z0-9_.+-]{1,100}\.so)\r?$")
_MOST = 500  # build-ids; the packages of a build have some ten each
_LARGEST = 1 << 26  # bytes; a module has some hundred thousand
_SECONDS = 120.0
_ALL_SECONDS = 900.0


def modules_by_build_id(
    ids: Iterable[str], wanted: Wanted, servers: Sequence[str], place: Path, progress: Progress
) -> dict[str, PackageFile]:
    """What the servers have of these, below `place`/root where modules lie; by path, as in there.

    What they do not send in time they have not. Raises `CommandError` if the client is not
    installed.
    """
    if shutil.which("debuginfod-find") is None:
        raise CommandError("debuginfod-find is not installed", hint="install elfutils' client")
    directory = wanted.directories[0]
    (place / "root" / directory.relative_to("/")).mkdir(parents=True)
    found: dict[str, PackageFile] = {}
    asked = sorted(set(filter(_BUILD_ID.fullmatch, ids)) - {wanted.build_id})[:_MOST]
    deadline = time.monotonic() + _ALL_SECONDS
    for number, build_id in enumerate(asked, 1):
        if time.monotonic() > deadline:
            break
        progress(f"asking debuginfod for file {number} of {len(asked)}")
        name, path = _ask(build_id, servers, place)
        if name and path and _is(path, build_id):
            at = directory / name
            target = place / "root" / at.relative_to("/")
            shutil.copyfile(path, target)
            size, digest = target.stat().st_size, f"build-id:{build_id}"
            found[str(at)] = PackageFile(name, "", "", name, digest, size, servers[0], _ORIGIN)
    return found


def _ask(build_id: str, servers: Sequence[str], place: Path) -> tuple[str, Path | None]:
    """What the file is called, and where the client has put it; nothing if no server has it."""
    settings = (
        f"DEBUGINFOD_URLS={' '.join(servers)}",
        f"DEBUGINFOD_CACHE_PATH={place}/cache",
        "DEBUGINFOD_TIMEOUT=20",
        f"DEBUGINFOD_MAXTIME={_SECONDS:.0f}",
        f"DEBUGINFOD_MAXSIZE={_LARGEST}",
    )
    command = ("debuginfod-find", "-v", "executable", build_id)
    try:
        done = run("env", *settings, *command, check=False, timeout=2 * _SECONDS)
    except CommandError:  # it hangs; it may have sent others
        return "", None
    name, path = file_name(done.stderr), Path(done.stdout.strip())
    there = done.returncode == 0 and path.is_relative_to(place / "cache") and path.is_file()
    return (name, path) if name and there else ("", None)


def file_name(said: str) -> str:
    """What a server's answer calls a module, as the client reports it; "" if it does not."""
    found = _FILE.search(said)
    return found[1] if found else ""


def _is(path: Path, build_id: str) -> bool:
    try:
        with path.open("rb") as file:
            return ElfFile(file).build_id == build_id
    except (OSError, ElfError):
        return False
