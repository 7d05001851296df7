# SPDX-License-Identifier: Apache-2.0
"""The store: what is held, for whom, and how it survives being killed at any moment.

    /usr/lib/holdover/                  root:root 0755, on the file system of the modules
    ├── view/<id>/                      what a process is pointed at; never changed once it is there
    │   ├── <module>.so                 the module, rewritten to find its closure in lib
    │   ├── lib/<soname>                a hard link to a library of the closure
    │   └── <name>.so                   decoys: one empty file under many names
    ├── run/<program>-<build-id>        a link to the view that guests of `holdover run` see
    ├── staging/<random>/               a view that is being made
    └── rescue/<random>/                packages of a build that is being rescued; locked meanwhile
    /var/lib/holdover/
    ├── snapshot/<id>.json              the manifest; its rename is the commit point
    ├── rehearsal/<id>.json             what did not load when it was last tried
    └── pin/<id>.json                   somebody wants it kept
    /run/holdover/
    ├── lock                            one writer at a time; readers take no lock
    ├── lease/<pid>-<start time>-<id>   a live process needs snapshot <id>
    ├── released/<pid>-<start time>     the timer leaves this process alone
    ├── silent/<pid>-<start time>       see silence.py
    └── fallback/<directory>            see fallbacks.py

A view without a manifest is not there, whoever reads; the next writer removes it, as it does what
is in staging. docs/store.md has the crash table.
"""

import fcntl
import json
import math
import os
import shutil
import stat
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from holdover.durable import store_errors, sync, write_atomically
from holdover.errors import DamagedError, UntrustedError
from holdover.fallbacks import Fallbacks
from holdover.held import Holding, Lease, Snapshot
from holdover.identity import FileId, ProcessId
from holdover.leads import Leads
from holdover.locks import is_free, take_file
from holdover.manifests import (
    RECORD,
    SCHEMA,
    parse_lease,
    parse_manifest,
    parse_record,
    unknown_snapshot,
)
from holdover.pins import Pins
from holdover.places import places
from holdover.released import Released
from holdover.staging import Staging, file_digest
from holdover.trust import distrust

