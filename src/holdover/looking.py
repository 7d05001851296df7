# SPDX-License-Identifier: Apache-2.0
"""What is there, what is true of it, and what could be done: all that changes nothing.

scan -> plan
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdover.delivering import problem_of
from holdover.errors import (
    DamagedError,
    ProcessError,
    UnreadableError,
)
from holdover.held import Holding
from holdover.lateloads import PATIENCE, LateLoads
from holdover.model import Delivery, Item, Plan, Process, Rescued, Scan, State, Unreadable
from holdover.procfs import ProcFs
from holdover.programs import Program, load_programs
from holdover.search import prospects
from holdover.silence import Silence
from holdover.stderr import Stderr
from holdover.steps.deliver.mount import Mounter
from holdover.steps.plan import Aim, Touches, always, files_of, plan, without, without_programs
from holdover.steps.scan import scan
from holdover.store import Store

if TYPE_CHECKING:
    from holdover.answers import Explanation, Preview
    from holdover.pending import PendingFiles

__all__ = ["Looking", "Progress", "holding_of"]

Progress = Callable[[str], None]
"""Told what is being done, one short line at a time."""


def _silent(_: str) -> None:
    return


@dataclass
class Looking:
    """holdover on one machine: where to look, where to hold, what it may do."""

    proc: ProcFs = field(default_factory=ProcFs)
    store: Store = field(default_factory=Store)
    programs: tuple[Program, ...] = field(default_factory=load_programs)
    deliveries: tuple[Delivery, ...] = (
        *(Delivery.RUN, Delivery.ENVIRONMENT, Delivery.VARIABLE),
        *(Delivery.MOUNT, Delivery.FALLBACK),
    )
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
    mounter: Mounter = field(init=False)
    """While we are the writer."""
    _late: LateLoads | None = field(default=None, init=False)
    _stderr: Stderr | None = field(default=None, init=False)
    _known: tuple[Holding, ...] | None = field(default=None, init=False)
    """What the store holds, while we are its writer and know all that is added."""

    def status(
        self, pids: Collection[int] = (), *, workers: bool = True
    ) -> tuple[Scan, tuple[Item, ...]]:
        """What was seen, and the state of each process; takes no lock and changes nothing.

        With `workers`, also of those that these processes have forked and that go on to run the
        same.
        """
        seen = self._scan(pids, ways=False, workers=workers)
        return seen, self._looked_at(seen)

    def _looked_at(self, seen: Scan) -> tuple[Item, ...]:
        holdings = self._holdings()
        items = plan(seen, holdings, self.deliveries, self.store.views, Aim.LOOK).items
        return tuple(self._verified(item, holdings) for item in items)

    def explain(self, pid: int) -> tuple[Scan, tuple[Item, ...], tuple["Explanation", ...]]:
        """What a late load of each module would do in one process, and how."""
        from holdover.steps.explain import explain

        seen, items = self.status([pid], workers=False)
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
        return self._decide(self._scan(pids, installed=aim is Aim.PROTECT), aim, touches)

    def _decide(self, seen: Scan, aim: Aim, touches: Touches) -> Plan:
        seen = without_programs(seen, self.disabled)
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

    def preview(
        self, pending: "PendingFiles"
    ) -> tuple[tuple["Preview", ...], tuple[Unreadable, ...]]:
        """What a pending change would mean for each process; changes nothing."""
        from holdover.steps.preview import preview

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
        self,
        pids: Collection[int] = (),
        *,
        workers: bool = True,
        installed: bool = False,
        late: bool = True,
        ways: bool = True,
    ) -> Scan:
        """Without `ways`, whether something could be delivered is not looked at."""
        self.progress("looking at processes")
        self._late = self._late or self._foresight()
        self._stderr = self._stderr or Stderr(self.proc, journal=self.ask_journal)
        seen = scan(
            *self._where,
            self.deliveries if ways else (),
            pids=pids,
            workers=workers,
            installed=installed,
            late=self._late if late else None,
            stderr=self._stderr if late else None,
            silence=Silence(self.proc, self.store.run / "silent"),
            rescued=self.rescued,
        )
        return self._with_promises(seen)

    def _with_promises(self, seen: Scan) -> Scan:
        """With what is held for those who are to be served by their fallback directory."""
        if not any(process.build.fallback for process in seen.processes):
            return seen
        leases = (lease for lease in self.store.leases() if lease.delivery == Delivery.FALLBACK)
        promised = {lease.process: lease.snapshot for lease in leases}
        processes = (replace(p, promised=promised.get(p.id, "")) for p in seen.processes)
        return replace(seen, processes=tuple(processes))

    def _holdings(self) -> tuple[Holding, ...]:
        return self.store.holdings() if self._known is None else self._known

    def _foresight(self) -> LateLoads:
        return LateLoads(self.proc, deep=self.deep, patience=self.patience)

    @property
    def _where(self) -> tuple[ProcFs, tuple[Program, ...], Path]:
        return self.proc, self.programs, self.store.views

    def _verified(self, item: Item, holdings: tuple[Holding, ...]) -> Item:
        """A delivery counts only if the process finds there what is held."""
        if item.state not in (State.PROTECTED, State.DEFUSED) or item.delivery is None:
            return item
        holding = holding_of(holdings, item.snapshot)
        problem = problem_of(self.proc, item.process, item.delivery, holding)
        return replace(item, state=State.AT_RISK, reason=problem) if problem else item

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one writer of the store."""
        with self.store.writing(self.lock_timeout):
            self.mounter = Mounter(self.proc)
            try:
                yield
            finally:
                self._known = None
                self.mounter.close()

    def unknown(self, pid: int, seen: Scan | None = None) -> ProcessError:
        """Why there is nothing to say about a process; `seen` is what a look at it came to."""
        unreadable = (seen or self._scan([pid], late=False)).unreadable
        if unreadable:
            return UnreadableError(unreadable[0].reason)
        return ProcessError(f"process {pid} is no program that holdover knows")

    def program_of(self, process: Process) -> Program:
        """The definition that it matched."""
        return next(p for p in self.programs if p.name == process.build.program)


def holding_of(holdings: tuple[Holding, ...], snapshot: str) -> Holding:
    found = next((h for h in holdings if h.snapshot.id == snapshot), None)
    if found is None:
        raise DamagedError(f"snapshot {snapshot} is not in the store")
    return found
