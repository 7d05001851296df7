# SPDX-License-Identifier: Apache-2.0
"""A Debian whose QEMU belongs to another package manager: rpm, dnf, zypper or pacman.

The managers come from Debian's archive. The packages are built in the base, from the files of the
older and of the newer Debian build of QEMU: versions 1 and 2 of the same. Version 1 is installed,
as far as rpm and pacman know; dpkg no longer knows QEMU, but still what it needs. `other` is a
package that nobody needs late, with a library all the same.

Only sid has dnf 5, and only one build of QEMU: there version 2 is the same with another stamp,
which is all that QEMU compares.
"""

from holdover.demo.archive import (
    HOST_PACKAGES,
    RELEASE,
    TWO_BUILDS,
    Recipe,
    Release,
    qemu_builds,
)
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress
from lab.distributions import SID

__all__ = ["OTHER", "QEMU", "RECIPE", "RECIPE_OF_DNF5"]

QEMU = ("qemu-system-x86-core", "qemu-block-extra")  # a name as in Fedora, and one as in Debian
OTHER = "other"
_MANAGERS = ("rpm", "dnf", "zypper", "pacman-package-manager", "createrepo-c")

# Debian's rpm has a database for each user, because dpkg owns the system.
_CONFIGURE = """
set -e
mkdir -p /etc/rpm /etc/yum.repos.d /etc/zypp/repos.d
echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros
printf '[lab]\\nname=lab\\nbaseurl=file:///srv/rpm\\nenabled=1\\ngpgcheck=0\\n' |
    tee /etc/yum.repos.d/lab.repo >/etc/zypp/repos.d/lab.repo
ln -sf /proc/self/mounts /etc/mtab
printf '[lab]\\nSigLevel = Never\\nServer = file:///srv/pacman\\n' >>/etc/pacman.conf
"""
# Arguments: the directory to make, the version of QEMU.
_UNPACK = """
set -e
mkdir -p "$1"
for deb in /var/cache/apt/archives/qemu-*_"$(echo "$2" | sed s/:/%3a/)"_*.deb; do
    dpkg-deb --extract "$deb" "$1"
done
"""
# Arguments: the directory to make.
_RESTAMP = """
set -e
mkdir -p "$1/usr/bin" "$1/usr/lib/x86_64-linux-gnu"
cp -a /usr/bin/qemu-system-x86_64 "$1/usr/bin"
cp -a /usr/lib/x86_64-linux-gnu/qemu "$1/usr/lib/x86_64-linux-gnu"
cd "$1"
sed -i 's/qemu_stamp_....../qemu_stamp_f00f00/g' usr/bin/* usr/lib/x86_64-linux-gnu/qemu/*.so
"""
# Arguments: a directory, the version of the packages.
_DIVIDE = """
set -e
cd "$1"
lib=usr/lib/x86_64-linux-gnu
set -- $2
mkdir -p /srv/files/qemu-system-x86-core-$1/usr/bin /srv/files/qemu-block-extra-$1/$lib
cp -a usr/bin/qemu-system-x86_64 /srv/files/qemu-system-x86-core-$1/usr/bin
cp -a $lib/qemu /srv/files/qemu-block-extra-$1/$lib
other=/srv/files/other-$1/usr
mkdir -p $other/share/other $other/lib/other
echo version $1 | tee $other/share/other/text >$other/lib/other/libother.so.1
"""
# Arguments: name, version, and the package that is to come with it.
_BUILD = """
set -e
files=/srv/files/$1-$2
cat >/srv/package.spec <<END
%define _binary_payload w1.gzdio
%define _build_id_links none
%define __os_install_post %{nil}
Name: $1
Version: $2
Release: 1
Summary: Files of Debian
License: as in Debian
AutoReqProv: no
${3:+Requires: $3 = $2}
%description
For tests.
%install
cp -a $files/. %{buildroot}
%files
$(cd $files && find usr ! -type d -printf '/%p\\n')
END
rpmbuild --quiet -bb --define '_rpmdir /srv/rpm' /srv/package.spec 2>&1
cd $files
cat >.PKGINFO <<END
pkgname = $1
pkgver = $2-1
pkgdesc = Files of Debian
arch = x86_64
license = as in Debian
size = 1
${3:+depend = $3=$2-1}
END
mkdir -p /srv/pacman
package=$1-$2-1-x86_64.pkg.tar.gz
mkdir -p "/srv/index-$2/$1-$2-1"
printf '%%%s%%\\n%s\\n\\n' FILENAME "$package" NAME "$1" VERSION "$2-1" ARCH x86_64 \\
    ${3:+DEPENDS "$3=$2-1"} >"/srv/index-$2/$1-$2-1/desc"
GZIP=-1 tar --create --gzip --file "/srv/pacman/$package" .PKGINFO usr
"""
# Each database is told that version 1 is there; dpkg's QEMU has gone, what it depends on is kept.
# Argument: packages of dpkg.
_INSTALL = """
set -e
dpkg --force-depends --purge $1
test ! -x /usr/bin/pacman || pacman --upgrade --noconfirm /srv/pacman/*-1-1-x86_64.pkg.tar.gz
rpm --install --nodeps --replacefiles /srv/rpm/*/*-1-1.*.rpm
(cd /srv/index-2 && tar --create --file /srv/pacman/lab.db *)
rm -r /srv/pacman/*-1-1-* /srv/rpm/*/*-1-1.* # each test copies what is left
createrepo_c --quiet /srv/rpm
rm -r /srv/index-* /srv/files /srv/tree-* /srv/package.spec /root/rpmbuild /var/lib/apt/lists/*
apt-get clean
"""


def _fill(root: ThrowawayRoot, progress: Progress) -> None:
    TWO_BUILDS.fill(root, progress)
    for number, version in zip("12", qemu_builds(root), strict=True):
        root.run("sh", "-c", _UNPACK, "sh", f"/srv/tree-{number}", version)
    _repack(root, progress, "/srv/tree-1", RELEASE)


def _fill_with_dnf5(root: ThrowawayRoot, progress: Progress) -> None:
    progress("installing QEMU of sid in it")
    root.apt("install", *SID.qemu_packages)
    root.run("sh", "-c", _RESTAMP, "sh", "/srv/tree-2")
    _repack(root, progress, "/", SID)


def _repack(root: ThrowawayRoot, progress: Progress, first: str, release: Release) -> None:
    """Packages of the files below the directory `first`, and of those in /srv/tree-2."""
    progress("building packages")
    root.run("sh", "-c", _CONFIGURE)
    for number, tree in (("1", first), ("2", "/srv/tree-2")):
        root.run("sh", "-c", _DIVIDE, "sh", tree, number)
        for name, companion in ((QEMU[0], QEMU[1]), (QEMU[1], ""), (OTHER, "")):
            root.run("sh", "-c", _BUILD, "sh", name, number, companion)
    root.run("sh", "-c", _INSTALL, "sh", " ".join(release.qemu_packages))


RECIPE = Recipe("managers", RELEASE, _fill, (*HOST_PACKAGES, *_MANAGERS))
RECIPE_OF_DNF5 = Recipe(
    "dnf5", SID, _fill_with_dnf5, (*HOST_PACKAGES, "rpm", "dnf5", "createrepo-c")
)
