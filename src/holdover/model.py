# SPDX-License-Identifier: Apache-2.0
"""The words of the design as frozen values. They know nothing and do nothing.

A process is (pid, start time), a file is (device, inode), a build is an ELF build-id plus the
program's own stamp: identity is never a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from holdover.held import Purpose
from holdover.identity import FileId, ProcessId

__all__ = [
    "Build",
    "Module",
    "Needed",
    "LateLoad",
    "Rescued",
    "Process",
    "Scan",
    "Installed",
    "Unreadable",
    "State",
    "Delivery",
    "Capture",
    "Item",
    "Plan",
    "Outcome",
    "Result",
]


@dataclass(frozen=True, slots=True)
class Build:
    """An exact executable. `stamp` is None when it cannot load modules at all."""

    program: str
    build_id: str
    stamp: str | None
    version: str
    directories: tuple[Path, ...]
    """Where it looks for modules when nothing else tells it to."""
    fallback: Path | None = None
    """Where it looks for a module that it could not load from there; None if it does not."""
    exact: bool = True
    """No other build's modules carry its stamp, except by an accident. If not, those of a later
    one do too, and only the symbols that they need tell whether they would load."""
    strict: bool = False
    """It refuses the modules of every other build, by what cannot be seen in them."""
    by_file: bool = False
    """It tells what it has loaded by the file: from another one it would load it once more."""
    harmless: bool = False
    """A load that fails does it no harm, however often."""


@dataclass(frozen=True, slots=True)
class Module:
    """A file that a program may load after it started, as it lies on disk now."""

    name: str
    path: Path
    stamp: str
    """The stamp that it carries; "" if it carries none or cannot be read as a module."""


@dataclass(frozen=True, slots=True)
class Needed:
    """A library that a module needs and a process has not got yet, as it lies on disk now."""

    name: str
    """That it is asked for by."""
    path: Path
    size: int
    mtime_ns: int
    origin: str = ""
    """Where it was got from, if it does not belong to this system any more."""


@dataclass(frozen=True, slots=True)
class LateLoad:
    """What would happen if a process loaded a module now."""

    name: str
    path: Path
    problem: str = ""
    """Why it would not load; "" if it would."""
    other: bool = False
    """It is of another executable of the build, so that it never would have loaded in this one."""
    needs: tuple[Needed, ...] = ()
    """What has to be held with it: its closure, and the companions of the process's libc."""
    order: tuple[str, ...] = ()
    """All names that it needs, directly or not, in the order in which symbols are looked up; then
    what libc would open by name."""
    unheld: tuple[tuple[str, str], ...] = ()
    """What it needs and must not be held, each with the reason."""
    origin: str = ""
    """As in `Needed`."""
    file: FileId | None = None
    size: int = 0
    mtime_ns: int = 0

    def __hash__(self) -> int:
        return hash(self.name)  # those of a build are asked for by the thousand


@dataclass(frozen=True, slots=True)
class Rescued:
    """Modules of a build that was replaced, got back from somewhere."""

    modules: tuple[Module, ...]
    root: Path | None = None
    """Below it lies the system that they belong to, if this one's libraries do not serve them."""
    origins: Mapping[Path, str] = field(default_factory=dict)
    """Where each file was got from, in an operator's words."""
    whole: bool = True
    """Whether that is all that the packages of the build have."""


class State(StrEnum):
    CURRENT = "current"
    PROTECTED = "protected"
    DEFUSED = "defused"
    AT_RISK = "at-risk"
    POISONED = "poisoned"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"


class Delivery(StrEnum):
    RUN = "run"
    ENVIRONMENT = "environment"
    VARIABLE = "variable"
    MOUNT = "mount"
    FALLBACK = "fallback-dir"
    PRELOAD = "preload"


