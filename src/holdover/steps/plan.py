# SPDX-License-Identifier: Apache-2.0
"""Decide: the state of each process, what to do for it, and why. Pure; this is `--dry-run`.

A process is protected by the snapshot of its own build or not at all. What lies on disk is its own
as long as it carries the build's stamp; a replaced executable whose successor carries the same
stamp is suspicious (two package builds of one source), and nothing is captured for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import Enum
from pathlib import Path

from holdover.fitting import covers, fullest, joined
from holdover.held import Holding, Purpose, Snapshot
from holdover.judging import LOOK_ALIKE, Judge, failure_of, no_preload
from holdover.model import (
    Build,
    Capture,
    Delivery,
    Installed,
    Item,
    LateLoad,
    Plan,
    Process,
    Scan,
    State,
)
from holdover.places import place_name

__all__ = ["Aim", "plan", "without", "without_programs", "always", "files_of"]

_REPLACED = "it was replaced before it could be held"
_LEFT_ALONE = "it is left alone, as programs.disabled asks for"
_MEND = "if that can be mended, `holdover rehearse {}` afterwards"

Touches = Callable[[Path], bool]
"""Whether a pending change of files concerns the file or what is in the directory."""


class Aim(Enum):
    LOOK = "change nothing"
    PROTECT = "before a change: whatever loads late"
    CATCH_UP = "after a change: whatever a late load would fail in"
    DEFUSE = "after a change, without the old files: whatever a late load would kill"


def always(_: Path) -> bool:
    """The change is not known: it may concern everything."""
    return True


def plan(
    scan: Scan,
    holdings: tuple[Holding, ...],
    deliveries: tuple[Delivery, ...],
    views: Path,
    aim: Aim,
    touches: Touches = always,
) -> Plan:
    """What is true of each process, and what `aim` asks to be done about it."""
    decide = _Decision(scan, holdings, deliveries, views, aim)
    items = tuple(decide.item(process, touches) for process in scan.processes)
    touched = decide.installed(touches) if aim is Aim.PROTECT else []
    captures = tuple(_capture_installed(found) for found in touched if not found.unforeseen)
    problems = (_problem_of(found) for found in touched if found.unforeseen)
    return Plan(items, captures, scan.unreadable, tuple(problems))


def without(decided: Plan, disabled: tuple[str, ...]) -> Plan:
    """The plan, with nothing to be done for the programs that the operator wants left alone."""
    items = (
        replace(item, deliver=None, source="", problem="", reason=f"{item.reason}; {_LEFT_ALONE}")
        if item.process.build.program in disabled and (item.deliver or item.problem)
        else item
        for item in decided.items
    )
    return replace(decided, items=tuple(items))


def without_programs(seen: Scan, disabled: tuple[str, ...]) -> Scan:
    """What is installed of those programs, and who could not be read of them, is nobody's loss."""
    installed = (i for i in seen.installed if i.build.program not in disabled)
    unreadable = (entry for entry in seen.unreadable if entry.program not in disabled)
    return replace(seen, installed=tuple(installed), unreadable=tuple(unreadable))


