# SPDX-License-Identifier: Apache-2.0
"""The flow of a rescue: processes whose files were replaced before anybody held them.

    defuse -> what the store has -> find, verify -> capture -> rehearse -> deliver

A process that cannot be rescued stays defused: its late loads fail, and do not kill it. One that is
poisoned is left untouched. Nothing is installed, and what was got runs in a rehearsal only.
"""

import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from holdover.builds import read_module_stamp
from holdover.durable import store_errors
from holdover.errors import ElfError, HoldoverError, MissingError, RefusedError
from holdover.flow import Holdover
from holdover.judging import Judge
from holdover.model import Build, Item, Module, Outcome, Process, Rescued, Scan, State, Unreadable
from holdover.mounted import is_named_by_root
from holdover.packages.fetch import Fetched, PackageFile, Sources, Wanted, fetch
from holdover.programs import Program
from holdover.proving import carry_out_proven
from holdover.steps.holders import modules_on_this_machine
from holdover.steps.plan import Aim

__all__ = ["Rescue", "rescue"]


@dataclass
class Rescue:
    """What became of each process, and what was got for them."""

    outcomes: dict[int, Outcome]
    """By pid."""
    unreadable: tuple[Unreadable, ...]
    packages: list[PackageFile] = field(default_factory=list)
    missing: list[PackageFile] = field(default_factory=list)
    """What has to be had from elsewhere."""
    bytes_downloaded: int = 0
    notes: list[str] = field(default_factory=list)

    def is_protected(self, item: Item) -> bool:
        outcome = self.outcomes[item.process.id.pid]
        return outcome.changed and outcome.state is State.PROTECTED

    def has_failed(self, item: Item) -> bool:
        return self.outcomes[item.process.id.pid].failed

    def is_settled(self, item: Item) -> bool:
        return self.is_protected(item) or self.has_failed(item)

    def fail(self, items: Iterable[Item], error: HoldoverError) -> None:
        """They stay as they are, and it is said why."""
        self._note(error)
        for item in items:
            pid = item.process.id.pid
            before = self.outcomes[pid]
            reason = f"{before.reason}; not rescued: {error.message}"
            self.outcomes[pid] = replace(before, reason=reason, failed=True)

    def take_note(self, error: HoldoverError) -> None:
        """Of what is in the way, but not of all."""
        self.notes.append(error.message)
        self._note(error)

    def _note(self, error: HoldoverError) -> None:
        if isinstance(error, MissingError):
            self.missing += [file for file in error.files if file not in self.missing]
            self.notes += error.notes
        elif error.hint:
            self.notes.append(error.hint)

    def got(self, fetched: Fetched) -> None:
        self.packages += [package for package in fetched.packages if package not in self.packages]
        self.bytes_downloaded += fetched.bytes_downloaded
        self.notes += fetched.notes


def rescue(
    holdover: Holdover, pids: Collection[int], sources: Sources, *, rehearse: bool = True
) -> Rescue:
    """Make processes that are at risk, or defused, find the modules of their builds again.

    Of those that are protected, the ones in `pids` get what their snapshots lack. Raises
    `StoreError` if the store cannot be used at all; what goes wrong with one build is the outcome
    of its processes.
    """
    seen, everyone = holdover.status()
    items = [item for item in everyone if not pids or item.process.id.pid in pids]
    done = Rescue({item.process.id.pid: _as_it_is(item) for item in items}, seen.unreadable)
    needy = [item for item in items if _is_needy(holdover, item, pids)]
    _carry_out(done, holdover, Aim.DEFUSE, _endangered(holdover, seen, needy))
    needy = [item for item in needy if not done.has_failed(item)]
    _carry_out(done, holdover, Aim.CATCH_UP, _held(holdover, needy))
    needy = [item for item in needy if not done.is_protected(item)]
    try:
        if needy:
            with holdover.store.rescuing(holdover.lock_timeout) as place:
                how = _How(sources, place, rehearse)
                _find_all(done, holdover, seen, needy, how)
                found = [item for item in needy if item.process.build.build_id in holdover.rescued]
                found = [item for item in found if not done.is_settled(item)]
                _carry_out(done, holdover, Aim.CATCH_UP, found, rehearse=rehearse)
                _tell_of_the_rest(done, holdover, found)
    except HoldoverError as error:  # what was done before it is told all the same
        done.fail((item for item in needy if not done.is_settled(item)), error)
    holdover.rescued.clear()
    try:
        holdover.collect()  # the decoys of those that were defused first
    except HoldoverError as error:
        done.take_note(error)
    return done


