# SPDX-License-Identifier: Apache-2.0
"""Bases of the labs: root directories that are built once with mmdebstrap, kept, and copied."""

import fcntl
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["LabError", "base_directory", "build_base"]

DAY = 86400  # seconds


class LabError(Exception):
    """The lab itself failed: this says nothing about what is being tested."""


def base_directory(cache: Path, kind: str, recipe: str) -> Path:
    """Where the base of that recipe is kept; those that `kind` was made of before are removed.

    Not those of today: a checkout of another version may be at work with them.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    directory = cache / f"{kind}-{digest}"
    for old in cache.glob(f"{kind}-*"):
        if not old.is_dir() or old.name.startswith(directory.name):
            continue
        if time.time() - old.stat().st_ctime > DAY:
            shutil.rmtree(old)
    return directory


def build_base(
    directory: Path, sources: Sequence[str], packages: Sequence[str], hook: str = ""
) -> None:
    """Build a Debian 12 with these packages at `directory`, unless it is there.

    `sources` are one-line apt sources, with or without the leading "deb"; `hook` is a shell script
    that gets the new root as its argument.
    """
    lines = [line if line.startswith("deb ") else f"deb {line}" for line in sources]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_name(f"{directory.name}.lock")) as lock:
        if directory.exists():
            return
        unfinished = directory.with_name(f"{directory.name}.unfinished")
        _remove_tree(unfinished)
        _mmdebstrap(unfinished, lines, packages, hook, lock)
        unfinished.rename(directory)


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold a lock file. The descriptor is for children that may outlive a killed parent."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _mmdebstrap(
    directory: Path, lines: Sequence[str], packages: Sequence[str], hook: str, lock: int
) -> None:
    argv = ["mmdebstrap", "--variant=apt", "--mode=root", f"--include={','.join(packages)}"]
    argv += ["--aptopt=Acquire::Languages none", "--dpkgopt=force-unsafe-io"]
    for part in ("doc", "locale", "man"):
        argv.append(f"--dpkgopt=path-exclude=/usr/share/{part}/*")
    # Keep apt's lists and the debs, so that an upgrade needs no network.
    argv += [f"--customize-hook={hook}"] if hook else []
    argv += ["--skip=cleanup/apt", "--format=directory", "bookworm", str(directory), *lines]
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, pass_fds=[lock], check=False
    )
    if done.returncode:
        _remove_tree(directory)
        raise LabError(f"mmdebstrap failed ({done.returncode}):\n{done.stderr[-4000:]}")


def _remove_tree(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
