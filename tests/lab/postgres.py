# SPDX-License-Identifier: Apache-2.0
"""Debians with a PostgreSQL of which the archive has two builds; a third one is made of the newer.

The older build is installed, the packages of the others lie beside it, so that no update needs a
network. `policy-rc.d` forbids to stop or start any service: it is what an operator sets who cannot
restart his servers now.

The third build is the newer one with other names: every module of PostgreSQL calls `errfinish`, and
the third build's server and modules call it otherwise. So a server of the newer build that loads a
module of the third fails as one of the older build fails with the newer: undefined symbol.
"""

from subprocess import CompletedProcess

from holdover.demo.archive import (
    HOST_PACKAGES,
    RELEASE,
    Recipe,
    Release,
    builds,
    existing_sources,
)
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress
from lab.distributions import BULLSEYE, SID, TRIXIE, download_next

__all__ = [
    "RECIPE",
    "RECIPE_TO_TRIXIE",
    "RECIPE_OF_TWO_MAJORS",
    "RECIPES_OF_LATER_MAJORS",
    "RECIPE_BOOTED",
    "PACKAGES",
    "MODULES",
    "THIRD",
    "prepare_servers",
    "update",
    "update_to_third",
    "versions",
]

PACKAGES = (
    *("postgresql-15", "postgresql-client-15", "postgresql-plperl-15", "postgresql-plpython3-15"),
    "libpq5",
)
"""What a point update changes; libpq5 is built from the same source."""
MAJORS = ("postgresql-13", "postgresql-15")
MODULES = "/usr/lib/postgresql/15/lib"
THIRD = "/srv/third"

# an operator's two decisions: no restart now, and no cluster that nobody asked for
_PREPARE = """
set -e
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
mkdir -p /etc/postgresql-common
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
"""

# Arguments: a package, its version to start from, the directory for the new one. "er" and "fQ" have
# the same GNU hash (33 * e + r), with any text around them: the hash tables stay true. The same
# bytes are replaced in the bitcode, from which the server compiles.
_REPACK = """
set -e
mkdir -p "$3" /srv/repack
deb=$(ls /var/cache/apt/archives/$1_$2_*.deb)
dpkg-deb --raw-extract "$deb" /srv/repack
cd /srv/repack
find usr/lib/postgresql -type f -exec sed -i 's/errfinish/fQrfinish/g' {} +
find usr/lib/postgresql -type f -name '*.so' -o -type f -name postgres | xargs python3 -I -c "$4"
sed -i "s/$2/$2.third/g" DEBIAN/control
find usr -type f -exec md5sum {} + >DEBIAN/md5sums
dpkg-deb --build -Znone /srv/repack "$3"
rm -r /srv/repack
"""
# what each copy of the base would have to carry and no test installs
_FORGET_OTHERS = """
find /var/cache/apt/archives -name '*.deb' ! -name 'postgresql*-15_*' ! -name 'libpq5_*' -delete
"""
# The note of the build-id: name size 4, size 20, type 3, "GNU".
_RESTAMP = r"""
import sys
head = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0"
for name in sys.argv[1:]:
    before, found, after = open(name, "rb").read().partition(head)
    assert found and head not in after
    open(name, "wb").write(before + found + bytes(255 - x for x in after[:20]) + after[20:])
"""


def prepare_servers(root: ThrowawayRoot) -> None:
    """What an operator sets before he installs PostgreSQL."""
    root.run("sh", "-c", _PREPARE)


def versions(root: ThrowawayRoot) -> tuple[str, str]:
    """The older and the newer build that the archive offers."""
    return builds(root, "postgresql-15")


def update(root: ThrowawayRoot, version: str) -> CompletedProcess[str]:
    """A real apt transaction from one build to another."""
    return root.apt("install", *(f"{package}={version}" for package in PACKAGES))


def update_to_third(root: ThrowawayRoot) -> CompletedProcess[str]:
    return root.run("sh", "-c", f"apt-get --yes --quiet install {THIRD}/*.deb")


