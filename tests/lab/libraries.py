# SPDX-License-Identifier: Apache-2.0
"""A base whose libraries, too, can be upgraded: those of which the archive offers two builds."""

from holdover.demo.archive import RELEASE, TWO_BUILDS, Recipe, builds
from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError
from holdover.looking import Progress
from lab.chroot import Lab

__all__ = ["DISKS", "LIBRARIES", "RECIPE", "change_library", "changeable"]

DISKS = {"libssh-4": "ssh disk", "libcurl3-gnutls": "https disk", "libnfs13": "nfs disk"}
"""For each package what needs its library late."""
LIBRARIES = {
    "libssh-4": "libssh.so.4",
    "libcurl3-gnutls": "libcurl-gnutls.so.4",
    "libnfs13": "libnfs.so.13",
}


def _fill(root: ThrowawayRoot, progress: Progress) -> None:
    """The older builds are installed, the newer ones lie in apt's cache."""
    TWO_BUILDS.fill(root, progress)
    found = changeable(root)
    if not found:
        raise CommandError(f"the archive offers no two builds of any of {', '.join(LIBRARIES)}")
    for package in found:
        older, newer = builds(root, package)
        progress(f"installing {package} {older}")
        root.apt("install", "--reinstall", "--download-only", f"{package}={newer}")
        root.apt("install", f"{package}={older}")


RECIPE = Recipe("libraries", RELEASE, _fill)


def changeable(root: ThrowawayRoot) -> list[str]:
    """Packages of which there are two builds now."""
    found = []
    for package in LIBRARIES:
        try:
            builds(root, package)
        except CommandError:
            continue
        found.append(package)
    return found


def change_library(lab: Lab, package: str, *, newer: bool = True) -> str:
    """One real transaction for one library alone; returns what was printed."""
    version = builds(lab.root, package)[newer]
    return lab.root.apt("install", f"{package}={version}").stdout
