# SPDX-License-Identifier: Apache-2.0
"""Old packages on systems with apt: from its cache, from what was brought, from archives."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
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
from holdover.packages.fetch.apttext import cache_name, depends_on, parse_owners
from holdover.packages.fetch.debuginfod import modules_by_build_id
from holdover.packages.fetch.indexes import Index, Indexes
from holdover.packages.fetch.package_files import Holdings, Place, files_below
from holdover.packages.fetch.private import PrivateApt, read_host
from holdover.packages.fetch.unpacking import assemble
from holdover.run import reading, run

__all__ = ["fetch"]

_GUESSES = 4  # packages of some megabytes each


def fetch(
    wanted: Wanted, place: Path, sources: Sources, dependencies: bool, progress: Progress
) -> Fetched:
    """As `packages.fetch.fetch`."""
    return _Fetch(wanted, place, sources, dependencies, progress).run()


class _Fetch:
    def __init__(
        self, wanted: Wanted, place: Path, sources: Sources, dependencies: bool, progress: Progress
    ) -> None:
        self.wanted = wanted
        self.place = place
        self.sources = sources
        self.dependencies = dependencies
        self.progress = progress
        self.notes: list[str] = []
        self.missing: tuple[PackageFile, ...] = ()
        self.version = (*package_version(wanted.version), "")[0]
        self.host = read_host()
        self.owner, self.names = _installed_names(wanted)
        self.holdings = Holdings(place / "packages", self.notes)
        self.indexes = Indexes(place, self.host, sources, self.notes, progress)
        self.places = [files_below(self.host.archives, "package cache", ".deb")]
        if sources.directory is not None:
            self.places.append(files_below(sources.directory, str(sources.directory), ".deb"))

    def run(self) -> Fetched:
        name = self.owner or self.wanted.executable.name.replace("_", "-")
        for index in self.indexes.ask(name, self.version, dependencies=self.dependencies):
            for pins in self._candidates(index):
                try:
                    files = self._gather(index, self._resolve(index, pins))
                    fetched = self._unpack(files) if files else None
                except HoldoverError as error:
                    self.notes.append(f"{index.called}: {error}")
                    continue
                if fetched:
                    return fetched
        if found := self._by_build_id():
            return found
        raise self._failure()

    def _by_build_id(self) -> Fetched | None:
        """From debuginfod, if packages of debug symbols that are signed for list the build-ids."""
        servers, place = self.sources.debuginfod, self.place / "by-build-id"
        if not servers or not self.indexes.online or self.dependencies:
            return None
        ids = next(filter(None, map(self._build_ids, self.indexes.made)), frozenset())
        if not ids:
            self.notes.append("no package list names the build-ids that debuginfod is asked for")
            return None
        owners = modules_by_build_id(ids, self.wanted, servers, place, self.progress)
        size = self.indexes.bytes_downloaded + sum(file.size for file in owners.values())
        files, notes = tuple(owners.values()), tuple(dict.fromkeys(self.notes))
        return Fetched(place / "root", files, owners, size, notes) if owners else None

    def _build_ids(self, apt: PrivateApt) -> frozenset[str]:
        """Those of the build, if these sources know it: others may have another of that version."""
        pins = [f"{name}-dbgsym={self.version}" for name in self.names]
        records = apt.records(pins) if pins else ()
        ids = frozenset(word for r in records for word in r.get("Build-Ids", "").split())
        return ids if self.wanted.build_id in ids else frozenset()

    # -- which packages ------------------------------------------------------------------------

    def _candidates(self, index: Index) -> Iterator[tuple[str, ...]]:
        """Packages in one version each, the executable's first: of the build, or perhaps of it."""
        owner, names = self.owner, self.names
        texts = package_version(self.wanted.version)
        if not owner:
            owner, names = self._guess(index, texts)
        known = index.apt.versions(names)
        versions = known.get(owner, ())
        for version in [text for text in texts if text in versions] if texts else versions:
            pins = tuple(f"{name}={version}" for name in names if version in known.get(name, ()))
            if not texts and not self._holds_executable(index, pins[0]):
                continue
            self.notes += [
                f"{index.called} have no {name} {version}"
                for name in names
                if version not in known.get(name, ())
            ]
            yield pins

    def _guess(self, index: Index, texts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
        """The owner of an executable that is not installed any more, and packages that go with it.

        The likeliest names come first; the files decide. ("", ()) if none has it.
        """
        patterns = self.wanted.packages
        names = [n for n in index.apt.names() if any(fnmatch(n, p) for p in patterns)]
        known = index.apt.versions(names)
        pins = [f"{name}={text}" for text in texts for name in names if text in known.get(name, ())]
        records = [r for r in index.apt.records(pins) if r.get("Architecture") != "all"]
        name = self.wanted.executable.name
        records.sort(key=lambda r: len(os.path.commonprefix([r["Package"], name])), reverse=True)
        for record in records[:_GUESSES]:
            owner = record["Package"]
            if not self._holds_executable(index, f"{owner}={record['Version']}"):
                continue
            others = [r for r in records if depends_on(r, [owner])]
            others += [r for r in records if depends_on(record, [r["Package"]])]
            return owner, tuple(dict.fromkeys([owner, *(r["Package"] for r in others)]))
        return "", ()

    def _holds_executable(self, index: Index, pin: str) -> bool:
        """Whether that package has the very executable; costs a download."""
        try:
            files = self._gather(index, index.apt.locate([pin]))
            return bool(files) and self._unpack(files) is not None
        except HoldoverError as error:
            self.notes.append(f"{index.called}: {error}")
            return False

    def _resolve(self, index: Index, pins: tuple[str, ...]) -> tuple[PackageFile, ...]:
        """The files of these packages; of what they depend on, those with libraries."""
        if not self.dependencies:
            return index.apt.locate(pins)
        needed = index.apt.closure(pins)
        records = index.apt.records(needed)
        libraries = {r["Package"] for r in records if r.get("Section", "").endswith("libs")}
        asked = {pin.partition("=")[0] for pin in pins}
        kept = libraries | asked
        files = index.apt.locate([pin for pin in needed if re.split("[:=]", pin)[0] in kept])
        return tuple(file for file in files if file.architecture != "all" or file.name in asked)

    # -- their files ---------------------------------------------------------------------------

    def _gather(self, index: Index, files: tuple[PackageFile, ...]) -> tuple[PackageFile, ...]:
        """The files with their origins, each copied and verified; () if some cannot be had."""
        found = {file: self._have(file) for file in files}
        absent = [file for file, taken in found.items() if taken is None]
        if absent and self.indexes.online:
            self._download(index, absent)
            found |= {file: self.holdings.find(file) for file in absent}
        self.missing = tuple(_elsewhere(file) for file, taken in found.items() if taken is None)
        return () if self.missing else tuple(taken for taken in found.values() if taken)

    def _have(self, file: PackageFile) -> PackageFile | None:
        names = (file.file_name, cache_name(file))
        return self.holdings.find(file) or self.holdings.take(file, names, self.places)

    def _download(self, index: Index, files: list[PackageFile]) -> None:
        size = sum(file.size for file in files) / 1e6
        self.progress(f"downloading {len(files)} packages, {size:.1f} MB, from the {index.origin}")
        directory = index.apt.make_download_directory()
        wanted = [(file.address, directory / cache_name(file), file.digest) for file in files]
        if problem := index.apt.download(wanted):
            self.notes.append(problem)
        for file, (_, path, _) in zip(files, wanted, strict=True):
            if path.exists():
                self.holdings.take(file, [path.name], [_only(index.origin, path)])
                path.unlink()

    def _unpack(self, files: tuple[PackageFile, ...]) -> Fetched | None:
        """None if the executable is another one; then that is noted."""
        archives = {
            file: reading("dpkg-deb", "--fsys-tarfile", self.holdings.path(file)) for file in files
        }
        owners, problem = assemble(self.place / "root", self.wanted, archives)
        if problem:
            self.notes.append(f"{files[0].version}: {problem}")
            return None
        notes, downloaded = tuple(dict.fromkeys(self.notes)), self.indexes.bytes_downloaded
        return Fetched(self.place / "root", files, owners, downloaded, notes)

    # -- what else to do -----------------------------------------------------------------------

    def _failure(self) -> HoldoverError:
        notes = list(dict.fromkeys(self.notes))
        if self.missing:
            count = len(self.missing)
            message = f"{count} package files are needed and cannot be had here"
            return missing_error(message, self.missing, notes)
        if not self.version:
            message = f"no package has {self.wanted.executable} of build {self.wanted.build_id}"
            return CommandError(message, hint="\n".join(notes))
        message = f"no package list knows the packages of {self.wanted.version}"
        return missing_error(message, (*self._unknown_packages(), *self._unknown_indexes()), notes)

    def _unknown_packages(self) -> Iterator[PackageFile]:
        """Their names as they must be, whoever has them."""
        architecture, bare = self.host.architecture, self.version.partition(":")[2] or self.version
        for name in self.names:
            file_name = f"{name}_{bare}_{architecture}.deb"
            yield PackageFile(name, self.version, architecture, file_name, "", 0, "")

    def _unknown_indexes(self) -> Iterator[PackageFile]:
        """Those of the likeliest release, of which one will vouch for the packages."""
        release = self.indexes.releases(self.version)[0]
        for uri, suites in self.indexes.suites(release).items():
            for suite, components in suites.items():
                below = [f"{c}/binary-{self.host.architecture}/Packages.xz" for c in components]
                for name in (f"dists/{suite}/{path}" for path in ("InRelease", *below)):
                    yield PackageFile("", "", "", name, "", 0, f"{uri.rstrip('/')}/{name}")


def _elsewhere(file: PackageFile) -> PackageFile:
    """Of an index that was brought nobody knows the mirror: the path on any of them is left."""
    where = file.address
    at = where.find("/pool/") if where.startswith("file:") else -1
    return file if at < 0 else replace(file, address=where[at + 1 :])


def _only(called: str, path: Path) -> Place:
    return Place(called, {path.name: (path,)})


def _installed_names(wanted: Wanted) -> tuple[str, tuple[str, ...]]:
    """The package that owns the executable now, and with it those of its modules; "" if none."""
    owner = _owners([str(wanted.executable)])
    if not owner:
        return "", ()
    modules = _owners([f"{directory}/*.so" for directory in wanted.directories])
    return owner[0], tuple(dict.fromkeys([owner[0], *modules]))


def _owners(patterns: list[str]) -> tuple[str, ...]:
    """dpkg may know a file of a merged /usr by its old path."""
    both = [*patterns, *(p.removeprefix("/usr") for p in patterns if p.startswith("/usr/"))]
    if not both:
        return ()
    return parse_owners(run("dpkg-query", "--search", *both, check=False).stdout)
