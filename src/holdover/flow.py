# SPDX-License-Identifier: Apache-2.0
"""The steps in order. Here is what happens when a guest is protected:

    scan -> plan -> capture -> lease -> deliver -> verify

One process that cannot be served is an outcome, not the end: the others are served all the same.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from holdover.answers import Explanation, Preview
from holdover.delivering import point, seen_at
from holdover.errors import (
    DamagedError,
    HoldoverError,
    ProcessError,
    RefusedError,
    UnreadableError,
    VanishedError,
)
from holdover.lateloads import PATIENCE, LateLoads
from holdover.model import (
    Capture,
    Delivery,
    Holding,
    Item,
    Lease,
    Outcome,
    Plan,
    Process,
    ProcessId,
    Rescued,
    Result,
    Scan,
    State,
    Unreadable,
)
from holdover.pending import PendingFiles
from holdover.preloading import preload_modules
from holdover.procfs import ProcFs
from holdover.programs import Program, load_programs
from holdover.search import prospects
from holdover.stderr import Stderr
from holdover.steps.capture import capture
from holdover.steps.collect import Collected, collect
from holdover.steps.deliver.run import in_the_way, place_of
from holdover.steps.explain import explain
from holdover.steps.plan import Aim, Touches, always, files_of, plan, without, without_programs
from holdover.steps.preview import preview
from holdover.steps.scan import scan
from holdover.steps.verify import verify
from holdover.store import Store

__all__ = ["Holdover", "Progress"]

Progress = Callable[[str], None]
"""Told what is being done, one short line at a time."""


def _silent(_: str) -> None:
    return


@dataclass
class Holdover:
    """holdover on one machine: where to look, where to hold, what it may do."""

    proc: ProcFs = field(default_factory=ProcFs)
    store: Store = field(default_factory=Store)
    programs: tuple[Program, ...] = field(default_factory=load_programs)
    deliveries: tuple[Delivery, ...] = (Delivery.RUN, Delivery.ENVIRONMENT, Delivery.MOUNT)
    disabled: tuple[str, ...] = ()
    """Names of programs that are looked at and left alone."""
    lock_timeout: float = 10.0
    """Seconds to wait for another holdover."""
    patience: float = PATIENCE
    """Seconds of processor time that looking at all processes of one user may take."""
    pin_lifetime: float = 0.0
    """Seconds that a pin keeps a snapshot; 0: forever."""
    progress: Progress = _silent
    deep: bool = False
    """Look up every symbol when late loads are foreseen."""
    ask_journal: bool = False
    """Look there too for what processes said; that is to run a command."""
    rescued: dict[str, Rescued] = field(default_factory=dict, init=False)
    """Modules of replaced builds that were got back, by build-id."""
    proven: dict[str, str] | None = field(default=None, init=False)
    """What failed of each snapshot that was rehearsed; if not None, nothing else is delivered."""
    _late: LateLoads | None = field(default=None, init=False)
    _stderr: Stderr | None = field(default=None, init=False)
    _taken: dict[tuple[object, ...], str] = field(default_factory=dict, init=False)
    """Snapshots taken in this run, by what was wanted."""
    _read: dict[str, str] = field(default_factory=dict, init=False)
    """What a full reading in this run found wrong with each snapshot."""
    _known: tuple[Holding, ...] | None = field(default=None, init=False)
    """What the store holds, while we are its writer and know all that is added."""

    # -- looking -------------------------------------------------------------------------------

    def status(self, pids: Collection[int] = ()) -> tuple[Scan, tuple[Item, ...]]:
        """What was seen, and the state of each process; takes no lock and changes nothing."""
        seen = self._scan(pids)
        return seen, self._looked_at(seen)

    def _looked_at(self, seen: Scan) -> tuple[Item, ...]:
        holdings = self._holdings()
        items = plan(seen, holdings, self.deliveries, self.store.views, Aim.LOOK).items
        return tuple(self._verified(item, holdings) for item in items)

    def explain(self, pid: int) -> tuple[Scan, tuple[Item, ...], tuple[Explanation, ...]]:
        """What a late load of each module would do in one process, and how."""
        seen, items = self.status([pid])
        late = self._late or self._foresight()
        explained = [
            explain(
                late,
                item,
                prospects(item, seen.modules, self.store.holdings(), self.store.views),
            )
            for item in items
        ]
        return seen, items, tuple(entry for entries in explained for entry in entries)

    def plan(self, aim: Aim, pids: Collection[int] = (), touches: Touches = always) -> Plan:
        """What `carry_out` would do; takes no lock and changes nothing."""
        installed = aim is Aim.PROTECT
        seen = without_programs(self._scan(pids, installed=installed), self.disabled)
        holdings = self.store.holdings()
        decided = plan(seen, holdings, self.deliveries, self.store.views, aim, touches)
        return without(decided, self.disabled)

    def wants_something(self, seen: Scan, aim: Aim) -> bool:
        """Whether there is anything to do for the processes that were seen."""
        holdings = self.store.holdings()
        decided = plan(seen, holdings, self.deliveries, self.store.views, aim)
        items = without(decided, self.disabled).items
        return any(item.deliver or item.problem for item in items)

    def files_of_processes(self) -> frozenset[Path]:
        """Files and directories whose change would concern a live process."""
        return frozenset(path for process in self._scan().processes for path in files_of(process))

    def preview(self, pending: PendingFiles) -> tuple[tuple[Preview, ...], tuple[Unreadable, ...]]:
        """What a pending change would mean for each process; changes nothing."""
        seen, holdings = self._scan(), self.store.holdings()
        where = (self.deliveries, self.store.views)
        planned = plan(seen, holdings, *where, Aim.PROTECT, pending.concerns)
        late = self._late or self._foresight()
        previews = (
            preview(item, late, pending, self.program_of(item.process), holdings)
            for item in planned.items
        )
        return tuple(previews), planned.unreadable

    def _scan(
        self, pids: Collection[int] = (), *, installed: bool = False, late: bool = True
    ) -> Scan:
        self.progress("looking at processes")
        self._late = self._late or self._foresight()
        self._stderr = self._stderr or Stderr(self.proc, journal=self.ask_journal)
        return scan(
            *self._where,
            pids=pids,
            installed=installed,
            late=self._late if late else None,
            stderr=self._stderr if late else None,
            rescued=self.rescued,
        )

    def _holdings(self) -> tuple[Holding, ...]:
        return self.store.holdings() if self._known is None else self._known

    def _foresight(self) -> LateLoads:
        return LateLoads(self.proc, deep=self.deep, patience=self.patience)

    @property
    def _where(self) -> tuple[ProcFs, tuple[Program, ...], tuple[Delivery, ...], Path]:
        return self.proc, self.programs, self.deliveries, self.store.views

    def _verified(self, item: Item, holdings: tuple[Holding, ...]) -> Item:
        """A delivery counts only if the process finds there what is held."""
        if item.state not in (State.PROTECTED, State.DEFUSED) or item.delivery is None:
            return item
        holding = _holding(holdings, item.snapshot)
        where = seen_at(item.process, item.delivery, holding.view)
        problem = verify(self.proc, item.process, holding, where)
        return replace(item, state=State.AT_RISK, reason=problem) if problem else item

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer of the store."""
        with self.store.writing(self.lock_timeout):
            try:
                yield
            finally:
                self._known = None

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
            decided = self.plan(aim, pids, touches)
            before = self.store.ids()
            self._taken.clear()
            self._read.clear()
            self._known = self.store.holdings()
            outcomes = tuple(self._serve(item) for item in decided.items)
            problems: list[str] = []
            if transaction is not None:
                problems += decided.problems
                problems += [self._hold_for(transaction, wanted) for wanted in decided.captures]
            taken = tuple(sorted({*self._taken.values()} - before))
            return Result(outcomes, tuple(filter(None, problems)), decided.unreadable, taken)

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
        self._check(holding, process, delivery)
        lease = self.lease(process.id, holding.snapshot.id, process.name, str(delivery))
        self.store.add_lease(lease)  # before the delivery: a kill in between leaks nothing
        try:
            program, leads = self.program_of(process), self.store.leads
            point(self.proc, process, program, delivery, holding.view, leads)
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

    def _preload(self, process: Process) -> Outcome:
        if self.proven is not None:
            raise RefusedError("what would be preloaded is not rehearsed")
        self._late = LateLoads(self.proc, deep=True, patience=self.patience)  # nothing is tried
        return preload_modules(self.proc, process, self.program_of(process), self._look_again)

    def _look_again(self, process: Process) -> Item:
        """What the process is pointed at now, and whether that would load."""
        known = {process.executable_file: process.build}  # it is held open by the process
        pid, late, stderr = process.id.pid, self._late, self._stderr
        seen = scan(*self._where, pids=[pid], known=known, late=late, stderr=stderr)
        if seen.unreadable:
            raise UnreadableError(seen.unreadable[0].reason)
        if [found.id for found in seen.processes] != [process.id]:
            raise VanishedError(f"process {process.id.pid} ended")
        return self._looked_at(seen)[0]

    def holding(self, source: str | Capture) -> Holding:
        """The holding to deliver, captured now if it has to be; the caller is the writer."""
        if isinstance(source, Capture):
            source = self._capture(source)
        return _holding(self._holdings(), source)

    def _capture(self, wanted: Capture) -> str:
        """Take a snapshot; many processes of one build want the same."""
        build = wanted.build
        identity = (build.program, build.build_id, build.stamp, wanted.library_path)
        key = (*identity, wanted.purpose, wanted.modules)
        if key not in self._taken:
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
        if delivery in (Delivery.RUN, Delivery.ENVIRONMENT):
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
        if lease not in self.store.leases():
            self.store.add_lease(lease)
            self.drop_leases(process.id, but=lease)

    # -- letting go ----------------------------------------------------------------------------

    def collect(self, *, dry_run: bool = False, transaction: ProcessId | None = None) -> Collected:
        """Remove what nobody needs; the leases of `transaction` end here."""
        with nullcontext() if dry_run else self.writing():
            if transaction is not None:
                self.drop_leases(transaction)
            pinned = self.store.pins.valid(self.pin_lifetime)
            leases = self.store.leases()
            live = {held.snapshot for held in leases if self.proc.is_alive_in(held) is not False}
            everything_is_needed = self.store.ids() <= live | pinned
            seen = Scan((), ()) if everything_is_needed else self._scan(late=False)
            return collect(self.store, seen, self.proc.is_alive_in, pinned, dry_run=dry_run)

    def lease(self, process: ProcessId, snapshot: str, name: str, delivery: str = "") -> Lease:
        """For a process as it is counted here."""
        return Lease(process, snapshot, name, delivery, *self.proc.world)

    def drop_leases(self, process: ProcessId, but: Lease | None = None) -> None:
        """The process needs nothing any more (`but` one); the caller is the writer."""
        for lease in self.store.leases():
            if lease.process == process and lease != but:
                self.store.drop_lease(lease)

    def unknown(self, pid: int) -> ProcessError:
        """Why there is nothing to say about a process."""
        unreadable = self._scan([pid], late=False).unreadable
        if unreadable:
            return UnreadableError(unreadable[0].reason)
        return ProcessError(f"process {pid} is no program that holdover knows")

    def program_of(self, process: Process) -> Program:
        """The definition that it matched."""
        return next(p for p in self.programs if p.name == process.build.program)


def _holding(holdings: tuple[Holding, ...], snapshot: str) -> Holding:
    found = next((h for h in holdings if h.snapshot.id == snapshot), None)
    if found is None:
        raise DamagedError(f"snapshot {snapshot} is not in the store")
    return found
