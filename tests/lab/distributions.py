# SPDX-License-Identifier: Apache-2.0
"""Upgrades from one Debian release to the next, by the system's own apt, without a network.

A base for that is another one than the base for a point update, although both may be Debian 12:
it has the newest packages of its release, as the release notes ask for, and the next release's
packages lie in apt's cache, which each copy of the base would have to carry.

What belongs to the next release waits under names that apt does not look at. Until the upgrade
begins, apt knows of its own release only.
"""

from dataclasses import dataclass
from subprocess import CompletedProcess

from holdover.demo.archive import (
    HOST_PACKAGES,
    QEMU_PACKAGES,
    RELEASE,
    Recipe,
    Release,
    existing_sources,
)
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress

__all__ = ["CROSSINGS", "Crossing", "download_next", "full_upgrade", "turn_to_the_next"]

_HOUR = 3600.0
# qemu-system-gui is left out: its modules are loaded at the start or never, and it brings a desktop
_SPLIT_PACKAGES = (*QEMU_PACKAGES, "qemu-system-modules-opengl", "qemu-system-modules-spice")

# what debian-installer has done since Debian 10; mmdebstrap leaves it to packages of Debian 12
_MERGED = """--setup-hook=for part in bin sbin lib lib32 lib64 libx32; do
    mkdir -p "$1/usr/$part" && ln -s "usr/$part" "$1/$part" || exit
done"""

BULLSEYE = Release("bullseye", security="perhaps", options=(_MERGED,))
BOOKWORM = RELEASE
TRIXIE = Release("trixie", _SPLIT_PACKAGES)
SID = Release("sid", _SPLIT_PACKAGES, security="no", may_be_expired=True)

_NEXT_SOURCES = "/etc/apt/sources.list.next"
_NEXT_LISTS = "/var/lib/apt/lists.next"
_AS_NEXT = (
    f"--option=Dir::Etc::SourceList={_NEXT_SOURCES}",
    "--option=Dir::Etc::SourceParts=/dev/null",
    f"--option=Dir::State::Lists={_NEXT_LISTS}",
    # in memory: on disk they are what apt knows about its own release
    "--option=Dir::Cache::pkgcache=",
    "--option=Dir::Cache::srcpkgcache=",
)
_KEEP_CONFIGURATION = (
    "--option=Dpkg::Options::=--force-confdef",
    "--option=Dpkg::Options::=--force-confold",
)

# what an admin does with an editor and `apt-get update`; the lists are there already
_SWITCH = """
set -e
rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists
mv "$1" /etc/apt/sources.list
mv "$2" /var/lib/apt/lists
"""


@dataclass(frozen=True, slots=True)
class Crossing:
    """From one release to the next."""

    old: Release
    new: Release
    python_is_too_old: bool = False
    """That of the old release, for holdover."""

    @property
    def name(self) -> str:
        return f"{self.old.codename}-to-{self.new.codename}"

    @property
    def recipe(self) -> Recipe:
        # procps as on any real system: maintainer scripts look for guests with ps
        return Recipe(self.name, self.old, self.fill, (*HOST_PACKAGES, "procps"))

    def fill(self, root: ThrowawayRoot, progress: Progress) -> None:
        """QEMU installed; what the upgrade needs downloaded."""
        progress(f"installing QEMU of {self.old.codename} in it")
        root.apt("install", *self.old.qemu_packages)
        root.apt("clean")
        download_next(root, self.new, progress)


CROSSINGS = {
    crossing.name: crossing
    for crossing in (
        Crossing(BULLSEYE, BOOKWORM, python_is_too_old=True),
        Crossing(BOOKWORM, TRIXIE),
        Crossing(TRIXIE, SID),
    )
}


def download_next(root: ThrowawayRoot, new: Release, progress: Progress) -> None:
    """Lists and packages of the next release, for what is installed in the root now."""
    progress(f"downloading the upgrade to {new.codename}")
    sources = existing_sources(new, progress)
    root.run("tee", _NEXT_SOURCES, text="".join(f"{line}\n" for line in sources))
    root.run("mkdir", "-p", f"{_NEXT_LISTS}/partial")
    root.apt(*_AS_NEXT, "update")
    root.apt(*_AS_NEXT, "--download-only", "full-upgrade")


def turn_to_the_next(root: ThrowawayRoot) -> None:
    """Make apt of a copy of a crossing's base know the next release."""
    root.run("sh", "-c", _SWITCH, "sh", _NEXT_SOURCES, _NEXT_LISTS)


def full_upgrade(root: ThrowawayRoot) -> CompletedProcess[str]:
    """Upgrade to the next release what was turned to it, whatever apt's exit code."""
    apt = ("apt-get", "--yes", "--quiet", *_KEEP_CONFIGURATION, "full-upgrade")
    return root.run(*apt, check=False, timeout=_HOUR)