class _Decision:
    def __init__(
        self,
        scan: Scan,
        holdings: tuple[Holding, ...],
        deliveries: tuple[Delivery, ...],
        views: Path,
        aim: Aim,
    ) -> None:
        self.scan = scan
        self.holdings = holdings
        self.deliveries = deliveries
        self.judge = Judge(scan.modules, holdings, views)
        self.aim = aim

    def item(self, process: Process, touches: Touches) -> Item:
        state = self.judge.state(process)
        if self.aim is Aim.LOOK or not self._wants_something(state, touches):
            return state
        return self.remedy(state)

    # -- what to do about it -------------------------------------------------------------------

    def _wants_something(self, item: Item, touches: Touches) -> bool:
        match self.aim, item.state:
            case Aim.PROTECT, State.CURRENT | State.AT_RISK | State.DEFUSED:
                if item.process.build.stamp is None:
                    return False
                if item.state is State.CURRENT and item.delivery is not None:
                    return not self._keeps_promise(item)
                # which libraries it needs is not known then: a change may concern them
                return bool(item.process.unforeseen) or any(map(touches, files_of(item.process)))
            case Aim.PROTECT, State.UNSUPPORTED:
                return touches(item.process.executable)
            case ((Aim.PROTECT | Aim.CATCH_UP), State.PROTECTED):
                return self._is_outdated(item)
            case Aim.CATCH_UP, State.AT_RISK | State.DEFUSED:
                return True
            case Aim.CATCH_UP, State.CURRENT:
                return self._met_its_successor(item)
            case Aim.DEFUSE, State.AT_RISK:
                return not item.process.build.harmless
            case _:
                return False

    def _met_its_successor(self, item: Item) -> bool:
        """Whether its own are held, and it would load a later build's as if they were."""
        undelivered = item.process.outlived and item.delivery is None
        return undelivered and self._held(item) is not None

    def _keeps_promise(self, item: Item) -> bool:
        """Whether what is held for the fallback directory is what there is, and not in it yet."""
        process = item.process
        held = next(h for h in self.holdings if h.snapshot.id == item.snapshot)
        by_fallback = self._first_way(process) is Delivery.FALLBACK
        return by_fallback and process.fallback is None and covers(held.snapshot, process.own)

    def _failed_rehearsal(self, item: Item) -> bool:
        """Whether that alone is wrong with what it is pointed at: more of the same is no help."""
        held = next((h for h in self.holdings if h.snapshot.id == item.snapshot), None)
        if held is None or not held.rehearsal_failure or self.aim is Aim.DEFUSE:
            return False
        if held.damage or failure_of(item.process):
            return False
        return held.snapshot.build_id == item.process.build.build_id

    def _is_outdated(self, item: Item) -> bool:
        """Whether modules were installed since that its view refuses, or does not even know of."""
        held = next(h for h in self.holdings if h.snapshot.id == item.snapshot)
        more = {late.name for late in item.process.own if not late.problem}
        if self._has_gaps(item.process, held.snapshot):
            return True
        if not (more <= held.snapshot.modules):
            return not item.process.look_alike or item.process.outlived
        return self._follows(item.process) and not self._covers(held, item.process)

    def _follows(self, process: Process) -> bool:
        """Whether a module that is replaced under the same stamp is replaced for this process too:
        its executable is what lies on disk, so the new one is meant for it."""
        return not (process.build.exact or process.replaced)

    def _covers(self, held: Holding, process: Process) -> bool:
        loaded = dict(process.loaded_files)
        # what it has loaded from elsewhere stays as it is
        own = tuple(late for late in process.own if loaded.get(late.name, late.file) == late.file)
        return covers(held.snapshot, own, same_files=not process.build.exact)

    def _has_gaps(self, process: Process, snapshot: Snapshot) -> bool:
        """Names on disk that a view neither holds nor refuses: the search would go on to them.

        Only a later build brings such, and it matters if the process puts that name together.
        """
        if self._first_way(process) in (Delivery.FALLBACK, Delivery.VARIABLE):
            return False  # the search comes from them, or ends where it begins
        there = self.judge.there(process)
        return not there.keys() <= {*snapshot.modules, *snapshot.decoys, *process.loaded}

    def remedy(self, item: Item) -> Item:
        process = item.process
        if item.state is State.UNSUPPORTED:
            return replace(item, problem="nothing can be done for it")
        if self._failed_rehearsal(item) and (process.look_alike or not process.own):
            return replace(item, problem=_MEND.format(process.id.pid))
        source, problem = self._source(item)
        if item.state is State.DEFUSED and not source:
            return item  # it stays as it is until its files turn up
        ways, no_delivery = self._ways(item)
        problem = problem or no_delivery
        if problem:
            return replace(item, problem=problem)
        if ways[0] is Delivery.PRELOAD:
            return replace(item, deliver=ways[0])  # nothing has to be held
        return replace(item, deliver=ways[0], otherwise=next(iter(ways[1:]), None), source=source)

    def _source(self, item: Item) -> tuple[str | Capture, str]:
        """The snapshot for a process, or how to take it, or why there is none."""
        process = item.process
        executable = Path(f"/proc/{process.id.pid}/exe")
        if self.aim is Aim.DEFUSE:
            reason = f"a late load of {_label(process)} must not kill it"
            return Capture(process.build, Purpose.DEFUSE, executable, (), reason), ""
        own, held = process.own, self._held(item)
        if held is not None:
            doubtful = bool(held.rehearsal_failure and own)  # those on disk may do better
            whole = not self._has_gaps(process, held.snapshot) and not doubtful
            if self._no_better(item, held) or (self._covers(held, process) and whole):
                return held.snapshot.id, ""
        if held is None and not own and process.build.exact:
            held = self._sibling(process)
        if held is None and not own and item.state is not State.CURRENT:
            return "", (
                "its modules were replaced before it was protected; "
                f"`holdover rescue {process.id.pid}` gets them back, or makes late loads harmless"
            )
        got_back = any(late.origin for late in own)
        if process.outlived and item.state is State.AT_RISK and not got_back:
            return "", (
                "its modules were replaced before it was protected; "
                f"`holdover rescue {process.id.pid}` gets them back"
            )
        if process.look_alike and not process.outlived:
            return "", f"{LOOK_ALIKE}: whose modules are on disk cannot be told"
        if process.unforeseen:
            return "", f"what it needs cannot be told: {process.unforeseen}"
        own_first = item.state is not State.PROTECTED or self._follows(process)
        modules = joined(own, held, own_first=own_first, loaded=process.loaded_files)
        wanted = _capture(process.build, executable, modules, f"needed by {_label(process)}")
        missed = set() if process.whole else self.judge.replaced(process)
        lost = missed - {late.name for late in modules}
        unheld = (*wanted.unheld, *((name, _REPLACED) for name in sorted(lost)))
        return replace(wanted, unheld=unheld, library_path=process.library_path), ""

    def _held(self, item: Item) -> Holding | None:
        """The best sound snapshot of exactly this build: its own, one that fits, or the fullest."""
        build_id = item.process.build.build_id
        there = [h for h in self._same_stamp(item.process) if h.snapshot.build_id == build_id]
        fitting = [
            h for h in there if h.snapshot.id == item.snapshot or self._covers(h, item.process)
        ]
        return fullest(fitting or there)

    def _no_better(self, item: Item, held: Holding) -> bool:
        """Whether what lies on disk is another build's, and has nothing that is not held."""
        process = item.process
        if not process.outlived:
            return process.look_alike
        more = {late.name for late in process.own if not late.problem}
        return item.state is not State.PROTECTED or more <= held.snapshot.modules

    def _sibling(self, process: Process) -> Holding | None:
        """One of another executable of the same source build: they share their modules."""
        return fullest(self._same_stamp(process))

    def _same_stamp(self, process: Process) -> Iterator[Holding]:
        for holding in self.holdings:
            held = holding.snapshot
            same = (held.stamp, held.library_path) == (process.build.stamp, process.library_path)
            if same and held.purpose is Purpose.HOLD and not holding.damage:
                yield holding

    def _ways(self, item: Item) -> tuple[list[Delivery], str]:
        """The deliveries that are allowed and possible, the first choice first; or why none is.

        The last resort comes last wherever it is listed.
        """
        process = item.process
        obstacles = {
            Delivery.RUN: self._no_run(process),
            Delivery.ENVIRONMENT: process.no_environment,
            Delivery.VARIABLE: process.no_variable,
            Delivery.MOUNT: process.no_mount,
            Delivery.FALLBACK: process.no_fallback or self._no_fallback(process),
            Delivery.PRELOAD: no_preload(item),
        }
        if self.judge.looks_elsewhere_first(process):
            obstacles[Delivery.MOUNT] = f"it looks in {process.chosen[0]} first"
        allowed = (delivery for delivery in self.deliveries if delivery in process.allowed)
        listed = sorted(allowed, key=lambda delivery: delivery is Delivery.PRELOAD)
        possible = [delivery for delivery in listed if not obstacles[delivery]]
        if possible:
            return possible, ""
        telling = [d for d in listed if d is not Delivery.RUN or process.place]
        refused = "; ".join(f"{d}: {obstacles[d]}" for d in telling or listed)
        return [], refused or "no delivery is allowed"

    def _first_way(self, process: Process) -> Delivery | None:
        return next(iter(self._ways(self.judge.state(process))[0]), None)

    def _no_run(self, process: Process) -> str:
        """Why the directory that it looks in may not lead to what is held for it, or ""."""
        if process.place is None or process.no_run:
            return process.no_run
        build = process.build
        if process.place.name != place_name(build.program, build.build_id, process.library_path):
            return "it was started for another build"
        if self.aim is Aim.DEFUSE:
            return "that would be for all guests of its build"
        return ""

    def _no_fallback(self, process: Process) -> str:
        if self.aim is Aim.DEFUSE:
            return "what is found last refuses nothing"
        if process.library_path:
            return "all of its build would get what its LD_LIBRARY_PATH leads to"
        return ""

    def installed(self, touches: Touches) -> list[Installed]:
        """Installed builds that are about to be replaced: one may start while that happens."""
        touched = [
            installed
            for installed in self.scan.installed
            if any(map(touches, (installed.path, *installed.build.directories)))
        ]
        running = {process.build.build_id for process in self.scan.processes}
        # the executables of one source build share their modules: held once, they serve all; if one
        # runs, what is held for it is the same, and is taken only once; else the first of the
        # definition's counts, a new guest of which finds it at once
        touched.reverse()
        touched.sort(key=lambda i: (not i.unforeseen, i.build.build_id in running))
        by_stamp = {(i.build.program, i.build.stamp, i.build.directories): i for i in touched}
        return list(by_stamp.values())


def _capture_installed(installed: Installed) -> Capture:
    reason = "installed, and about to be replaced"
    return _capture(installed.build, installed.path, installed.own, reason)


def _problem_of(installed: Installed) -> str:
    return (
        f"{installed.path} is not held for who starts it meanwhile: "
        f"what its modules need cannot be told: {installed.unforeseen}"
    )


def _capture(build: Build, executable: Path, modules: tuple[LateLoad, ...], reason: str) -> Capture:
    """Of what would load, here or in another executable; the rest is refused, with the reason."""
    fit = [late for late in modules if late.other or not late.problem]
    loading = tuple(sorted(fit, key=lambda late: late.name))
    unheld = {late.name: late.problem for late in modules if late not in fit}
    unheld |= dict(entry for late in loading for entry in late.unheld)
    return Capture(build, Purpose.HOLD, executable, loading, reason, tuple(unheld.items()))


def files_of(process: Process) -> Iterator[Path]:
    """All files and directories whose change concerns the process."""
    yield process.executable
    yield from process.build.directories
    yield from {need.path for late in process.own for need in late.needs}


def _label(process: Process) -> str:
    return f"{process.name or process.executable.name} ({process.id.pid})"
