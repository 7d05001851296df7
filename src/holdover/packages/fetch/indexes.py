# SPDX-License-Identifier: Apache-2.0
"""Signed indexes of packages, in the order in which they are asked, each made when it is its turn.

The machine's own lists as they are; those in a directory that somebody brought; the machine's
sources, updated; the same mirrors with other releases; an archive of superseded builds.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from holdover.errors import MalformedError
from holdover.packages.fetch import Progress, Sources
from holdover.packages.fetch.aptsources import (
    Entry,
    Target,
    codenames,
    key_files,
    keys_for,
    own_codename,
    stanza,
    suites_of,
    targets_of,
)
from holdover.packages.fetch.package_files import copy_without_links
from holdover.packages.fetch.private import HostApt, PrivateApt
from holdover.packages.fetch.snapshots import binfiles_address, parse_binfiles, sources_at

__all__ = ["Index", "Indexes"]

_GUESSES = 2  # releases in an archive of superseded builds: each is tried at several times
_LONGEST_ANSWER = 1 << 24  # bytes
_OS_RELEASE = Path("/etc/os-release")
_TRUSTED = Path("/etc/apt/trusted.gpg.d")
_INDEX_NAMES = re.compile(r"InRelease|Release|Release\.gpg|Packages(\.[a-z0-9]+)?")


@dataclass(frozen=True, slots=True)
class Index:
    called: str
    origin: str
    """What files that are downloaded by it come from."""
    apt: PrivateApt


@dataclass
class Indexes:
    """All that can be asked about one version of a package ("" if it is not known)."""

    place: Path
    host: HostApt
    sources: Sources
    notes: list[str]
    progress: Progress
    made: list[PrivateApt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.own = self._make("own", self.host.entries)
        self.notes += self.own.adopt_lists()

    @property
    def codename(self) -> str:
        """Of the release of the machine's sources, as its lists say by now."""
        text = _OS_RELEASE.read_text() if _OS_RELEASE.exists() else ""
        return own_codename(self._targets(), text)

    def _targets(self) -> tuple[Target, ...]:
        return self.own.targets() or targets_of(self.host.entries)

    @property
    def online(self) -> bool:
        return self.sources.network and self.sources.directory is None

    @property
    def bytes_downloaded(self) -> int:
        return sum(apt.bytes_downloaded for apt in self.made)

    def ask(self, name: str, version: str, *, dependencies: bool) -> Iterator[Index]:
        """`name` is the package that an archive of superseded builds is asked for."""
        yield Index("the machine's own package lists", "archive", self.own)
        if self.sources.directory is not None:
            yield from self._of_directory(self.sources.directory)
        if self.online:
            releases = self.releases(version)
            if len(releases) > 1 or self.codename in releases:  # else it cannot be in our own
                self.progress("updating private copies of the package lists")
                self._update(self.own)
                yield Index("the machine's package sources", "archive", self.own)
            for release in releases:
                if release != self.codename:
                    yield from self._of_release(release)
            yield from self._of_snapshots(name, version, dependencies=dependencies)

    def releases(self, version: str) -> tuple[str, ...]:
        return codenames(version, self.codename, self.sources.releases)

    def suites(self, release: str) -> dict[str, dict[str, list[str]]]:
        """By address of the mirror; with the components of each."""
        return suites_of(self._targets(), self.codename, release)

    def _make(self, name: str, sources: Iterable[Entry | str]) -> PrivateApt:
        directory = self.place / "apt" / name
        directory.parent.mkdir(mode=0o755, exist_ok=True)
        apt = PrivateApt(directory, self.host, sources)
        self.made.append(apt)
        return apt

    def _update(self, apt: PrivateApt) -> None:
        if problem := apt.update():
            self.notes.append(problem)

    def _of_release(self, release: str) -> Iterator[Index]:
        stanzas = [
            stanza(uri, [suite], components, keys_for(self.host.entries, uri))
            for uri, suites in self.suites(release).items()
            for suite, components in suites.items()
        ]
        if stanzas:
            self.progress(f"looking in {release}")
            apt = self._make(release, stanzas)
            self._update(apt)
            yield Index(f"{release} at the machine's mirrors", "archive", apt)

    def _of_directory(self, directory: Path) -> Iterator[Index]:
        """Indexes of the layout of a mirror; copied first, apt's own user may not read them."""
        mirror = self.place / "apt" / "mirror"
        shutil.rmtree(mirror, ignore_errors=True)
        stanzas = []
        for release in _copy_indexes(directory / "dists", mirror / "dists"):
            found = release.rglob(f"binary-{self.host.architecture}/Packages*")
            components = {str(path.parent.parent.relative_to(release)) for path in found}
            suite = str(release.relative_to(mirror / "dists"))
            if components:
                text = stanza(f"file:{mirror}", [suite], sorted(components), self._all_keys())
                stanzas.append(text + "By-Hash: no\n")
        if stanzas:
            shutil.rmtree(self.place / "apt" / "directory", ignore_errors=True)
            apt = self._make("directory", stanzas)
            self._update(apt)
            apt.bytes_downloaded = 0
            yield Index(f"the package lists in {directory}", str(directory), apt)

    def _all_keys(self) -> str:
        """Who vouches for any source of the machine vouches for what was brought."""
        files = {file for entry in self.host.entries for file in key_files(entry.keys)}
        if any(not entry.keys for entry in self.host.entries):
            files |= {str(p) for p in _TRUSTED.glob("*") if p.suffix in (".gpg", ".asc")}
        return " ".join(sorted(files))

    def _of_snapshots(self, name: str, version: str, *, dependencies: bool) -> Iterator[Index]:
        address = self.sources.snapshot_archive
        if not address or not name or not version:
            return
        self.progress("asking the snapshot archive")
        where = self.own.make_download_directory() / "binfiles"
        problem = self.own.download([(binfiles_address(address, name, version), where, "")])
        try:
            seen = () if problem else parse_binfiles(_text(where), self.host.architecture)
        except (MalformedError, OSError, UnicodeDecodeError) as error:
            seen, problem = (), str(error)
        if not seen:
            self.notes.append(problem or f"the snapshot archive does not know {name} {version}")
        for release in self.releases(version)[:_GUESSES] if seen else ():
            for time, stanzas in sources_at(
                address, seen, release, self._keys_of_archive, dependencies=dependencies
            ):
                apt = self._make(f"{time}-{release}-{dependencies}", stanzas)
                self._update(apt)
                yield Index(f"{release} of {time} in the snapshot archive", "snapshot archive", apt)

    def _keys_of_archive(self, archive: str) -> str:
        """Those of the machine's source whose address ends alike."""
        uris = [uri for entry in self.host.entries for uri in entry.uris]
        same = [uri for uri in uris if uri.rstrip("/").endswith(f"/{archive}")]
        return keys_for(self.host.entries, same[0]) if same else self._all_keys()


def _text(path: Path) -> str:
    """What a server sent, as far as it may be an answer."""
    with path.open("rb") as file:
        return file.read(_LONGEST_ANSWER).decode()


def _copy_indexes(source: Path, target: Path) -> list[Path]:
    """The directories with a Release file, copied with what belongs to it; nothing behind links."""
    if not source.is_dir():
        return []
    releases = []
    for at, below, names, directory in os.fwalk(source):
        below.sort()
        copies, copied = target / Path(at).relative_to(source), set()
        for name in filter(_INDEX_NAMES.fullmatch, names):
            copies.mkdir(mode=0o755, parents=True, exist_ok=True)
            if copy_without_links(directory, name, copies / name):
                copied.add(name)
        if "InRelease" in copied or copied >= {"Release", "Release.gpg"}:
            releases.append(copies)
    return releases
