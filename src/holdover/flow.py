# SPDX-License-Identifier: Apache-2.0
"""The steps in order. Here is what happens when a guest is protected:

    scan -> plan -> capture -> lease -> deliver -> verify

One process that cannot be served is an outcome, not the end: the others are served all the same.
"""

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdover.delivering import in_place, point, tidy
from holdover.errors import (
    DamagedError,
    HoldoverError,
    RefusedError,
    UnreadableError,
    VanishedError,
)
from holdover.held import Holding, Lease
from holdover.identity import ProcessId
from holdover.judging import READY
from holdover.lateloads import LateLoads
from holdover.looking import Looking, holding_of
from holdover.model import (
    Capture,
    Delivery,
    Item,
    Module,
    Outcome,
    Plan,
    Process,
    Result,
    Scan,
    State,
)
from holdover.steps.deliver.run import in_the_way, place_of
from holdover.steps.plan import Aim, Touches, always
from holdover.steps.scan import scan
from holdover.steps.verify import loaded_twice, verify

if TYPE_CHECKING:
    from holdover.steps.collect import Collected

__all__ = ["Holdover"]


@dataclass
class Holdover(Looking):
    """holdover on one machine, with the right to change something."""

    proven: dict[str, str] | None = field(default=None, init=False)
    """What failed of each snapshot that was rehearsed; if not None, nothing else is delivered."""
    _taken: dict[tuple[object, ...], str] = field(default_factory=dict, init=False)
    """Snapshots taken in this run, by what was wanted."""
    _modules: tuple[Module, ...] = field(default=(), init=False)
    """What lay on disk when we looked."""
    _known_as: dict[int, str] = field(default_factory=dict, init=False)
    """Names of the processes that were seen; what one has forked is known by its name."""
    _read: dict[str, str] = field(default_factory=dict, init=False)
    """What a full reading in this run found wrong with each snapshot."""

    # -- protecting ----------------------------------------------------------------------------

    def carry_out(
        self,
        aim: Aim,
        pids: Collection[int] = (),
        touches: Touches = always,
        transaction: ProcessId | None = None,
    ) -> Result:
        """Do what the plan says. With `transaction`, also hold what it is about to replace."""
        with self.writing():
            seen = self._scan(pids, installed=aim is Aim.PROTECT)
            self._modules = seen.modules
            self._known_as = {p.id.pid: p.name for p in seen.processes}
            tidy(self.store, seen, everybody=False)
            decided = self._decide(seen, aim, touches)
            before = self.store.ids()
            self._taken.clear()
            self._read.clear()
            self._known = self.store.holdings()
            asked = [item for item in decided.items if item.deliver is Delivery.PRELOAD]
            outcomes = [self._serve(i) for i in _leaders_first(decided) if i not in asked]
            outcomes += self._serve_newcomers(seen, outcomes, aim, touches)
            problems: list[str] = []
            if transaction is not None:
                problems += decided.problems
                problems += [self._hold_for(transaction, wanted) for wanted in decided.captures]
            outcomes += [self._serve(item) for item in asked]  # last: they may never answer
            taken = tuple(sorted({*self._taken.values()} - before))
            problems = list(filter(None, problems))
            return Result(tuple(outcomes), tuple(problems), decided.unreadable, taken)

    def _serve_newcomers(
        self, seen: Scan, outcomes: Collection[Outcome], aim: Aim, touches: Touches
    ) -> list[Outcome]:
        """Whoever was forked after the look, and before his parent was served."""
        served = {o.process.id.pid for o in outcomes if o.changed and o.process.part_of is None}
        forking = {p.id.pid for p in seen.processes if self.program_of(p).workers}
        known = {p.id.pid for p in seen.processes}
        new = [pid for pid in self.proc.children(served & forking) if pid not in known]
        if not new:
            return []
        decided = self._decide(self._scan(new, workers=False), aim, touches)
        return [self._serve(item) for item in decided.items]

    def _serve(self, item: Item) -> Outcome:
        process = item.process
        unchanged = Outcome(process, item.state, item.reason, item.delivery, item.snapshot)
        if item.problem:
            return replace(unchanged, reason=f"{item.reason}; {item.problem}", failed=True)
        if item.deliver is None:
            if item.delivery is Delivery.RUN:
                self._follow(item)
            return unchanged
        self.progress(f"protecting {process.name or process.id.pid}")
        try:
            if item.deliver is Delivery.PRELOAD:
                return self._preload(process)
            return self._deliver(item, item.deliver)
        except VanishedError as error:  # then it needs nothing any more, if that is true
            lives = self.proc.is_alive(process.id)
            return replace(unchanged, reason=error.message, failed=lives)
        except (HoldoverError, OSError) as error:
            return replace(unchanged, reason=str(error), failed=True)

    def _deliver(self, item: Item, delivery: Delivery) -> Outcome:
        process = item.process
        holding = self.holding(item.source)
        if holding.rehearsal_failure and holding.snapshot.id == item.snapshot:
            raise RefusedError(f"what is on disk is no better: {item.reason}")
        if delivery is Delivery.RUN and (problem := self._in_the_way(process.place, holding)):
            if item.otherwise is None:
                raise RefusedError(f"{process.place} cannot be used: {problem}")
            delivery = item.otherwise
        if delivery is Delivery.FALLBACK:
            holding = in_place(self.store, process, holding)
        self._check(holding, process, delivery)
        name = self._known_as.get(process.part_of or process.id.pid, process.name)
        lease = self.lease(process.id, holding.snapshot.id, name, str(delivery))
        self.store.add_lease(lease)  # before the delivery: a kill in between leaks nothing
        if delivery is Delivery.FALLBACK and any(not late.origin for late in process.own):
            return self._promise(item, lease)
        program = self.program_of(process)
        try:
            point(self.proc, self.store, self.mounter, process, program, delivery, holding)
        except (HoldoverError, OSError):
            if self._look_again(process).snapshot != lease.snapshot:
                self.store.drop_lease(lease)
            raise
        self.drop_leases(process.id, but=lease)
        self.store.released.forget(process.id)
        after = self._look_again(process)
        if after.snapshot != lease.snapshot:
            raise RefusedError(f"process {process.id.pid} does not see what was delivered to it")
        failed = after.state not in (State.PROTECTED, State.DEFUSED)
        return Outcome(process, after.state, after.reason, delivery, lease.snapshot, True, failed)

    def _promise(self, item: Item, lease: Lease) -> Outcome:
        """Hold what its fallback directory is to lead to, once it has to: not while the package
        that has modules of its build on disk may write to that directory."""
        process = item.process
        self.drop_leases(process.id, but=lease)
        self.store.released.forget(process.id)
        failed = item.state is not State.CURRENT
        then = f"{process.build.fallback} is not used as long as some of its own lie on disk"
        reason = f"{item.reason}; {then if failed else READY}"
        by = Delivery.FALLBACK
        return Outcome(process, item.state, reason, by, lease.snapshot, changed=True, failed=failed)

    def _preload(self, process: Process) -> Outcome:
        from holdover.preloading import preload_modules  # asyncio comes with it: 20 ms

        if self.proven is not None:
            raise RefusedError("what would be preloaded is not rehearsed")
        self._late = LateLoads(self.proc, deep=True, patience=self.patience)  # nothing is tried
        self._modules = ()  # what lies on disk now is what counts
        return preload_modules(self.proc, process, self.program_of(process), self._look_again)

    def _look_again(self, process: Process) -> Item:
        """What the process is pointed at now, and whether that would load."""
        before = Scan((process,), self._modules)  # it holds its executable open
        seen = self._with_promises(
            scan(
                *self._where,
                pids=[process.id.pid],
                late=self._late,
                stderr=self._stderr,
                before=before,
            )
        )
        if seen.unreadable:
            raise UnreadableError(seen.unreadable[0].reason)
        if [found.id for found in seen.processes] != [process.id]:
            raise VanishedError(f"process {process.id.pid} ended")
        return self._looked_at(seen)[0]

    def holding(self, source: str | Capture) -> Holding:
        """The holding to deliver, captured now if it has to be; the caller is the writer."""
        if isinstance(source, Capture):
            source = self._capture(source)
        return holding_of(self._holdings(), source)

    def _capture(self, wanted: Capture) -> str:
        """Take a snapshot; many processes of one build want the same."""
        build = wanted.build
        identity = (build.program, build.build_id, build.stamp, wanted.library_path)
        key = (*identity, wanted.purpose, wanted.modules)
        if key not in self._taken:
            from holdover.steps.capture import capture  # most runs hold nothing new

            self.progress(f"holding the modules of {build.version or build.program}")
            taken = capture(self.store, wanted, self.programs).id
            self._known = self.store.holdings()
            self._taken[key] = taken
            self._read[taken] = ""  # it was read a moment ago
        return self._taken[key]

    def check_damage(self, holding: Holding) -> None:
        """Read it all; raises `DamagedError` if it is not what was captured."""
        if holding.snapshot.id not in self._read:
            self._read[holding.snapshot.id] = self.store.damage(holding)
        damage = holding.damage or self._read[holding.snapshot.id]
        if damage:
            raise DamagedError(f"snapshot {holding.snapshot.id} is not used: {damage}")

    def _check(self, holding: Holding, process: Process, delivery: Delivery) -> None:
        self.check_damage(holding)
        if self.proven is not None:
            failure = self.proven.get(holding.snapshot.id, "this is another snapshot; try again")
            if failure:
                raise RefusedError(f"rehearsal: {failure}")
        if twice := loaded_twice(process, holding):
            raise RefusedError(f"process {process.id.pid}: {twice}, and would load it once more")
        if delivery is not Delivery.MOUNT:
            hidden = verify(self.proc, process, holding, holding.view)
            if hidden:
                raise RefusedError(f"process {process.id.pid}: {hidden}")

    def _hold_for(self, transaction: ProcessId, wanted: Capture) -> str:
        """One that starts while files are replaced has the old build and meets the new files."""
        try:
            holding = self.holding(wanted)
            self.store.add_lease(self.lease(transaction, holding.snapshot.id, "transaction"))
            if Delivery.RUN in self.deliveries:
                place = place_of(self.store.leads, wanted)
                if not self._in_the_way(place, holding):
                    self.store.leads.lead(place, holding.view)
        except (HoldoverError, OSError) as error:
            return f"{wanted.executable} is not held: {error}"
        return ""

    def _in_the_way(self, place: Path | None, holding: Holding) -> str:
        """Why a directory of `holdover run` may not lead there, or ""."""
        if place is None or self.store.leads.view(place) == holding.view:
            return ""
        held, others = self._holdings(), self._scan(late=False).processes
        return in_the_way(place, self.store.leads.view(place), holding, held, others)

    def _follow(self, item: Item) -> None:
        """Others of its build may have been led elsewhere, and it with them."""
        process = item.process
        lease = self.lease(process.id, item.snapshot, process.name, str(Delivery.RUN))
        if lease not in self.store.leases_of(process.id):
            self.store.add_lease(lease)
            self.drop_leases(process.id, but=lease)

    # -- letting go ----------------------------------------------------------------------------

    def collect(
        self, *, dry_run: bool = False, transaction: ProcessId | None = None
    ) -> "Collected":
        """Remove what nobody needs; the leases of `transaction` end here."""
        from holdover.steps.collect import collect

        with nullcontext() if dry_run else self.writing():
            if transaction is not None:
                self.drop_leases(transaction)
            pinned = self.store.pins.valid(self.pin_lifetime)
            leases = self.store.leases()
            live = {held.snapshot for held in leases if self.proc.is_alive_in(held) is not False}
            quiet = self.store.ids() <= live | pinned and not self.store.fallbacks.all()
            seen = Scan((), ()) if quiet else self._scan(late=False)
            done = collect(self.store, seen, self.proc.is_alive_in, pinned, dry_run=dry_run)
            if not (dry_run or quiet or done.kept_because):
                tidy(self.store, seen, everybody=True)
            return done

    def lease(self, process: ProcessId, snapshot: str, name: str, delivery: str = "") -> Lease:
        """For a process as it is counted here."""
        return Lease(process, snapshot, name, delivery, *self.proc.world)

    def drop_leases(self, process: ProcessId, but: Lease | None = None) -> None:
        """The process needs nothing any more (`but` one); the caller is the writer."""
        for lease in self.store.leases_of(process):
            if lease != but:
                self.store.drop_lease(lease)


def _leaders_first(decided: Plan) -> list[Item]:
    """Whoever is forked after that has what who forks it was given."""
    return sorted(decided.items, key=lambda item: item.process.part_of is not None)
