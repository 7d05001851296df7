# SPDX-License-Identifier: Apache-2.0
"""The index of a repository of rpm packages: which files it has, with what digests.

Source: createrepo_c(8); primary.xml of the rpm-md format. It may have hundreds of megabytes, of
which a few entries are wanted, so it is cut at the end of each entry and not parsed as a whole.
"""

import gzip
import html
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from holdover.errors import MalformedError
from holdover.packages.fetch import PackageFile
from holdover.run import reading

__all__ = ["Entry", "read_primary", "parse_primary", "parse_unsigned", "repository_of"]

_MAX_ENTRY = 1 << 24  # bytes; one with more is none
_MAX_INDEX = 1 << 31  # bytes, unpacked; the largest distributions have some hundred millions
_MAX_ENTRIES = 10_000  # with wanted names
_MAX_NAME = 255  # bytes of a file's name, <linux/limits.h>
_MAX_MEMORY = 1 << 28  # bytes that unpacking may take; xz's own presets need a quarter at most
_BLOCK = 1 << 20
_NAME = re.compile(rb"<name>([^<]+)</name>")
_FIELDS = {
    "architecture": re.compile(r"<arch>([A-Za-z0-9_]+)</arch>"),
    "version": re.compile(r'<version epoch="(\d+)" ver="([^"/]+)" rel="([^"/]+)"'),
    "digest": re.compile(r'<checksum type="([a-z0-9]+)" pkgid="YES">([0-9a-f]+)</checksum>'),
    "size": re.compile(r'<size package="(\d{1,15})"'),
    "address": re.compile(r'<location (?:xml:base="[^"]*" )?href="([^"]+)"'),
}
_PROGRAM = re.compile(r"<file>(/usr/s?bin/[^<]+)</file>")
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)


@dataclass(frozen=True, slots=True)
class Entry:
    """A package in a repository."""

    file: PackageFile
    programs: tuple[str, ...]
    """Paths of its executables."""
    repository: str

    @property
    def version(self) -> str:
        """Without the epoch."""
        return self.file.version.rpartition(":")[2]


def read_primary(path: Path, wanted: Callable[[str], bool]) -> Iterator[Entry]:
    """Entries of packages with wanted names; raises `MalformedError` if it cannot be read."""
    try:
        with _opened(path) as file:
            blocks = _unxz(file) if path.suffix == ".xz" else _blocks(file)
            yield from parse_primary(blocks, wanted, repository_of(path))
    except _DAMAGED as error:
        raise MalformedError(f"{path} cannot be read: {error}") from error


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: file.read(_BLOCK), b"")


def _unxz(file: IO[bytes]) -> Iterator[bytes]:
    """`lzma.LZMAFile` would take as much memory as the file asks for; only one stream is read."""
    unpacker = lzma.LZMADecompressor(memlimit=_MAX_MEMORY)
    while not unpacker.eof:
        packed = file.read(_BLOCK) if unpacker.needs_input else b""
        if unpacker.needs_input and not packed:
            raise EOFError("it is cut off")
        if block := unpacker.decompress(packed, _BLOCK):
            yield block


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.GzipFile}
    if path.suffix == ".zst":
        try:
            openers[".zst"] = import_module("compression.zstd").ZstdFile
        except ModuleNotFoundError:  # before Python 3.14
            with reading("zstd", "--decompress", "--stdout", "--quiet", path) as output:
                yield output
            return
    with openers.get(path.suffix, open)(path, "rb") as file:
        yield file


def parse_primary(
    blocks: Iterable[bytes], wanted: Callable[[str], bool], repository: str
) -> Iterator[Entry]:
    """What a primary.xml, in blocks of any size, says; an entry that makes no sense is left out.

    Raises `MalformedError` for what is larger than any index, or has more of the wanted entries.
    """
    left = _MAX_ENTRIES
    for entry in _cut(blocks):
        name = _NAME.search(entry)
        if name and wanted(name[1].decode("utf-8", "replace")):
            left -= 1
            if left < 0:
                raise MalformedError(
                    f"a repository's index has {_MAX_ENTRIES} of the same packages"
                )
            yield from _parse_entry(name[1].decode("utf-8", "replace"), _plain(entry), repository)


def _cut(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Entry by entry."""
    rest, size = b"", 0
    for block in blocks:
        size += len(block)
        *entries, rest = (rest + block).split(b"</package>")
        if len(rest) > _MAX_ENTRY or size > _MAX_INDEX:
            raise MalformedError("a repository's index has no end")
        yield from entries


def _plain(entry: bytes) -> str:
    """Without references to characters; "" if one has more digits than Python reads."""
    try:
        return html.unescape(entry.decode("utf-8", "replace"))
    except ValueError:
        return ""


def _parse_entry(name: str, text: str, repository: str) -> Iterator[Entry]:
    found = {key: pattern.search(text) for key, pattern in _FIELDS.items()}
    values = {key: match.groups() for key, match in found.items() if match}
    if len(values) != len(_FIELDS) or "/" in name:
        return
    file_name = values["address"][0].rpartition("/")[2]
    if file_name in ("", ".", "..") or "\0" in file_name or len(file_name.encode()) > _MAX_NAME:
        return
    epoch, *version = values["version"]
    file = PackageFile(
        name=name,
        version="-".join(version) if epoch == "0" else f"{epoch}:{'-'.join(version)}",
        architecture=values["architecture"][0],
        file_name=file_name,
        digest=":".join(values["digest"]),
        size=int(values["size"][0]),
        address=values["address"][0],
    )
    yield Entry(file, tuple(_PROGRAM.findall(text)), repository)


def repository_of(primary: Path) -> str:
    """Its id, from where its index is kept: dnf: ID-HASH/repodata; zypper: raw/ID/repodata."""
    return re.sub(r"-[0-9a-f]{16}$", "", primary.parent.parent.name)


def parse_unsigned(text: str) -> frozenset[str]:
    """Ids of repositories in a .repo file whose packages need no signature; dnf.conf(5)."""
    found, section = set(), ""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif re.fullmatch(r"(?i)(?:pkg_)?gpgcheck\s*=\s*(?:0|no|false|off)", line):
            found.add(section)
        elif re.match(r"(?i)(?:pkg_)?gpgcheck\s*=", line):
            found.discard(section)
    return frozenset(found)