def _tell_of_the_rest(done: Rescue, holdover: Holdover, items: Iterable[Item]) -> None:
    """Whom all that was found does not serve."""
    for item in items:
        if done.is_settled(item):
            continue
        process = done.outcomes[item.process.id.pid].process
        if holdover.proc.is_alive(process.id):
            reason = process.unforeseen or "what was found does not serve it"
        else:
            reason = "it ended meanwhile"
        done.fail([item], RefusedError(reason))


def _as_it_is(item: Item) -> Outcome:
    return Outcome(item.process, item.state, item.reason, item.delivery, item.snapshot)


def _is_needy(holdover: Holdover, item: Item, asked: Collection[int]) -> bool:
    if item.process.build.program in holdover.disabled:
        return False
    if item.state is State.PROTECTED and item.process.id.pid in asked:
        held = holdover.holding(item.snapshot).snapshot
        return any(name in held.decoys for name, _ in held.unheld)
    return item.state in (State.AT_RISK, State.DEFUSED)


def _endangered(holdover: Holdover, seen: Scan, items: Iterable[Item]) -> list[Item]:
    """Those that would find another build's modules: refusing them all costs nothing."""
    judge = Judge(seen.modules, holdover.store.holdings(), holdover.store.views)
    at_risk = (item for item in items if item.state is State.AT_RISK)
    return [item for item in at_risk if judge.replaced(item.process) or not item.process.own]


def _held(holdover: Holdover, items: Iterable[Item]) -> list[Item]:
    """Those that the store has a snapshot for."""
    items = list(items)
    if not items:
        return []
    planned = holdover.plan(Aim.CATCH_UP, [item.process.id.pid for item in items]).items
    served = {p.process.id.pid for p in planned if p.deliver and isinstance(p.source, str)}
    return [item for item in items if item.process.id.pid in served]


def _carry_out(
    done: Rescue, holdover: Holdover, aim: Aim, items: Iterable[Item], *, rehearse: bool = False
) -> None:
    kinds: dict[bool, list[int]] = {True: [], False: []}
    for item in items:  # without a run that would load something there is nothing to rehearse
        kinds[rehearse and bool(holdover.program_of(item.process).rehearse)].append(
            item.process.id.pid
        )
    for proven, pids in kinds.items():
        if pids:  # none would stand for all
            carry_out = partial(carry_out_proven, holdover) if proven else holdover.carry_out
            for outcome in carry_out(aim, pids).outcomes:
                done.outcomes[outcome.process.id.pid] = outcome


# -- finding ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _How:
    """What is the same for all builds."""

    sources: Sources
    place: Path
    rehearse: bool


def _find_all(
    done: Rescue, holdover: Holdover, seen: Scan, needy: Iterable[Item], how: _How
) -> None:
    """Leaves what was found for each build in `holdover.rescued`."""
    builds: dict[str, list[Item]] = {}
    for item in needy:
        builds.setdefault(item.process.build.build_id, []).append(item)
    for number, (build_id, items) in enumerate(builds.items()):
        search = _Search(done, holdover, items, how, how.place / str(number))
        try:
            with store_errors(f"look for the files of build {build_id}"):
                holdover.rescued[build_id] = search.find(seen.processes)
        except HoldoverError as error:
            holdover.rescued.pop(build_id, None)
            shutil.rmtree(search.place, ignore_errors=True)  # the next build may need the room
            done.fail(search.items, error)