def _fill(root: ThrowawayRoot, progress: Progress) -> None:
    newer = _fill_with_two_builds(root, progress)
    progress("making a third build of it")
    for package in ("postgresql-15", "postgresql-plperl-15", "postgresql-plpython3-15"):
        _make_third(root, package, newer)


def _fill_with_two_builds(root: ThrowawayRoot, progress: Progress) -> str:
    """The older one installed, the newer one downloaded; its version."""
    older, newer = versions(root)
    prepare_servers(root)
    progress(f"installing PostgreSQL {older} in it")
    root.apt("install", *(f"{package}={older}" for package in PACKAGES))
    root.run("sh", "-c", _FORGET_OTHERS)
    progress(f"downloading PostgreSQL {newer} for later")
    root.apt("install", "--download-only", *(f"{package}={newer}" for package in PACKAGES))
    return newer


def _make_third(root: ThrowawayRoot, package: str, newer: str) -> None:
    root.run("sh", "-c", _REPACK, "sh", package, newer, THIRD, _RESTAMP)


def _fill_for_a_boot(root: ThrowawayRoot, progress: Progress) -> None:
    """The same builds; nothing of it may start in the middle of a test."""
    _fill_with_two_builds(root, progress)
    root.run("systemd-machine-id-setup")
    root.run("systemctl", "mask", "apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer")


def _fill_for_the_next(root: ThrowawayRoot, progress: Progress) -> None:
    """The newest of Debian 12, by the package that most hosts have; Debian 13's downloaded."""
    prepare_servers(root)
    progress("installing PostgreSQL in it")
    root.apt("install", "postgresql", *PACKAGES)
    root.apt("clean")
    download_next(root, TRIXIE, progress)


def _fill_with_two_majors(root: ThrowawayRoot, progress: Progress) -> None:
    """PostgreSQL 13 of Debian 11 beside Debian 12's 15, as on a host that was upgraded once.

    A server of 13.16 works with the modules of 13.23; so both get a third build.
    """
    prepare_servers(root)
    sources = existing_sources(BULLSEYE, progress)
    root.run("tee", "/etc/apt/sources.list.d/bullseye.list", text="\n".join([*sources, ""]))
    root.apt("update")
    for package in MAJORS:
        older, newer = builds(root, package)
        client = package.replace("-", "-client-")
        progress(f"installing {package} {older} in it")
        root.apt("install", f"{package}={older}", f"{client}={older}")
        progress(f"making a third build of {newer}")
        root.apt("install", "--download-only", f"{package}={newer}", f"{client}={newer}")
        _make_third(root, package, newer)
        root.apt("clean")


def _recipe_of(major: str, release: Release, *more: str) -> Recipe:
    """The one build of it that the release has, and a third build of that."""

    def fill(root: ThrowawayRoot, progress: Progress) -> None:
        prepare_servers(root)
        packages = [f"postgresql-{part}{major}" for part in ("", "plperl-", "plpython3-")]
        progress(f"installing {packages[0]} of {release.codename} in it")
        root.apt("install", *packages, *more)
        for package in (*packages, *more):
            _make_third(root, package, _installed(root, package))
        root.apt("clean")

    return Recipe(f"postgres-{major}", release, fill, (*HOST_PACKAGES, "procps"))


def _installed(root: ThrowawayRoot, package: str) -> str:
    return root.run("dpkg-query", "--show", "--showformat=${Version}", package).stdout


RECIPE = Recipe("postgres-update", RELEASE, _fill, (*HOST_PACKAGES, "procps"))
RECIPE_TO_TRIXIE = Recipe(
    "postgres-to-trixie", RELEASE, _fill_for_the_next, (*HOST_PACKAGES, "procps")
)
RECIPE_OF_TWO_MAJORS = Recipe(
    "postgres-majors", RELEASE, _fill_with_two_majors, (*HOST_PACKAGES, "procps")
)
RECIPE_BOOTED = Recipe(
    "postgres-booted", RELEASE, _fill_for_a_boot, (*HOST_PACKAGES, "procps", "systemd-sysv", "dbus")
)
RECIPES_OF_LATER_MAJORS = {
    "17": _recipe_of("17", TRIXIE),
    "18": _recipe_of("18", SID, "postgresql-client-18", "postgresql-18-jit"),
}
