# SPDX-License-Identifier: Apache-2.0
"""The exact old packages of a build, verified, in a private directory.

The package manager of the machine resolves, downloads and checks signatures; it is given a state of
its own, so that nothing of the machine's is changed. Nothing is installed, no script of a package
runs, nothing that was downloaded is executed. A package file counts only if it has the digest that
a signed index (or rpm's own signature) vouches for, whoever brought it.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import CommandError, HoldoverError, MissingError
from holdover.run import run

__all__ = ["fetch", "Wanted", "Sources", "PackageFile", "Fetched"]
__all__ += ["Progress", "package_version", "missing_error"]

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Packages of one exact build of a program."""

    executable: Path
    """Where it was installed; another build, or nothing, may lie there now."""
    build_id: str
    version: str
    """What it calls its build: "7.2.22 (Debian 1:7.2+dfsg-7+deb12u15)"; perhaps "7.2.22 ()"."""
    directories: tuple[Path, ...]
    """Where it looks for modules."""
    packages: tuple[str, ...]
    """Glob patterns of names of packages."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where packages may come from, besides the caches of this machine."""

    directory: Path | None = None
    """Package files, and perhaps indexes, that somebody put there; nothing is downloaded then."""
    network: bool = True
    releases: tuple[str, ...] = ()
    """Codenames to look in, besides those of the machine's own sources; () = the known ones."""
    snapshot_archive: str = ""
    """Address of an archive of superseded builds, of the layout of Debian's; "" = none."""
    debuginfod: tuple[str, ...] = ()
    """Addresses of debuginfod servers to ask at last; () = none."""


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A package file, or an index of package files, as an archive has it."""

    name: str
    version: str
    architecture: str
    file_name: str
    """As it is called in the archive."""
    digest: str
    """ "sha256:..." or what else the signed index gives; "" if no index knows it."""
    size: int
    """Bytes; 0 if no index knows it."""
    address: str
    """Where it can be downloaded, or its path on any mirror; "" if that is not known."""
    origin: str = ""
    """Where it was taken from, for people."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was unpacked."""

    root: Path
    """What lay at /usr/lib/x lies at root/usr/lib/x; /lib, /lib64, /bin and /sbin are in /usr."""
    packages: tuple[PackageFile, ...]
    owners: Mapping[str, PackageFile]
    """By path as on the machine it was made for: "/usr/lib/x"."""
    bytes_downloaded: int
    notes: tuple[str, ...] = ()
    """What was refused or could not be used on the way."""


def fetch(
    wanted: Wanted, place: Path, sources: Sources, *, dependencies: bool, progress: Progress
) -> Fetched:
    """Get, verify and unpack below `place` the packages of an executable and of its modules.

    Those are the packages that own them now, in whatever version, in the version of the build; with
    `dependencies` also the libraries that they depend on. `place` belongs to root and nobody else
    can write there; who calls removes it. A second call with the same `place` loads nothing twice.

    Each file that is unpacked had the digest that a signed index vouches for, and the executable
    below `Fetched.root` has the build-id. Raises `MissingError` with the list of files that are
    needed and not to be had, or another `HoldoverError` with what was tried.

    What a debuginfod server has is the exception: only modules, each with a build-id that a signed
    index names beside the executable's; their origins say so.
    """
    try:
        return _manager_of(wanted)(wanted, place, sources, dependencies, progress)
    except OSError as error:
        raise CommandError(f"packages cannot be fetched to {place}: {error}") from error


_Fetch = Callable[[Wanted, Path, Sources, bool, Progress], Fetched]


def _manager_of(wanted: Wanted) -> _Fetch:
    """That of the database that knows the executable; else the one that is here."""
    from holdover.packages.fetch import apt, rpm

    dpkg = shutil.which("dpkg-query")
    if dpkg and _succeeds("dpkg-query", "--search", wanted.executable):
        return apt.fetch
    if shutil.which("rpm") and (
        not dpkg or _succeeds("rpm", "--query", "--file", wanted.executable)
    ):
        return rpm.fetch
    if dpkg and shutil.which("apt-get"):
        return apt.fetch
    raise CommandError("this machine has no package manager that old packages can be had from")


def _succeeds(*command: str | Path) -> bool:
    return run(*command, check=False).returncode == 0


def package_version(version: str) -> tuple[str, ...]:
    """What may be the package's version in what an executable says, most likely first.

    "7.2.22 (Debian 1:7.2+dfsg-7+deb12u15)" may mean "1:7.2+dfsg-7+deb12u15". () if it names none.
    """
    inside = version.partition("(")[2].rpartition(")")[0].strip()
    behind = inside.partition(" ")[2].strip()
    return tuple(dict.fromkeys(text for text in (behind, inside) if text))


def missing_error(message: str, files: tuple[PackageFile, ...], notes: list[str]) -> HoldoverError:
    """`MissingError` that lists the files, one a line, after what was refused."""
    lines = [*notes, "put these files into a directory and name it with --from:"]
    for file in files:
        told = [file.digest, f"{file.size} bytes" if file.size else "", file.address]
        lines.append("  " + "  ".join([file.file_name, *filter(None, told)]))
    return MissingError(message, hint="\n".join(lines), files=files, notes=tuple(notes))