__all__ = ["Store"]

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """Where the store is. Every method raises `StoreError` if it cannot be used."""

    objects: Path = Path("/usr/lib/holdover")
    state: Path = Path("/var/lib/holdover")
    run: Path = Path("/run/holdover")
    budget: int = 0
    """How many bytes may be written in all; 0: as many as there are."""

    @property
    def views(self) -> Path:
        return self.objects / "view"

    @property
    def _staging(self) -> Path:
        return self.objects / "staging"

    @property
    def _rescues(self) -> Path:
        return self.objects / "rescue"

    @property
    def _manifests(self) -> Path:
        return self.state / "snapshot"

    @property
    def _rehearsals(self) -> Path:
        return self.state / "rehearsal"

    @property
    def leads(self) -> Leads:
        return Leads(places(self.views), self.views)

    @property
    def pins(self) -> Pins:
        return Pins(self.state / "pin")

    @property
    def released(self) -> Released:
        return Released(self.run / "released")

    @property
    def fallbacks(self) -> Fallbacks:
        return Fallbacks(self.run / "fallback")

    @property
    def _leases(self) -> Path:
        return self.run / "lease"

    # -- writing -------------------------------------------------------------------------------

    @contextmanager
    def writing(self, timeout: float) -> Iterator[None]:
        """Be the one writer; waits at most `timeout` seconds, else raises `BusyError`.

        What a killed writer left behind is removed first.
        """
        lock, deadline = None, time.monotonic() + timeout
        while lock is None:  # somebody may remove it, even with its directory
            with store_errors("prepare the store"):
                for directory in self._directories:
                    directory.mkdir(parents=True, exist_ok=True)
                self._check_trust()
                lock = take_file(self.run / "lock", deadline)
        try:
            self._sweep()
            yield
        finally:
            os.close(lock)

    @property
    def _directories(self) -> tuple[Path, ...]:
        kept = (self._manifests, self._rehearsals, self.pins.directory, self.leads.directory)
        volatile = (self._leases, self.fallbacks.records)
        return self.views, self._staging, self._rescues, *kept, *volatile

    def _check_trust(self) -> None:
        """Whoever can write here could put code into every guest."""
        for directory in (self.objects, self.state, self.run, *self._directories):
            found = directory.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                raise UntrustedError(f"{directory} is not a directory of this user")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise UntrustedError(
                    f"{directory} can be written by others",
                    hint=f"look at what is in it, then: chmod go-w {directory}",
                )
        for directory in (self.objects, self.state, self.run):
            if problem := distrust(directory):  # who owns what is above may put another there
                raise UntrustedError(f"{directory} is not used: {problem}")

    def _sweep(self) -> None:
        """Remove what has no manifest: the writer that made it was killed."""
        with store_errors("clean the store"):
            for left in (*self._staging.iterdir(), *filter(is_free, self._rescues.iterdir())):
                _remove(left)
            for directory in self._directories[3:]:
                for half_written in directory.glob(".*.new"):
                    half_written.unlink()
            needed = {path.stem for path in self._manifests.glob("*.json")}
            for directory in (self._rehearsals, self.pins.directory):
                for record in directory.glob("*.json"):
                    if record.stem not in needed:
                        record.unlink()
            needed |= {lease.snapshot for lease in self.leases()}  # its manifest may be lost
            for view in self.views.iterdir():
                if view.name not in needed:
                    _remove(view)
            self.leads.sweep()

    @contextmanager
    def staging(self) -> Iterator[Staging]:
        """A view in the making; it vanishes unless it is committed."""
        import tempfile  # with it come random and OpenSSL: 4 ms, for whoever only looks

        with store_errors("write to the store"):
            directory = Path(tempfile.mkdtemp(dir=self._staging))
            directory.chmod(0o755)
        try:
            yield Staging(directory, self._room())
        finally:
            # what cannot be removed now goes with the next sweep, and must not hide the error
            shutil.rmtree(directory, ignore_errors=True)

    @contextmanager
    def rescuing(self, timeout: float) -> Iterator[Path]:
        """A directory for what is got back, of which files can be held by links. It vanishes.

        Raises as `writing`; the caller is not the writer then, as downloads take their time.
        """
        import tempfile

        with self.writing(timeout), store_errors("prepare a rescue"):
            directory = Path(tempfile.mkdtemp(dir=self._rescues))
            directory.chmod(0o755)
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)

    def _room(self) -> float:
        if not self.budget:
            return math.inf
        return self.budget - sum(h.snapshot.bytes_written for h in self.holdings())

    def commit(self, staging: Staging, wanted: Snapshot) -> Snapshot:
        """Make the view and its manifest appear; a sound one that is already there is kept.

        One that is damaged stays until nobody is pointed at it, and this one gets another id.

        Order: the view is complete on disk, it moves to its place, its manifest does. The
        manifest's rename is the commit point.
        """
        snapshot = wanted
        there = {holding.snapshot.id: holding for holding in self.holdings()}
        for number in count(2):
            old = there.get(snapshot.id)
            if old is None:
                break
            if not (old.damage or self.damage(old)):
                return snapshot
            snapshot = replace(snapshot, id=f"{wanted.id}-{number}")
        with store_errors("commit a snapshot"):
            sync(staging.directory)
            staging.directory.rename(self.views / snapshot.id)
            sync(self.views)
            text = json.dumps({"schema": SCHEMA} | asdict(snapshot), indent=1)
            write_atomically(self._manifests / f"{snapshot.id}.json", text)
        return snapshot

    def remove(self, snapshot_id: str) -> None:
        """Forget a snapshot: the manifest first, so that a half-removed view is not one."""
        with store_errors("remove a snapshot"):
            (self._manifests / f"{snapshot_id}.json").unlink()
            sync(self._manifests)
            (self._rehearsals / f"{snapshot_id}.json").unlink(missing_ok=True)
            self.leads.drop_to(self.views / snapshot_id)
            with suppress(FileNotFoundError):  # somebody was there before
                shutil.rmtree(self.views / snapshot_id)

    def remove_empty(self) -> None:
        """Take away the directories of a store that holds nothing; the caller may come back.

        What is not empty stays, and so does the lock: somebody may be waiting for it.
        """
        for directory in (*self._directories, self.objects, self.state):
            with suppress(OSError):  # not empty, not there, not writable
                directory.rmdir()

    def record_rehearsal(self, snapshot_id: str, failure: str) -> None:
        """Remember what did not load, until the snapshot is rehearsed again; "" forgets it."""
        record = self._rehearsals / f"{snapshot_id}.json"
        with store_errors("record a rehearsal"):
            if failure:
                write_atomically(record, json.dumps({"schema": RECORD, "failure": failure}))
            else:
                record.unlink(missing_ok=True)

    # -- leases --------------------------------------------------------------------------------

    def add_lease(self, lease: Lease) -> None:
        with store_errors("write a lease"):
            write_atomically(self._lease_path(lease), json.dumps(asdict(lease)))

    def drop_lease(self, lease: Lease) -> None:
        with store_errors("drop a lease"):
            self._lease_path(lease).unlink(missing_ok=True)

    def leases(self) -> tuple[Lease, ...]:
        """All leases, of the living and the dead."""
        with store_errors("read the leases"):
            return tuple(_read_all(parse_lease, self._leases, "[0-9]*-[0-9]*-*", DamagedError))

    def leases_of(self, process: ProcessId) -> tuple[Lease, ...]:
        """The same of one process."""
        with store_errors("read the leases"):
            names = [name for name in os.listdir(self._leases) if name.startswith(f"{process}-")]
            return tuple(parse_lease(self._leases / name) for name in sorted(names))

    def lease_age(self, lease: Lease) -> float:
        """Seconds since it was written; 0 if it is gone, or the clock was set back since."""
        try:
            return max(0.0, time.time() - self._lease_path(lease).stat().st_mtime)
        except OSError:
            return 0.0

    def _lease_path(self, lease: Lease) -> Path:
        return self._leases / f"{lease.process}-{lease.snapshot}"

    # -- reading -------------------------------------------------------------------------------

    def ids(self) -> frozenset[str]:
        """Of all snapshots, without a look at them."""
        return frozenset(path.stem for path in self._manifests.glob("[!.]*.json"))

    def holdings(self) -> tuple[Holding, ...]:
        """All snapshots with their present condition, oldest first."""
        with store_errors("read the store"):
            found = _read_all(self._holding, self._manifests, "[!.]*.json")
        return tuple(sorted(found, key=lambda holding: holding.snapshot.created))

    def _holding(self, manifest: Path) -> Holding:
        view = self.views / manifest.stem
        try:
            snapshot = parse_manifest(manifest)
        except DamagedError as error:
            return Holding(unknown_snapshot(manifest.stem), view, None, error.message)
        try:
            found = view.stat()
        except FileNotFoundError:
            return Holding(snapshot, view, None, "its view is gone")
        failure = parse_record(self._rehearsals / manifest.name)
        identity = FileId(found.st_dev, found.st_ino)
        return Holding(snapshot, view, identity, _quick_damage(snapshot, view), failure)

    def damage(self, holding: Holding) -> str:
        """What a full reading finds changed since the capture, or ""."""
        for held in holding.snapshot.files:
            path = holding.view / held.path
            if not path.exists() or file_digest(path) != held.sha256:
                return f"{held.path} is not what was captured from {held.origin}"
        return ""

    def bytes_held(self, holdings: tuple[Holding, ...]) -> dict[str, int]:
        """For each snapshot the bytes on disk that nothing outside the store holds any more."""
        with store_errors("read the store"):
            files = {h.snapshot.id: _stats(h) for h in holdings}
        links = Counter(found.st_ino for stats in files.values() for found in stats)
        return {snapshot: _bytes_only_in(stats, links) for snapshot, stats in files.items()}

    def bytes_freed_without(self, holdings: Collection[Holding]) -> int:
        """Bytes on disk that go when all of these go at once."""
        with store_errors("read the store"):
            stats = [found for holding in holdings for found in _stats(holding)]
        return _bytes_only_in(stats, Counter(found.st_ino for found in stats))


