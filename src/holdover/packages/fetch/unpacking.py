# SPDX-License-Identifier: Apache-2.0
"""Unpacks the part of a package that is of use: libraries, modules, one executable.

Every directory is 0755 and every file 0644 or 0755, of root; nothing is set-id, no device is made,
no link leads out of the new root. /usr is merged, as it is on every release that is supported.
Source: tar(5); deb(5).
"""

import os
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Self

from holdover.elf import ElfFile
from holdover.errors import ElfError, MalformedError
from holdover.packages.fetch import PackageFile, Wanted

__all__ = ["assemble", "unpack", "plain", "of_use"]

_MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_SENSELESS = (tarfile.TarError, ValueError, OverflowError, EOFError)
_MAX_PARTS = 64  # of a path: what is deeper cannot even be removed again without recursion
_MAX_HEADER = 1 << 14  # bytes of a header that stands before another: a long name, and few words
_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


def assemble(
    root: Path,
    wanted: Wanted,
    archives: Mapping[PackageFile, AbstractContextManager[IO[bytes]]],
) -> tuple[dict[str, PackageFile], str]:
    """Unpack packages below a new `root`; who owns each file, and why that is not the build.

    Raises `MalformedError`, `OSError`, and what opening an archive raises.
    """
    if root.exists():
        shutil.rmtree(root)
    _make_root(root)
    owners: dict[str, PackageFile] = {}
    use = of_use(wanted.executable, wanted.directories)
    for file, opening in archives.items():
        with opening as archive:
            owners |= dict.fromkeys(unpack(archive, root, use), file)
    found = _build_id_of(root / plain(str(wanted.executable))[1:])
    if found and found == wanted.build_id:
        return owners, ""
    what = f"of build {found}" if found else "not there"
    return {}, f"{wanted.executable} is {what}, and not of build {wanted.build_id}"


def _build_id_of(path: Path) -> str:
    """The build-id of an executable, "" if there is none or no such file."""
    try:
        with path.open("rb") as file:
            return ElfFile(file).build_id
    except (OSError, ElfError):
        return ""


def _make_root(root: Path) -> None:
    """An empty one, where /lib is /usr/lib."""
    root.mkdir(mode=0o755)
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")


def plain(name: str) -> str:
    """An archive's name of a file as a path, /lib as /usr/lib; "" if it leads elsewhere.

    "" also for one of more directories than any real one.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or len(parts) > _MAX_PARTS or ".." in parts or "\0" in name:
        return ""
    return "/" + "/".join(["usr", *parts] if parts[0] in _MERGED else parts)


def of_use(executable: Path, directories: tuple[Path, ...]) -> Callable[[str], bool]:
    """Tells by its path whether a file can be of use to that executable."""
    own = plain(str(executable))
    libraries = tuple(f"/usr/{name}/" for name in _MERGED if name.startswith("lib"))
    below = (*libraries, "/etc/ld.so.conf", *(f"{plain(str(path))}/" for path in directories))
    return lambda path: path == own or path.startswith(below)


def unpack(archive: IO[bytes], root: Path, wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """Unpack what is `wanted` of a tar archive below `root`; returns the paths of its files.

    Raises `MalformedError` for an archive that is damaged or wants out, `OSError` if a file cannot
    be made.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r|", tarinfo=_Member) as members:
            return tuple(_unpack_all(members, root.resolve(), wanted))
    except _SENSELESS as error:
        raise MalformedError(f"a package cannot be unpacked: {error}") from error


class _Member(tarfile.TarInfo):
    """A header; those that stand before another are read as a whole, and looked through often."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        if found.size < 0 or (found.type in _HEADERS and found.size > _MAX_HEADER):
            raise MalformedError(f"a package cannot be unpacked: a header of {found.size} bytes")
        return found


def _unpack_all(
    members: tarfile.TarFile, root: Path, wanted: Callable[[str], bool]
) -> Iterator[str]:
    for member in members:
        path = plain(member.name)
        if not path or not wanted(path):
            continue
        if member.isdir():
            _make_directory(root, root / path[1:])
        elif member.isreg() or member.issym() or member.islnk():
            target = _make_directory(root, (root / path[1:]).parent) / path.rpartition("/")[2]
            if _make(members, member, root, target):
                yield f"/{target.relative_to(root)}"


def _make_directory(root: Path, path: Path) -> Path:
    """The directory itself: links among its names were made here, and are followed."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    real = path.resolve()
    if not real.is_relative_to(root):
        raise MalformedError(f"a package cannot be unpacked: {path} leads out of it")
    return real


def _make(members: tarfile.TarFile, member: tarfile.TarInfo, root: Path, target: Path) -> bool:
    """Whether there is such a file now; what another package put there is replaced."""
    if member.islnk():
        source = root / plain(member.linkname)[1:]
        if not source.is_file() or source.is_symlink() or source == target:
            return False
    target.unlink(missing_ok=True)
    if member.islnk():
        target.hardlink_to(source)
    elif member.issym():
        target.symlink_to(_inside(root, target, member.linkname))
    else:
        _write(members, member, target)
    return True


def _inside(root: Path, target: Path, link: str) -> str:
    """Where a link leads, said so that it stays below the root wherever that lies."""
    base = f"/{target.parent.relative_to(root)}"
    led = os.path.normpath(os.path.join(base, link))  # noqa: PTH118: a text of another system
    return os.path.relpath(plain(led) or "/", base)


def _write(members: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = members.extractfile(member)
    if content is None:
        raise MalformedError(f"a package cannot be unpacked: {member.name} has no content")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(target, flags, 0o600), "wb") as file:
        while block := content.read(1 << 20):
            file.write(block)
        os.fchmod(file.fileno(), 0o755 if member.mode & stat.S_IXUSR else 0o644)
