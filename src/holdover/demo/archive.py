# SPDX-License-Identifier: Apache-2.0
"""The bases of all throwaway roots; the demo's is Debian 12 with the older of two QEMU builds.

Built once from the archive that this machine itself uses, kept for two weeks, and never written to
afterwards: every run works on a copy. Versions are what the archive says, never what we remember.
"""

import fcntl
import hashlib
import inspect
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path
from typing import Literal

from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError
from holdover.looking import Progress
from holdover.run import run

__all__ = ["prepare_base", "Recipe", "Release", "RELEASE", "qemu_builds", "debian_sources"]
__all__ += ["default_cache", "existing_sources", "QEMU_PACKAGES", "HOST_PACKAGES"]

QEMU_PACKAGES = ("qemu-system-x86", "qemu-system-common", "qemu-block-extra")
# what holdover needs, and what QEMU checks an https disk against
HOST_PACKAGES = ("python3", "python3-rich", "mount", "ca-certificates")
NEEDED_TOOLS = {"mmdebstrap": "mmdebstrap", "unshare": "util-linux", "nsenter": "util-linux"}
_APT_HELPER = "/usr/lib/apt/apt-helper"
_KEPT = 14 * 86400  # seconds; then the archive has moved on


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release, and the packages that hold its QEMU and as many modules as there are."""

    codename: str
    qemu_packages: tuple[str, ...] = QEMU_PACKAGES
    security: Literal["yes", "perhaps", "no"] = "yes"
    """Security updates; those of an old release move to an archive some day."""
    options: tuple[str, ...] = ()
    """More of them for mmdebstrap."""
    may_be_expired: bool = False
    """A mirror may lag behind what its Release file promises; true of unstable only."""


RELEASE = Release("bookworm")
"""What the demo uses."""

Filling = Callable[[ThrowawayRoot, Progress], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a base is made: Debian's essential packages, `packages`, and what `fill` does then."""

    name: str
    """Of its directory, before the digest; no name may be another's with something behind it."""
    release: Release
    fill: Filling
    packages: tuple[str, ...] = HOST_PACKAGES


def default_cache() -> Path:
    return Path(os.environ.get("HOLDOVER_LAB_CACHE", "/var/cache/holdover-lab"))


def debian_sources(release: Release) -> list[str]:
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
    option = "[check-valid-until=no] " if release.may_be_expired else ""
    sources = [f"deb {option}{main} {release.codename} main"]
    if release.security != "no":
        sources.append(f"deb {security} {release.codename}-security main")
    return sources


def existing_sources(release: Release, progress: Progress) -> list[str]:
    """Without the security updates, if the mirror may lack them and does."""
    main, *security = debian_sources(release)
    if release.security == "perhaps" and not _exists(*security[0].split()[-3:-1]):
        progress(f"going without security updates of {release.codename}: the mirror has none")
        return [main]
    return [main, *security]


def _exists(uri: str, suite: str) -> bool:
    with tempfile.TemporaryDirectory() as directory:
        url = f"{uri.rstrip('/')}/dists/{suite}/InRelease"
        done = run(_APT_HELPER, "download-file", url, f"{directory}/InRelease", check=False)
    return done.returncode == 0


def _own_release() -> str:
    lines = Path("/etc/os-release").read_text().splitlines()
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    return fields.get("VERSION_CODENAME", "").strip('"')


def prepare_base(cache: Path, progress: Progress, recipe: Recipe | None = None) -> Path:
    """The base's directory, built if it is not there or too old; the demo's if nothing is said."""
    for tool, package in NEEDED_TOOLS.items():
        if shutil.which(tool) is None:
            raise CommandError(f"{tool} is not installed", hint=f"apt-get install {package}")
    recipe = recipe or TWO_BUILDS
    base = cache / f"{recipe.name}-{_digest(recipe)}"
    with _alone(cache, recipe):
        if base.exists() and time.time() - base.stat().st_mtime < _KEPT:
            return base
        for old in cache.glob(f"{recipe.name}-*"):
            shutil.rmtree(old)  # what a killed run has left half built, too
        building = cache / f"{recipe.name}-building"
        try:
            _build(building, recipe, progress)
            building.rename(base)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return base


def _digest(recipe: Recipe) -> str:
    """Changes with the code that builds it and with the sources it is built from."""
    code = {inspect.getsourcefile(function) or "" for function in (_build, recipe.fill)}
    text = "".join(Path(file).read_text() for file in sorted(code))
    text += repr((recipe.name, recipe.release, recipe.packages, debian_sources(recipe.release)))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def _alone(cache: Path, recipe: Recipe) -> Iterator[None]:
    """Who needs the same base waits; another one may be built meanwhile."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{recipe.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(directory: Path, recipe: Recipe, progress: Progress) -> None:
    codename = recipe.release.codename
    sources = existing_sources(recipe.release, progress)
    progress(f"building a Debian root, {codename} (a minute, once in two weeks)")
    options = ["--variant=apt", "--skip=cleanup/apt,check/empty"]  # that keeps the package lists
    options += [f"--include={','.join(recipe.packages)}"]
    options += recipe.release.options
    small = [f"--dpkgopt=path-exclude=/usr/share/{part}/*" for part in ("doc", "man", "locale")]
    quick = ["--dpkgopt=force-unsafe-io", "--aptopt=APT::Install-Recommends false"]
    # apt would delete what it downloaded, and the upgrade is to need no network
    quick += ["--aptopt=APT::Keep-Downloaded-Packages true"]
    run("mmdebstrap", *options, *small, *quick, codename, directory, *sources)
    with ThrowawayRoot.on(directory) as root:
        recipe.fill(root, progress)


def _fill_with_two_builds(root: ThrowawayRoot, progress: Progress) -> None:
    """The older QEMU installed, the newer one downloaded."""
    older, newer = qemu_builds(root)
    progress(f"installing QEMU {older} in it")
    root.apt("install", *(f"{package}={older}" for package in QEMU_PACKAGES))
    progress(f"downloading QEMU {newer} for later")
    root.apt("install", "--download-only", *(f"{package}={newer}" for package in QEMU_PACKAGES))


TWO_BUILDS = Recipe("chroot", RELEASE, _fill_with_two_builds)


def qemu_builds(root: ThrowawayRoot) -> tuple[str, str]:
    """Versions of the oldest and the newest QEMU build that the archive offers at once."""
    return builds(root, QEMU_PACKAGES[0])


def builds(root: ThrowawayRoot, package: str) -> tuple[str, str]:
    """Its oldest and its newest version; raises `CommandError` if there is only one."""
    listed = root.run("apt-cache", "madison", package).stdout.splitlines()
    versions = {line.split("|")[1].strip() for line in listed}

    def compare(one: str, other: str) -> int:
        older = run("dpkg", "--compare-versions", one, "lt", other, check=False).returncode == 0
        return -1 if older else 1

    ordered = sorted(versions, key=cmp_to_key(compare))
    if len(ordered) < 2:
        raise CommandError(
            f"the archive offers only one build of {package} now: {ordered}",
            hint="there is nothing to upgrade from or to; try again after the next update",
        )
    return ordered[0], ordered[-1]