@dataclass(frozen=True, slots=True)
class Process:
    """One running instance of a program, with all that a plan needs to know about it."""

    id: ProcessId
    name: str
    executable: Path
    executable_file: FileId
    replaced: bool
    """The file at `executable` is no longer the one that runs."""
    look_alike: bool = field(default=False, kw_only=True)
    """And what is there now is another build with the same stamp."""
    reinstalled: bool = field(default=False, kw_only=True)
    """And what is there now is the same build once more."""
    build: Build
    part_of: int | None = field(default=None, kw_only=True)
    """The process that forked it and runs the same; None if nobody that is looked at did."""
    allowed: tuple[Delivery, ...] = field(default=tuple(Delivery), kw_only=True)
    """Deliveries that are possible for programs of its kind."""
    chosen: tuple[Path, ...] = ()
    """Directories that it is told to look in for modules, the one that counts first."""
    pointed_by: Delivery = field(default=Delivery.ENVIRONMENT, kw_only=True)
    """What says so."""
    place: Path | None = field(default=None, kw_only=True)
    """Directory of `holdover run` that counts first; `chosen` has where it leads, if anywhere."""
    chosen_known: bool = field(default=True, kw_only=True)
    """Whether its environment could be read."""
    covered_by: FileId | None = None
    """Identity of its module directory as the process itself sees it."""
    mounted: frozenset[str] = frozenset()
    """Snapshots whose views are mounted in its namespace, one upon the other: each carries the
    next, and the kernel drops a mount with the directory that it lies on."""
    fallback: Path | None = None
    """The view that its fallback directory leads to, as the process itself sees it."""
    promised: str = ""
    """The snapshot that its fallback directory is to lead to while no module of its build lies on
    disk; "" if none."""
    loaded: frozenset[str] = frozenset()
    """Names of the modules that it has mapped."""
    loaded_files: tuple[tuple[str, FileId], ...] = field(default=(), kw_only=True)
    """And their files, where another one of the same name would be loaded once more."""
    unsupported: str = ""
    """Why nothing can be done for it; "" if something can."""
    distrusted: bool = field(default=False, kw_only=True)
    """That is because others than root could have made its executable."""
    late: tuple[LateLoad, ...] = ()
    """What it would find first for each name: in its view, or on disk."""
    own: tuple[LateLoad, ...] = ()
    """Modules of its build that lie on disk, or were got back."""
    whole: bool = field(default=False, kw_only=True)
    """They were got back, and the packages of its build have no more."""
    library_path: str = ""
    """LD_LIBRARY_PATH, as it was when it started."""
    unforeseen: str = ""
    """Why its late loads cannot be foreseen; "" if they can."""
    poisoned_by: str = field(default="", kw_only=True)
    """The module that failed to load so that the next load kills it, as it said itself."""
    unheard: str = field(default="", kw_only=True)
    """Why it may have said so all the same; "" if it did not."""
    no_run: str = field(default="it was not started by `holdover run`", kw_only=True)
    """Why what its directory of `holdover run` leads to is no use; "" if it is."""
    no_environment: str = ""
    """Why its environment cannot be written; "" if it can."""
    no_variable: str = field(default="", kw_only=True)
    """Why its variable cannot be written; "" if it can."""
    no_mount: str = ""
    """Why its module directory cannot be covered; "" if it can."""
    no_fallback: str = ""
    """Why its fallback directory is no use; "" if it is."""

    @property
    def outlived(self) -> bool:
        """Its executable was replaced, and what is on disk may be a later build's all the same."""
        return self.replaced and not (self.build.exact or self.reinstalled)


@dataclass(frozen=True, slots=True)
class Installed:
    """A build as it lies on disk, whether it runs or not."""

    path: Path
    build: Build
    own: tuple[LateLoad, ...] = ()
    """Modules of it that lie on disk, for a process that is started now."""
    unforeseen: str = ""
    """Why its late loads cannot be foreseen; "" if they can."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A process that the kernel did not let us see, or not all of it."""

    pid: int
    reason: str
    program: str = ""
    """The program that it runs; "" if even that is not known."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What was seen, and what could not be seen."""

    processes: tuple[Process, ...]
    modules: tuple[Module, ...]
    """All modules in all directories that some process or installed build may load from."""
    installed: tuple[Installed, ...] = ()
    foreign: int = 0
    unreadable: tuple[Unreadable, ...] = ()


@dataclass(frozen=True, slots=True)
class Capture:
    """A snapshot to be taken: for each module name, the file on disk that is the build's own."""

    build: Build
    purpose: Purpose
    executable: Path
    """Where the executable can be read: its names of modules become decoys."""
    modules: tuple[LateLoad, ...]
    """On disk, or in the view of another snapshot of the build."""
    reason: str
    unheld: tuple[tuple[str, str], ...] = ()
    library_path: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """What the plan says about one process."""

    process: Process
    state: State
    reason: str
    delivery: Delivery | None = None
    """How it sees `snapshot` now."""
    snapshot: str = ""
    deliver: Delivery | None = None
    """How it is going to see another snapshot; None if nothing is to be done."""
    otherwise: Delivery | None = field(default=None, kw_only=True)
    """And how, if that turns out to be impossible."""
    source: str | Capture = ""
    """The snapshot to deliver: its id, or how to take it."""
    problem: str = ""
    """Why nothing can be done for a process that needs something; "" if something can."""


@dataclass(frozen=True, slots=True)
class Plan:
    items: tuple[Item, ...]
    captures: tuple[Capture, ...] = ()
    """For installed builds that are about to be replaced, whether they run or not."""
    unreadable: tuple[Unreadable, ...] = ()
    problems: tuple[str, ...] = ()
    """Why an installed build that is about to be replaced cannot be held."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one process."""

    process: Process
    state: State
    reason: str
    delivery: Delivery | None = None
    snapshot: str = ""
    changed: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a plan; `problems` are those that concern no single process."""

    outcomes: tuple[Outcome, ...]
    problems: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    taken: tuple[str, ...] = ()
    """Snapshots that were not there before."""
