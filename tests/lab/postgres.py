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

from holdover.demo.archive import HOST_PACKAGES, RELEASE, Recipe, builds
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress
from lab.distributions import TRIXIE, download_next

__all__ = ["RECIPE", "RECIPE_TO_TRIXIE", "PACKAGES", "MODULES", "THIRD", "prepare_servers", "update", "update_to_third", "versions"]

PACKAGES = (
    *("postgresql-15", "postgresql-client-15", "postgresql-plperl-15", "postgresql-plpython3-15"),
    "libpq5",
)
"""What a point update changes; libpq5 is built from the same source."""
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

# Arguments: the version to start from, the directory for the packages. "er" and "fQ" have the same
# GNU hash (33 * e + r), with any text around them: the hash tables stay true. The same bytes are
# replaced in the bitcode, from which the server compiles. The build-id is a note of 20 bytes.
_REPACK = """
set -e
mkdir -p "$2" /srv/repack
for name in postgresql-15 postgresql-plperl-15 postgresql-plpython3-15; do
    deb=$(ls /var/cache/apt/archives/${name}_${1}_*.deb)
    dpkg-deb --raw-extract "$deb" /srv/repack/$name
    cd /srv/repack/$name
    find usr/lib/postgresql/15 -type f -exec sed -i 's/errfinish/fQrfinish/g' {} +
    for file in $(find usr/lib/postgresql/15 -name '*.so') usr/lib/postgresql/15/bin/postgres; do
        test ! -e $file || python3 -I -c "$3" $file
    done
    sed -i "s/$1/$1.third/g" DEBIAN/control
    find usr -type f -exec md5sum {} + >DEBIAN/md5sums
    dpkg-deb --build -Znone /srv/repack/$name "$2"
done
rm -r /srv/repack
"""
# what each copy of the base would have to carry and no test installs
_FORGET_OTHERS = """
find /var/cache/apt/archives -name '*.deb' ! -name 'postgresql*-15_*' ! -name 'libpq5_*' -delete
"""
# The note of the build-id: name size 4, size 20, type 3, "GNU".
_RESTAMP = r"""
import sys
content = open(sys.argv[1], "rb").read()
head = b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0"
before, found, after = content.partition(head)
assert found and head not in after
open(sys.argv[1], "wb").write(before + found + bytes(255 - x for x in after[:20]) + after[20:])
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
    older, newer = versions(root)
    prepare_servers(root)
    progress(f"installing PostgreSQL {older} in it")
    root.apt("install", *(f"{package}={older}" for package in PACKAGES))
    root.run("sh", "-c", _FORGET_OTHERS)
    progress(f"downloading PostgreSQL {newer} for later")
    root.apt("install", "--download-only", *(f"{package}={newer}" for package in PACKAGES))
    progress("making a third build of it")
    root.run("sh", "-c", _REPACK, "sh", newer, THIRD, _RESTAMP)


def _fill_for_the_next(root: ThrowawayRoot, progress: Progress) -> None:
    """The newest of Debian 12, by the package that most hosts have; Debian 13's downloaded."""
    prepare_servers(root)
    progress("installing PostgreSQL in it")
    root.apt("install", "postgresql", *PACKAGES)
    root.apt("clean")
    download_next(root, TRIXIE, progress)


RECIPE = Recipe("postgres-update", RELEASE, _fill, (*HOST_PACKAGES, "procps"))
RECIPE_TO_TRIXIE = Recipe(
    "postgres-to-trixie", RELEASE, _fill_for_the_next, (*HOST_PACKAGES, "procps")
)
