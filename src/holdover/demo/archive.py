# SPDX-License-Identifier: Apache-2.0
"""The base of all throwaway roots: Debian 12 with the older of the QEMU builds it offers.

Built once from the archive that this machine itself uses, kept for two weeks, and never written to
afterwards: every run works on a copy. Versions are what the archive says, never what we remember.
"""

import fcntl
import hashlib
import inspect
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cmp_to_key
from pathlib import Path

from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError
from holdover.flow import Progress
from holdover.run import run

__all__ = ["prepare_base", "qemu_builds", "default_cache", "debian_sources", "RELEASE"]

RELEASE = "bookworm"
QEMU_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-block-extra")
NEEDED_TOOLS = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "nsenter": "util-linux"}
_KEPT = 14 * 86400  # seconds; then the archive has moved on


def default_cache() -> Path:
    return Path(os.environ.get("HOLDOVER_LAB_CACHE", "/var/cache/holdover-lab"))


def debian_sources(release: str) -> list[str]:
    """One-line apt sources for a Debian release, at the mirror that this machine uses."""
    listed = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages"
    ).stdout.split("\n")
    pairs = [line.split() for line in listed if line.count(" ") == 1]
    own = _own_release()
    main = next((uri for uri, suite in pairs if suite in (own, "stable", "sid")), None)
    if main is None:
        raise CommandError("this machine has no Debian archive among its apt sources")
    security = next((uri for uri, suite in pairs if suite.endswith("-security")), None)
    security = security or f"{main.rstrip('/')}-security"
    return [f"deb {main} {release} main", f"deb {security} {release}-security main"]


def _own_release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("VERSION_CODENAME", "").strip('"')


def prepare_base(cache: Path, progress: Progress) -> Path:
    """The base's directory, built if it is not there or too old."""
    for tool, package in NEEDED_TOOLS.items():
        if shutil.which(tool) is None:
            raise CommandError(f"{tool} is not installed", hint=f"apt-get install {package}")
    sources = debian_sources(RELEASE)
    base = cache / f"chroot-{_recipe_digest(sources)}"
    with _alone(cache):
        if base.exists() and time.time() - base.stat().st_mtime < _KEPT:
            return base
        for old in cache.glob("chroot-*"):
            shutil.rmtree(old)
        building = cache / f"building-{os.getpid()}"
        try:
            _build(building, sources, progress)
            building.rename(base)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return base


def _recipe_digest(sources: list[str]) -> str:
    recipe = inspect.getsource(sys.modules[__name__]) + repr(sources)
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache.glob("building-*"):
            shutil.rmtree(left)
        yield


def _build(directory: Path, sources: list[str], progress: Progress) -> None:
    progress("building a Debian 12 root (a minute, once in two weeks)")
    keep_lists = "--skip=cleanup/apt,check/empty"
    options = ["--variant=apt", keep_lists, "--include=python3,python3-rich,mount"]
    small = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    quick = ["--dpkgopt=force-unsafe-io", "--aptopt=APT::Install-Recommends false"]
    # apt would delete what it downloaded, and the upgrade is to need no network
    quick += ["--aptopt=APT::Keep-Downloaded-Packages true"]
    run("mmdebstrap", *options, *small, *quick, RELEASE, directory, *sources)
    with ThrowawayRoot.on(directory) as root:
        older, newer = qemu_builds(root)
        progress(f"installing QEMU {older} in it")
        root.apt("install", *(f"{package}={older}" for package in QEMU_PACKAGES))
        progress(f"downloading QEMU {newer} for later")
        root.apt("install", "--download-only", *(f"{package}={newer}" for package in QEMU_PACKAGES))


def qemu_builds(root: ThrowawayRoot) -> tuple[str, str]:
    """Versions of the oldest and the newest QEMU build that the archive offers at once."""
    listed = root.run("apt-cache", "madison", QEMU_PACKAGES[0]).stdout.splitlines()
    versions = {line.split("|")[1].strip() for line in listed}

    def compare(one: str, other: str) -> int:
        return (
            -1
            if run("dpkg", "--compare-versions", one, "lt", other, check=False).returncode == 0
            else 1
        )

    ordered = sorted(versions, key=cmp_to_key(compare))
    if len(ordered) < 2:
        raise CommandError(
            f"the archive offers only one QEMU build for {RELEASE} now: {ordered}",
            hint="there is nothing to upgrade from or to; try again after the next update",
        )
    return ordered[0], ordered[-1]
