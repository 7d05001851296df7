# SPDX-License-Identifier: Apache-2.0
"""A small guest system: a kernel of Debian's, and an initramfs whose first program works.

It is built once, in a copy of a lab's base, from packages that are unpacked and not installed, and
kept beside the bases. It never gets old: nothing is upgraded in it.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from holdover.demo.root import ThrowawayRoot
from lab import init
from lab import initramfs as archive
from lab.bases import base_directory

__all__ = ["System", "prepare_system"]

_BUSYBOX = "busybox-static"
_KERNEL = "linux-image-cloud-amd64"  # depends on the newest; made for guests, half as big as others

# Arguments: the packages; the second is that whose dependency is the kernel. 28 MB come over the
# network: what is kept of the base's lists may name a kernel that the archive no longer has.
_DOWNLOAD = f"""
set -e
apt-get -q update
kernel=$(apt-cache depends --important {_KERNEL} | sed -n 's/ *Depends: //p')
mkdir /srv/system
cd /srv/system
apt-get -q -o APT::Sandbox::User=root download "$kernel" {_BUSYBOX}
for package in *.deb; do
    dpkg-deb --extract "$package" files
done
cp files/boot/vmlinuz-* kernel
"""


@dataclass(frozen=True, slots=True)
class System:
    """Where its two files are."""

    directory: Path

    @property
    def kernel(self) -> Path:
        return self.directory / "kernel"

    @property
    def initramfs(self) -> Path:
        return self.directory / "initramfs"


def prepare_system(cache: Path, base: Path, scratch: Path) -> System:
    """The system, built if it is not kept below `cache`."""
    recipe = "".join(Path(str(source.__file__)).read_text() for source in (init, archive))
    directory = base_directory(cache, "system", recipe + Path(__file__).read_text())
    if not directory.exists():
        with ThrowawayRoot.copy_of(base, scratch) as root:
            root.run("sh", "-c", _DOWNLOAD)
            _keep(root.inside / "srv/system", directory)
    return System(directory)


def _keep(built: Path, directory: Path) -> None:
    files = built / "files"
    modules = archive.module_order(files / "lib/modules", init.MODULES)
    programs = {"init": init.INIT.encode(), "bin/busybox": (files / "bin/busybox").read_bytes()}
    data = {f"modules/{path.name}": path.read_bytes() for path in modules}
    data["modules/order"] = "".join(f"{path.name}\n" for path in modules).encode()
    unfinished = directory.with_name(f"{directory.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    (unfinished / "initramfs").write_bytes(archive.initramfs(programs, data))
    shutil.copy(built / "kernel", unfinished)
    unfinished.rename(directory)
