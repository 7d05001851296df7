# SPDX-License-Identifier: Apache-2.0
"""Look: which processes load late, what each of them is, and what lies on disk for it.

One walk over /proc; the link `exe` decides, and everything else is read only for processes that
match a program definition. Nothing is loaded, executed or sent to a process to find out.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Mapping as ReadOnly
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from holdover.builds import read_build
from holdover.complaints import failed_load
from holdover.covering import MountTables
from holdover.errors import ElfError, HoldoverError, ProcessError, VanishedError
from holdover.fallbacks import MARK
from holdover.foresight import Foresight
from holdover.identity import FileId, ProcessId
from holdover.lateloads import LateLoads
from holdover.model import Build, Delivery, Process, Rescued, Scan, Unreadable
from holdover.mounts import parse_mountinfo, view_on
from holdover.ondisk import OnDisk
from holdover.pointed import NOT_ASKED, Pointed
from holdover.procfs import DELETED, Mapping, ProcFs, file_id
from holdover.programs import Program
from holdover.sight import Sight
from holdover.silence import Silence
from holdover.stderr import Stderr
from holdover.trust import distrust, distrust_file

__all__ = ["scan"]


_CHROOTED = "it has changed its root directory, from where it cannot see the store"


def scan(
    proc: ProcFs,
    programs: tuple[Program, ...],
    views: Path,
    deliveries: tuple[Delivery, ...] = (),
    *,
    pids: Collection[int] = (),
    workers: bool = False,
    installed: bool = False,
    late: LateLoads | None = None,
    stderr: Stderr | None = None,
    silence: Silence | None = None,
    before: Scan | None = None,
    rescued: ReadOnly[str, Rescued] | None = None,
) -> Scan:
    """See all processes, or those in `pids`, with `workers` also what these have forked; with
    `installed`, also the builds on disk.

    `late` foresees what loading modules would do, `stderr` reads what processes say about loads
    that failed, `silence` knows who keeps us waiting. `rescued` has modules that lie elsewhere, by
    build-id. The executables of `before` are not read again, nor, if it has modules, are these, and
    what its one process has mapped. `deliveries` are those that are asked for, in order of
    preference; `views` is where the store keeps its views.

    Raises `UnreadableError` without a /proc; a process that cannot be read is part of the answer.
    """
    known = {p.executable_file: p.build for p in before.processes} if before else {}
    on_disk = OnDisk(programs, views, known)
    again = bool(before and before.modules)
    look = _Look(proc, programs, deliveries, views, late, stderr, silence, on_disk, again)
    look.at_all(pids, workers=workers)
    builds = on_disk.installed() if installed else ()
    seen = Scan(tuple(look.processes), (), builds, look.foreign, tuple(look.unreadable))
    if late is None:
        return seen
    modules = before.modules if before else ()
    modules = modules or tuple(on_disk.modules(seen.processes, builds))
    foresight = Foresight(late, views, modules, rescued)
    return foresight.scan(replace(seen, modules=modules), look.sights)


@dataclass
class _Look:
    """One walk; what it has read of an executable serves all processes that run it."""

    proc: ProcFs
    programs: tuple[Program, ...]
    deliveries: tuple[Delivery, ...]
    views: Path
    late: LateLoads | None
    """Keeps the time that is spent on each user."""
    stderr: Stderr | None
    silence: Silence | None
    on_disk: OnDisk
    again: bool
    """They were looked at a moment ago."""
    processes: list[Process] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    foreign: int = 0
    sights: dict[int, Sight | None] = field(default_factory=dict)
    """By pid; late loads are foreseen when all modules are known."""
    distrusted: dict[Path, str] = field(default_factory=dict)
    """What was asked of directories, which many processes share."""

    def __post_init__(self) -> None:
        self.mounts = MountTables(self.proc)
        self.pointed = Pointed(self.proc, self.views, self.deliveries)
        self.own_root = self.proc.file_of(self.proc.own_pid, "root")

    def at_all(self, pids: Collection[int], *, workers: bool) -> None:
        """Add these to what was seen, with `workers` also what they have forked; or all."""
        for pid in filter(self.proc.is_process, pids) if pids else self.proc.pids():
            self.at(pid)
        for pid in self._forked() if pids and workers else ():
            self.at(pid)

    def _forked(self) -> list[int]:
        """Processes that those that were seen have forked, where these go on to run the same."""
        forking = {program.name for program in self.programs if program.workers}
        seen = {p.id.pid for p in self.processes}
        leaders = {p.id.pid for p in self.processes if p.build.program in forking}
        return [pid for pid in self.proc.children(leaders) if pid not in seen]

    def at(self, pid: int) -> None:
        """Add process `pid` to what was seen."""
        try:
            link = self.proc.link(pid, "exe")
        except VanishedError:
            return  # it ended, or is a kernel thread
        except HoldoverError as error:
            self.unreadable.append(Unreadable(pid, error.message))
            return
        name = link.removesuffix(DELETED)
        program = next((p for p in self.programs if p.runs(name)), None)
        if program is not None:
            self._at_instance(pid, program, link)

    def _at_instance(self, pid: int, program: Program, link: str) -> None:
        texts = ("cmdline", "environ") if self.again else ("cmdline", "environ", "maps")
        try:
            with (
                self.late.on_behalf_of(pid) if self.late else nullcontext(),
                self._minding(pid) as identity,
                self.proc.together(pid, *texts),
            ):
                self._add(identity, program, link)
        except (HoldoverError, OSError) as error:
            if not isinstance(error, VanishedError) or self._still_runs(pid, link):
                self.unreadable.append(Unreadable(pid, str(error), program.name))

    def _minding(self, pid: int) -> AbstractContextManager[ProcessId]:
        return self.silence.minding(pid) if self.silence else nullcontext(self.proc.identity(pid))

    def _still_runs(self, pid: int, link: str) -> bool:
        """One that ended meanwhile is no loss; one that lives must not be passed over."""
        try:
            return self.proc.link(pid, "exe") == link
        except HoldoverError:
            return False

    def _add(self, identity: ProcessId, program: Program, link: str) -> None:
        pid = identity.pid
        file = self.proc.file_of(pid, "exe")
        path = Path(link.removesuffix(DELETED))
        chrooted = self.proc.file_of(pid, "root") != self.own_root
        if chrooted and not self._changed_its_root(pid, path):
            self.foreign += 1
            return
        if problem := self._distrust(pid, path):
            unsupported = f"its executable cannot be trusted: {problem}"
            build = _unknown_build(program)  # not even read
        else:
            build, unsupported = self._supported_build(pid, file, program, chrooted=chrooted)
        in_place = file_id(path)
        look_alike, same = self._in_place(path, in_place, build, program)
        process = Process(
            id=identity,
            name=program.guest_name(self._command_line(pid)),
            executable=path,
            executable_file=file,
            replaced=in_place != file,
            look_alike=look_alike,
            reinstalled=same and in_place != file,
            part_of=self._leader(pid, file) if program.workers else None,
            allowed=program.deliveries,
            build=build,
            unsupported=unsupported,
            distrusted=bool(problem),
        )
        self.processes.append(self._with_details(process, program))

    def _leader(self, pid: int, file: FileId) -> int | None:
        """Its parent, if that runs the same executable, as far as can be seen."""
        parent = self.proc.stat(pid).parent
        with suppress(ProcessError):
            if parent > 0 and self.proc.file_of(parent, "exe") == file:
                return parent
        return None

    def _supported_build(
        self, pid: int, file: FileId, program: Program, *, chrooted: bool
    ) -> tuple[Build, str]:
        """And why nothing can be done for it, or ""."""
        try:
            build = self._build(pid, file, program)
        except ElfError as error:
            return _unknown_build(program), f"its executable cannot be read: {error.message}"
        if build.stamp is None:
            return build, ""
        if not build.directories:
            return build, "where it looks for modules is not known"
        return build, _CHROOTED if chrooted else ""

    def _distrust(self, pid: int, path: Path) -> str:
        """Why somebody but root may have made the executable; what is in place may be another."""
        with self.proc.open(pid, "exe") as file:
            problem = distrust_file(os.fstat(file.fileno()))
        return problem or self._distrust_directory(path.parent)

    def _distrust_directory(self, directory: Path) -> str:
        if directory not in self.distrusted:
            self.distrusted[directory] = distrust(directory)
        return self.distrusted[directory]

    def _in_place(
        self, path: Path, identity: FileId | None, build: Build, program: Program
    ) -> tuple[bool, bool]:
        """Whether the file at `path` is a build that stamps do not tell from `build`, while its
        build-id does; and whether it is that very build."""
        there = self.on_disk.build_at(path, identity, program) if identity else None
        if there is None or there.stamp != build.stamp:
            return False, False
        return there.build_id != build.build_id, bool(build.build_id) and there == build

    def _changed_its_root(self, pid: int, executable: Path) -> bool:
        """Whether it was started in this system: then its executable is outside its root."""
        root = self.proc.link(pid, "root")
        here = self.proc.namespace(pid) == self.proc.namespace(self.proc.own_pid)
        return here and not executable.is_relative_to(root)

    def _with_details(self, process: Process, program: Program) -> Process:
        """What matters only for a process that can load late."""
        if process.build.stamp is None or process.unsupported:
            return process
        pid = process.id.pid
        maps = self.proc.maps_lately(pid) if self.again else self.proc.maps(pid)
        if self.late:
            process, self.sights[pid] = self.late.see(process, maps)
        process = self.pointed.look(process, maps, program)
        poisoned_by, unheard = self._complaint(process, program)
        loaded = dict(_loaded(maps, program, (*process.build.directories, self.views)))
        return replace(
            process,
            covered_by=self._covered_by(pid, process.build),
            mounted=self._mounted(pid, process.build),
            loaded=frozenset(loaded),
            loaded_files=tuple(sorted(loaded.items())) if process.build.by_file else (),
            no_mount=self._no_mount(process),
            poisoned_by=poisoned_by,
            unheard=unheard,
            fallback=self._fallback(pid, process.build),
            no_fallback=self._no_fallback(pid, process.build),
        )

    def _complaint(self, process: Process, program: Program) -> tuple[str, str]:
        """What it says about a load that failed for good, and why that cannot be told; or ""."""
        poison = program.poison
        if self.stderr is None or poison is None or not poison.concerns(process.build.version):
            return "", ""
        try:
            said = self.stderr.of(process.id.pid, process.name, program.logs)
        except HoldoverError as error:
            return "", error.message
        except OSError as error:
            return "", f"its stderr cannot be read: {error.strerror}"
        return failed_load(said, poison)

    def _command_line(self, pid: int) -> bytes:
        return b"\0" + self.proc.read(pid, "cmdline").encode("utf-8", "surrogateescape")

    def _build(self, pid: int, file: FileId, program: Program) -> Build:
        builds = self.on_disk.builds
        if file not in builds:
            with self.proc.open(pid, "exe") as executable:
                builds[file] = read_build(executable, program)
        return builds[file]

    def _no_mount(self, process: Process) -> str:
        """The mount tables are read only where the answer will be asked for."""
        if Delivery.MOUNT not in self.deliveries or Delivery.MOUNT not in process.allowed:
            return NOT_ASKED
        before = self.deliveries[: self.deliveries.index(Delivery.MOUNT)]
        if Delivery.ENVIRONMENT in before and not process.no_environment:
            return "not looked at: another delivery comes first"
        directory = next(iter(process.build.directories), None)
        if directory is None:
            return "its executable names no module directory"
        return self.mounts.refusal(process.id.pid, process.executable_file, directory)

    def _fallback(self, pid: int, build: Build) -> Path | None:
        if build.fallback is None:
            return None
        with suppress(OSError):
            return Path(os.readlink(self.proc.at(pid, f"root{build.fallback}/{MARK}")))
        return None

    def _no_fallback(self, pid: int, build: Build) -> str:
        if Delivery.FALLBACK not in self.deliveries:
            return NOT_ASKED
        if build.fallback is None:
            return "its build looks nowhere else for a module that it could not load"
        if reason := distrust(build.fallback):
            return f"others than root can put modules where it looks last: {reason}"
        leads_to = ""
        with suppress(OSError):  # a directory, or not there: other deliveries do not mind
            leads_to = os.readlink(self.proc.at(pid, "root/var/run"))
        if leads_to not in ("/run", "../run"):
            return "/var/run is not /run in its mount namespace"
        return self.pointed.hidden_store(pid)

    def _covered_by(self, pid: int, build: Build) -> FileId | None:
        """Only the first directory is ever covered."""
        return file_id(self.proc.at(pid, f"root{build.directories[0]}"))

    def _mounted(self, pid: int, build: Build) -> frozenset[str]:
        """Read only where something else than the host's directory is seen."""
        if self._covered_by(pid, build) == file_id(build.directories[0]):
            return frozenset()
        mounts = parse_mountinfo(self.proc.read(pid, "mountinfo"))
        return frozenset(filter(None, (view_on(mount, self.views) for mount in mounts)))


def _loaded(
    maps: Sequence[Mapping], program: Program, where: tuple[Path, ...]
) -> Iterator[tuple[str, FileId]]:
    """Modules by their names; where any name is possible, those that lie right in these
    directories or, as views do, in one of theirs."""
    for path, file in {(mapping.path.removesuffix(DELETED), mapping.file) for mapping in maps}:
        name = path.rpartition("/")[2].removesuffix(".so")
        if not path.endswith(".so") or not program.is_module(name):
            continue
        if program.modules is not None or any(place in where for place in Path(path).parents[:2]):
            yield name, file


def _unknown_build(program: Program) -> Build:
    return Build(program.name, "", None, "", ())
