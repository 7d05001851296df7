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
from holdover.environ import find_half, read_variable, room_needed
from holdover.errors import (
    ElfError,
    HoldoverError,
    MalformedError,
    UnreadableError,
    UnsupportedError,
    VanishedError,
)
from holdover.fallbacks import MARK
from holdover.foresight import Foresight
from holdover.lateloads import LateLoads
from holdover.memory import Memory
from holdover.model import (
    Build,
    Delivery,
    FileId,
    Process,
    ProcessId,
    Rescued,
    Scan,
    Unreadable,
)
from holdover.mounts import parse_mountinfo, view_on
from holdover.ondisk import OnDisk
from holdover.places import places
from holdover.procfs import DELETED, Mapping, ProcFs, file_id
from holdover.programs import Program
from holdover.sight import Sight
from holdover.silence import Silence
from holdover.stderr import Stderr
from holdover.trust import distrust, distrust_file

__all__ = ["scan"]


_ID_LENGTH = 32  # no id of a snapshot is longer
_NOT_ASKED = "not looked at"
_CHROOTED = "it has changed its root directory, from where it cannot see the store"


def scan(
    proc: ProcFs,
    programs: tuple[Program, ...],
    views: Path,
    deliveries: tuple[Delivery, ...] = (),
    *,
    pids: Collection[int] = (),
    installed: bool = False,
    late: LateLoads | None = None,
    stderr: Stderr | None = None,
    silence: Silence | None = None,
    before: Scan | None = None,
    rescued: ReadOnly[str, Rescued] | None = None,
) -> Scan:
    """See all processes, or those in `pids`; with `installed`, also the builds on disk.

    What loading modules would do is looked at if there is a `late` to foresee it, what processes
    say about loads that failed if there is a `stderr` to read it. Who keeps us waiting is passed
    over if there is a `silence` to know. `rescued` has modules that lie elsewhere, by build-id. The
    executables of `before` are not read again, nor, if it has modules, are these, and what its one
    process has mapped. `views` is where the store keeps its views; `deliveries` are those that are
    asked for, in order of preference: whether others were possible is not looked at.

    Raises `UnreadableError` if there is no /proc at all; a single process that cannot be read is
    part of the answer.
    """
    known = {p.executable_file: p.build for p in before.processes} if before else {}
    on_disk = OnDisk(programs, views, known)
    again = bool(before and before.modules)
    look = _Look(proc, programs, deliveries, views, late, stderr, silence, on_disk, again)
    for pid in filter(proc.is_process, pids) if pids else proc.pids():
        look.at(pid)
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
        self.own_root = self.proc.file_of(self.proc.own_pid, "root")

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
        process = Process(
            id=identity,
            name=program.guest_name(self._command_line(pid)),
            executable=path,
            executable_file=file,
            replaced=in_place != file,
            look_alike=self._is_look_alike(path, in_place, build, program),
            build=build,
            unsupported=unsupported,
            distrusted=bool(problem),
        )
        self.processes.append(self._with_details(process, program))

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

    def _is_look_alike(
        self, path: Path, identity: FileId | None, build: Build, program: Program
    ) -> bool:
        """Stamps do not tell the build of the file at `path` from `build`, its build-id does."""
        there = self.on_disk.build_at(path, identity, program) if identity else None
        return there is not None and there.stamp == build.stamp and there.build_id != build.build_id

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
        chosen, no_environment = self._environment(pid, maps, program)
        poisoned_by, unheard = self._complaint(process, program)
        place = self._place(chosen)
        return replace(
            process,
            chosen=tuple(filter(None, map(self._led_to, chosen or ()))),
            place=place,
            no_run=self._hidden_store(pid) if place else process.no_run,
            chosen_known=chosen is not None,
            no_environment=no_environment,
            covered_by=self._covered_by(pid, process.build),
            mounted=self._mounted(pid, process.build),
            loaded=frozenset(_loaded(maps, program)),
            no_mount=self._no_mount(process, no_environment),
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

    def _environment(
        self, pid: int, maps: Sequence[Mapping], program: Program
    ) -> tuple[tuple[Path, ...] | None, str]:
        """Where its variable points, and why another value would not help it if so."""
        try:
            with Memory(self.proc, pid) as memory:
                layout, live, values = read_variable(self.proc, pid, memory, program.variable, maps)
                chosen = tuple(Path(os.fsdecode(value)) for value in values if value)
                if Delivery.ENVIRONMENT not in self.deliveries:
                    return chosen, _NOT_ASKED
                need = room_needed(
                    len(live.entries), program.variable, f"{self.views}/{'x' * _ID_LENGTH}"
                )
                try:
                    find_half(memory, layout, live, need)
                except UnsupportedError as error:
                    return chosen, error.message
                return chosen, self._distrust_chosen(chosen) or self._hidden_store(pid)
        except (UnreadableError, UnsupportedError, MalformedError) as error:
            return None, error.message

    def _place(self, chosen: tuple[Path, ...] | None) -> Path | None:
        """The directory of `holdover run` that counts, if one does."""
        first = next(iter(chosen or ()), None)
        return first if first and first.parent == places(self.views) else None

    def _led_to(self, directory: Path) -> Path | None:
        """What a process finds there: a view, if it is a link of ours; None if it is not there."""
        if directory.parent != places(self.views):
            return directory
        try:
            return self.views / directory.readlink().name
        except OSError:
            return directory if directory.exists() else None

    def _distrust_chosen(self, chosen: tuple[Path, ...]) -> str:
        """Its user may have set the variable; what others can change is not held for anybody."""
        ours = (self.views, places(self.views))
        reasons = (distrust(directory) for directory in chosen if directory.parent not in ours)
        reason = next(filter(None, reasons), "")
        return reason and f"it looks for modules where others than root can put some: {reason}"

    def _hidden_store(self, pid: int) -> str:
        """Why the process could not load from the store, as far as its mounts tell; or ""."""
        place = next(path for path in (self.views, *self.views.parents) if path.exists())
        seen = file_id(self.proc.at(pid, f"root{place}"))
        if seen != file_id(place):
            return f"{place} is something else in its mount namespace"
        if os.statvfs(self.proc.at(pid, f"root{place}")).f_flag & os.ST_NOEXEC:
            return f"{place} is mounted noexec in its mount namespace"
        return ""

    def _no_mount(self, process: Process, no_environment: str) -> str:
        """The mount tables are read only where the answer will be asked for."""
        if Delivery.MOUNT not in self.deliveries:
            return "not looked at: another delivery comes first"
        before = self.deliveries[: self.deliveries.index(Delivery.MOUNT)]
        if Delivery.ENVIRONMENT in before and not no_environment:
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
            return _NOT_ASKED
        if build.fallback is None:
            return "its build looks nowhere else for a module that it could not load"
        if reason := distrust(build.fallback):
            return f"others than root can put modules where it looks last: {reason}"
        leads_to = ""
        with suppress(OSError):  # a directory, or not there: other deliveries do not mind
            leads_to = os.readlink(self.proc.at(pid, "root/var/run"))
        if leads_to not in ("/run", "../run"):
            return "/var/run is not /run in its mount namespace"
        return self._hidden_store(pid)

    def _covered_by(self, pid: int, build: Build) -> FileId | None:
        """Only the first directory is ever covered."""
        return file_id(self.proc.at(pid, f"root{build.directories[0]}"))

    def _mounted(self, pid: int, build: Build) -> frozenset[str]:
        """Read only where something else than the host's directory is seen."""
        if self._covered_by(pid, build) == file_id(build.directories[0]):
            return frozenset()
        mounts = parse_mountinfo(self.proc.read(pid, "mountinfo"))
        return frozenset(filter(None, (view_on(mount, self.views) for mount in mounts)))


def _loaded(maps: Sequence[Mapping], program: Program) -> Iterator[str]:
    for path in {mapping.path.removesuffix(DELETED) for mapping in maps}:
        name = path.rpartition("/")[2].removesuffix(".so")
        if path.endswith(".so") and program.is_module(name):
            yield name


def _unknown_build(program: Program) -> Build:
    return Build(program.name, "", None, "", ())