def _stats(holding: Holding) -> list[os.stat_result]:
    files = holding.snapshot.files
    return [at.stat() for held in files if (at := holding.view / held.path).exists()]


def _bytes_only_in(stats: list[os.stat_result], links: Counter[int]) -> int:
    """Size of those files that have no more names than were counted in `links`."""
    files = {found.st_ino: found for found in stats if found.st_nlink == links[found.st_ino]}
    return sum(found.st_blocks * 512 for found in files.values())


def _quick_damage(snapshot: Snapshot, view: Path) -> str:
    """What sizes and times tell without reading the files."""
    for held in snapshot.files:
        try:
            found = os.stat(f"{view}/{held.path}")  # noqa: PTH116 - a path for each takes longer
        except FileNotFoundError:
            return f"{held.path} is gone"
        if (found.st_size, found.st_mtime_ns) != (held.size, held.mtime_ns):
            return f"{held.path} was written to after it was captured from {held.origin}"
    return ""


def _read_all(
    read: Callable[[Path], T], directory: Path, pattern: str, *none: type[Exception]
) -> list[T]:
    """What is there; readers take no lock, so a file may go while they look.

    `none` is what is raised for a file that is none of these.
    """
    found = []
    for path in sorted(directory.glob(pattern)):
        with suppress(FileNotFoundError, *none):
            found.append(read(path))
    return found


def _remove(path: Path) -> None:
    """A directory with all that is in it; anything else is not ours, and stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
