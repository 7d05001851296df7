# SPDX-License-Identifier: Apache-2.0
"""Old packages on systems with rpm: each has the digest of a repository's index, and a signature.

The index says which file belongs to a version, and its digest; `rpmkeys` checks the signature with
the keys of the system. Where the machine takes packages without a signature (gpgcheck=0), only the
digest vouches, and that is noted. A file that was brought and that no index knows needs a
signature. Source: rpmkeys(8), --checksig; rpm2archive(8).
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from holdover.errors import CommandError, HoldoverError
from holdover.packages.fetch import (
    Fetched,
    PackageFile,
    Progress,
    Sources,
    Wanted,
    missing_error,
    package_version,
)
from holdover.packages.fetch.managers import INDEX, Manager, find_manager
from holdover.packages.fetch.package_files import Holdings, Place, files_below
from holdover.packages.fetch.repodata import Entry, parse_unsigned, read_primary
from holdover.packages.fetch.unpacking import assemble
from holdover.procfs import open_regular
from holdover.run import reading, run

__all__ = ["fetch", "parse_checksig", "version_release"]

_QUERY = r"%{NAME}\t%{EVR}\t%{ARCH}\n"
_LARGEST = 1 << 30  # bytes of a package file that was brought
_PATIENCE = 60.0  # seconds for a look at one package file


@dataclass(frozen=True, slots=True)
class _Index:
    called: str
    entries: tuple[Entry, ...]
    manager: Manager | None = None
    """That can download what it lists."""


def fetch(
    wanted: Wanted, place: Path, sources: Sources, dependencies: bool, progress: Progress
) -> Fetched:
    """As `packages.fetch.fetch`."""
    return _Fetch(wanted, place, sources, dependencies, progress).run()


def version_release(version: str) -> tuple[str, ...]:
    """Version and release in what an executable says: "(qemu-8.2.2-1.fc40)" is "8.2.2-1.fc40"."""
    found = (re.search(r"(?:^|-)(\d[^-:\s]*-[^-:\s]+)$", text) for text in package_version(version))
    return tuple(dict.fromkeys(match[1] for match in found if match))


def parse_checksig(text: str) -> tuple[bool, bool]:
    """Whether digests are right, and a trusted signature too, in `rpmkeys --checksig`."""
    said = text.strip().rpartition(": ")[2]
    return said.endswith(" OK") and "NOT OK" not in said, said == "digests signatures OK"


class _Fetch:
    def __init__(
        self, wanted: Wanted, place: Path, sources: Sources, dependencies: bool, progress: Progress
    ) -> None:
        self.wanted, self.place, self.sources = wanted, place, sources
        self.dependencies, self.progress = dependencies, progress
        self.online = sources.network and sources.directory is None
        self.notes: list[str] = []
        self.missing: tuple[PackageFile, ...] = ()
        self.downloaded = 0
        self.manager = find_manager(place / "manager")
        self.unsigned = _unsigned(self.manager.repositories)
        self.holdings = Holdings(place / "packages", self.notes)
        self.names = _installed_names(wanted)
        self.places = [files_below(self.manager.host_cache, "package cache", ".rpm")]
        if sources.directory is not None:
            self.places.append(files_below(sources.directory, str(sources.directory), ".rpm"))

    def run(self) -> Fetched:
        for index in self._indexes():
            for entries in self._candidates(index):
                try:
                    files = self._gather(index, entries)
                    fetched = self._unpack(files) if files else None
                except HoldoverError as error:
                    self.notes.append(f"{index.called}: {error}")
                    continue
                if fetched:
                    return fetched
        raise self._failure()

    # -- which packages ------------------------------------------------------------------------

    def _indexes(self) -> Iterator[_Index]:
        own = self.manager if self.online else None
        yield self._index("the machine's own repository data", self.manager.host_cache, own)
        if self.sources.directory is not None:
            yield _Index(str(self.sources.directory), tuple(self._signed_files()))
        for release in ("", *self.sources.releases) if self.online else ():
            manager = Manager(self.manager.name, self.place / f"manager{release}", release)
            what = f"the repositories of {release}" if release else "the repositories"
            self.progress(f"asking {what}")
            manager.private.mkdir(exist_ok=True)
            if problem := manager.refresh():
                self.notes.append(problem)
            yield self._index(what, manager.cache, manager)

    def _index(self, called: str, cache: Path, manager: Manager | None) -> _Index:
        return _Index(called, tuple(self._read(cache, self._is_wanted)), manager)

    def _read(self, cache: Path, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        for path in sorted(cache.rglob(INDEX)):
            try:
                yield from read_primary(path, wanted)
            except HoldoverError as error:
                self.notes.append(str(error))

    def _is_wanted(self, name: str) -> bool:
        if self.names:
            return name in self.names
        return any(fnmatch(name, pattern) for pattern in self.wanted.packages)

    def _signed_files(self) -> Iterator[Entry]:
        """Those that were brought, have a wanted name and a signature: then no index is needed."""
        for path in (path for paths in self.places[-1].files.values() for path in paths):
            try:
                yield from self._signed_file(path)
            except (HoldoverError, OSError) as error:
                self.notes.append(f"{path} cannot be used: {error}")

    def _signed_file(self, path: Path) -> Iterator[Entry]:
        """What is taken is looked at again: that nobody can change."""
        file = open_regular(path)
        if file is None:
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            if size > _LARGEST:
                return
            query = ("rpm", "--query", "--package", "--qf", _QUERY, path)
            asked = run(*query, check=False, timeout=_PATIENCE)
            name, version, architecture = (asked.stdout.split() + [""] * 3)[:3]
            if asked.returncode or not self._is_wanted(name) or not _is_signed(path)[1]:
                return
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        known = (f"sha256:{digest.hexdigest()}", size, "")
        yield Entry(PackageFile(name, version, architecture, path.name, *known), (), "")

    def _candidates(self, index: _Index) -> Iterator[tuple[Entry, ...]]:
        """Packages of one version each."""
        texts = version_release(self.wanted.version)
        versions = dict.fromkeys(entry.version for entry in index.entries)
        for version in texts if texts else reversed(versions):
            entries = {e.file: e for e in index.entries if e.version == version}.values()
            if self.names:
                chosen = [entry for entry in entries if entry.file.name in self.names]
            else:  # all that belong to it, without other executables
                own = str(self.wanted.executable)
                chosen = [e for e in entries if not e.programs or own in e.programs]
            if chosen:
                yield tuple(chosen)

    # -- their files ---------------------------------------------------------------------------

    def _gather(self, index: _Index, entries: tuple[Entry, ...]) -> tuple[PackageFile, ...]:
        if self.dependencies and index.manager:
            entries = self._with_dependencies(index.manager, entries)
        found = {entry: self._have(entry, self.places) for entry in entries}
        absent = [entry for entry, taken in found.items() if taken is None]
        if absent and index.manager:
            place = self._download(index.manager, absent)
            found |= {entry: self._have(entry, [place]) for entry in absent}
        self.missing = tuple(entry.file for entry, taken in found.items() if taken is None)
        return () if self.missing else tuple(taken for taken in found.values() if taken)

    def _have(self, entry: Entry, places: list[Place]) -> PackageFile | None:
        """The file with its origin, if it is here and its digest and signature are right."""
        file = entry.file
        taken = self.holdings.find(file) or self.holdings.take(file, [file.file_name], places)
        if taken is None:
            return None
        path = self.holdings.path(taken)
        right, signed = _is_signed(path)
        if right and (signed or entry.repository in self.unsigned):
            if not signed:
                self.notes.append(f"{file.file_name} is not signed: only its index vouches for it")
            return taken
        path.unlink()
        self.notes.append(f"refused {file.file_name}: no key of this system has signed it")
        return None

    def _download(self, manager: Manager, entries: list[Entry]) -> Place:
        size = sum(entry.file.size for entry in entries) / 1e6
        self.progress(f"downloading {len(entries)} packages, {size:.1f} MB")
        names = [f"{entry.file.name}-{entry.version}" for entry in entries]
        said = manager.download(names, dependencies=False)
        place = files_below(manager.downloads, "archive", ".rpm")
        had = [entry.file.size for entry in entries if entry.file.file_name in place.files]
        self.downloaded += sum(had)
        if said and len(had) < len(entries):
            self.notes.append(said)
        return place

    def _with_dependencies(self, manager: Manager, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        """These, and all that they depend on: the manager downloads what it resolves."""
        self.progress("downloading the packages with all that they depend on")
        names = [f"{entry.file.name}-{entry.version}" for entry in entries]
        if said := manager.download(names, dependencies=True):
            self.notes.append(said)
        place = files_below(manager.downloads, "archive", ".rpm")
        known = {path.rsplit("-", 2)[0] for path in place.files}
        named = self._read(manager.cache, known.__contains__)
        others = [entry for entry in named if entry.file.file_name in place.files]
        self.downloaded += sum(entry.file.size for entry in others)
        self.places.append(place)
        return tuple({entry.file: entry for entry in (*entries, *others)}.values())

    def _unpack(self, files: tuple[PackageFile, ...]) -> Fetched | None:
        """None if the executable is another one; then that is noted."""
        unpacker = ("rpm2archive", "--nocompression", "-")
        archives = {f: reading(*unpacker, source=self.holdings.path(f)) for f in files}
        owners, problem = assemble(self.place / "root", self.wanted, archives)
        if problem:
            self.notes.append(f"{files[0].version}: {problem}")
            return None
        notes = tuple(dict.fromkeys(self.notes))
        return Fetched(self.place / "root", files, owners, self.downloaded, notes)

    def _failure(self) -> HoldoverError:
        notes, texts = list(dict.fromkeys(self.notes)), version_release(self.wanted.version)
        if self.missing:
            count = len(self.missing)
            message = f"{count} package files are needed and cannot be had here"
            return missing_error(message, self.missing, notes)
        if not texts:
            message = f"no package has {self.wanted.executable} of build {self.wanted.build_id}"
            return CommandError(message, hint="\n".join(notes))
        machine = run("rpm", "--eval", "%{_arch}").stdout.strip()
        files = tuple(
            PackageFile(n, texts[0], machine, f"{n}-{texts[0]}.{machine}.rpm", "", 0, "")
            for n in self.names
        )
        message = f"no repository knows the packages of {self.wanted.version}"
        return missing_error(message, files, notes)


def _is_signed(path: Path) -> tuple[bool, bool]:
    done = run("rpmkeys", "--checksig", path, check=False, timeout=_PATIENCE)
    return parse_checksig(done.stdout) if done.returncode == 0 else (False, False)


def _unsigned(repositories: Path) -> frozenset[str]:
    """Repositories whose packages the machine takes without a signature."""
    texts = (path.read_text("utf-8", "replace") for path in repositories.glob("*.repo"))
    return frozenset().union(*map(parse_unsigned, texts))


def _installed_names(wanted: Wanted) -> frozenset[str]:
    """Packages that own the executable or its modules now."""
    modules = (path for directory in wanted.directories for path in sorted(directory.glob("*.so")))
    query = ("rpm", "--query", "--qf", r"%{NAME}\n", "--file")
    owner = run(*query, wanted.executable, check=False)
    if owner.returncode:
        return frozenset()
    rest = run(*query, *modules, check=False).stdout
    names = (line for line in f"{owner.stdout}\n{rest}".splitlines())
    return frozenset(name for name in names if name and " " not in name)
