# SPDX-License-Identifier: Apache-2.0
"""What archives, indexes, servers and package tools say on the way to old packages."""

import shutil
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

from fuzz.target import MIB, QEMU, Target, text_of, workplace, written
from holdover.errors import CommandError, MalformedError
from holdover.packages.fetch import aptsources, apttext, package_version
from holdover.packages.fetch.debuginfod import file_name
from holdover.packages.fetch.indexes import _text
from holdover.packages.fetch.private import parse_shell
from holdover.packages.fetch.repodata import parse_primary, parse_unsigned, read_primary
from holdover.packages.fetch.rpm import parse_checksig, version_release
from holdover.packages.fetch.snapshots import parse_binfiles, sources_at
from holdover.packages.fetch.unpacking import of_use, unpack

__all__ = ["TARGETS"]

_ENDINGS = (".xml", ".xml.gz", ".xml.xz")


def _uris(data: bytes) -> None:
    for file in apttext.parse_uris(text_of(data)):
        apttext.cache_name(file)
    apttext.parse_resolved(text_of(data), "amd64")


def _texts(data: bytes) -> None:
    text = text_of(data)
    apttext.parse_madison(text)
    apttext.parse_owners(text)
    apttext.parse_downloaded(text)
    for record in apttext.parse_records(text):
        apttext.depends_on(record, ["qemu-system-x86"])


def _sources(data: bytes) -> None:
    text = text_of(data)
    entries = (*aptsources.parse_one_line(text), *aptsources.parse_deb822(text))
    _targets_of(aptsources.targets_of(entries))
    for entry in entries[:20]:
        keys = aptsources.keys_for(entries, entry.uris[0] if entry.uris else "")
        aptsources.key_files(entry.keys)
        aptsources.stanza("file:/x", entry.suites, entry.components, keys)


def _targets(data: bytes) -> None:
    _targets_of(aptsources.parse_targets(text_of(data)))


def _targets_of(targets: tuple[aptsources.Target, ...]) -> None:
    own = aptsources.own_codename(targets, "")
    aptsources.suites_of(targets, own, "trixie")


def _version(data: bytes) -> None:
    text = text_of(data)
    aptsources.own_codename((), text)
    aptsources.codenames(text, "bookworm")
    package_version(text)
    version_release(text)


def _is_wanted(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in QEMU.packages)


def _primary(data: bytes) -> None:
    size = max(1, len(data) // 3)
    blocks = (data[at : at + size] for at in range(0, len(data), size))
    list(parse_primary(blocks, _is_wanted, "updates"))


def _primary_file(data: bytes) -> None:
    """The first byte says how it is packed."""
    ending = _ENDINGS[data[0] % len(_ENDINGS)] if data else ".xml"
    list(read_primary(written("repodata", f"primary{ending}", data[1:]), _is_wanted))


def _repositories(data: bytes) -> None:
    parse_unsigned(text_of(data))


def _binfiles(data: bytes) -> None:
    answer = _text(written("snapshots", "binfiles", data))
    seen = parse_binfiles(answer, "amd64")
    for one in sources_at("http://x", seen, "bookworm", lambda _: "", dependencies=True):
        str(one)


def _archive(data: bytes) -> None:
    root = workplace("unpacked") / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    use = of_use(Path("/usr/bin/qemu-system-x86_64"), (Path("/usr/lib/qemu"),))
    paths = unpack(BytesIO(data), root, use)
    if any(not (root / path[1:]).parent.resolve().is_relative_to(root) for path in paths):
        raise AssertionError("a file was unpacked outside of the root")


_MALFORMED = (MalformedError,)
_PRINTED = "what apt prints"
TARGETS = {
    "apt-uris": Target(_uris, _MALFORMED, _PRINTED),
    "apt-texts": Target(_texts, (), _PRINTED, growth=64),
    "apt-sources": Target(_sources, (), "1 MiB a file"),
    "apt-targets": Target(_targets, (), _PRINTED),
    "apt-config": Target(lambda data: parse_shell(text_of(data)), (CommandError,), "64 KiB"),
    "versions": Target(_version, (), "4 KiB"),
    "repodata": Target(_primary, _MALFORMED, "2 GiB unpacked; 16 MiB, 10000 entries"),
    "repodata-file": Target(_primary_file, _MALFORMED, "256 MiB to unpack xz", fixed=96 * MIB),
    "repo-files": Target(_repositories, (), "root's own files"),
    "rpmkeys": Target(lambda data: parse_checksig(text_of(data)), (), "what rpmkeys prints"),
    "snapshots": Target(
        _binfiles, (MalformedError, UnicodeDecodeError), "16 MiB", fixed=24 * MIB, growth=64
    ),
    "debuginfod": Target(lambda data: file_name(text_of(data)), (), "what its client prints"),
    "package": Target(
        _archive, (MalformedError, OSError), "names of 64 parts", swells=False, trials=60
    ),
}