@dataclass
class _Search:
    """For the files of one build; `items` are the processes that need them."""

    done: Rescue
    holdover: Holdover
    items: list[Item]
    how: _How
    place: Path

    @property
    def build(self) -> Build:
        return self.items[0].process.build

    @property
    def program(self) -> Program:
        return self.holdover.program_of(self.items[0].process)

    def find(self, everyone: Iterable[Process]) -> Rescued:
        """First with this system's libraries; if these do not serve, with those of its own.

        A process may have mapped what nothing fits; those that the first serve have them at once.
        """
        if not self.build.build_id:
            raise RefusedError("its executable has no build-id to tell its packages by")
        self.place.mkdir()
        proc, mapped = self.holdover.proc, self.place / "mapped"
        mapped_here = everyone if self.build.exact else ()  # what they have may be a later one's
        here = modules_on_this_machine(proc, mapped_here, self.program, self.build, mapped)
        found = self._with_packages(here, dependencies=False)
        failing = self._failing(found)
        if not any(failing.values()):
            return found
        self._serve(frozenset(pid for pid, names in failing.items() if not names))
        try:
            return self._with_packages(here, dependencies=True)
        except HoldoverError as error:
            if all(len(names) == len(found.modules) for names in failing.values() if names):
                raise
            self.done.take_note(error)
            return found

    def _serve(self, pids: Collection[int]) -> None:
        """Some of the processes, with what was found; the search goes on for the others."""
        served = [item for item in self.items if item.process.id.pid in pids]
        self.items = [item for item in self.items if item not in served]
        rehearse = self.how.rehearse
        _carry_out(self.done, self.holdover, Aim.CATCH_UP, served, rehearse=rehearse)

    def _with_packages(self, here: dict[Module, str], *, dependencies: bool) -> Rescued:
        """What is on this machine comes first; packages have the rest."""
        try:
            fetched = self._fetch(dependencies=dependencies)
        except HoldoverError as error:
            if dependencies or not self._gain(here):
                raise
            self.done.take_note(error)
            origins = {module.path: origin for module, origin in here.items()}
            return Rescued(tuple(here), None, origins, whole=False)
        self.done.got(fetched)
        if dependencies:
            here = dict(_moved(here, fetched.root / "mapped"))
        names = {module.name for module in here}
        more = [module for module in self._modules_in(fetched.root) if module.name not in names]
        if not (here or more):
            raise RefusedError("its packages have no modules of its build")
        origins = {fetched.root / path.lstrip("/"): _said(p) for path, p in fetched.owners.items()}
        origins |= {module.path: origin for module, origin in here.items()}
        return Rescued((*here, *more), fetched.root if dependencies else None, origins)

    def _gain(self, here: Iterable[Module]) -> bool:
        """Whether some process lacks one of them: what it has mapped itself it has."""
        names = {module.name for module in here}
        return any(names - item.process.loaded for item in self.items)

    def _fetch(self, *, dependencies: bool) -> Fetched:
        build = self.build
        self.holdover.progress(f"looking for the packages of {build.version or build.program}")
        wanted = Wanted(
            executable=self._executable,
            build_id=build.build_id,
            version=build.version,
            directories=build.directories,
            packages=self.program.packages,
        )
        place = self.place / ("system" if dependencies else "build")
        place.mkdir()
        progress = self.holdover.progress
        try:
            return fetch(
                wanted, place, self.how.sources, dependencies=dependencies, progress=progress
            )
        except HoldoverError:
            shutil.rmtree(place, ignore_errors=True)  # what is found without it may need the room
            raise

    @property
    def _executable(self) -> Path:
        """Where it was installed: a user may run it by a name that no package knows."""
        proc, all_of_them = self.holdover.proc, [item.process for item in self.items]
        named = (p for p in all_of_them if is_named_by_root(proc, p.id.pid, "exe"))
        return next(named, all_of_them[0]).executable

    def _modules_in(self, root: Path) -> Iterator[Module]:
        """Those that carry the stamp."""
        for directory in self.build.directories:
            for path in sorted((root / directory.relative_to("/")).glob("*.so")):
                try:
                    with path.open("rb") as file:
                        stamp = read_module_stamp(file, self.program)
                except (OSError, ElfError):  # a link to what was not unpacked, or no module
                    continue
                if stamp == self.build.stamp:
                    yield Module(path.stem, path, stamp)

    def _failing(self, found: Rescued) -> dict[int, frozenset[str]]:
        """For each process, by its pid, names of modules that would not load in it."""
        self.holdover.rescued[self.build.build_id] = found
        seen, _ = self.holdover.status([item.process.id.pid for item in self.items])
        return {
            process.id.pid: frozenset(e.name for e in process.own if e.problem and not e.other)
            for process in seen.processes
        }


def _moved(modules: dict[Module, str], place: Path) -> Iterator[tuple[Module, str]]:
    """To where the libraries are that serve them."""
    place.mkdir()
    for module, origin in modules.items():
        path = place / module.path.name
        path.hardlink_to(module.path)
        yield replace(module, path=path), origin


def _said(package: PackageFile) -> str:
    return f"{package.file_name} ({package.origin})"
