# SPDX-License-Identifier: Apache-2.0
"""The flow of a rehearsal: what is held for a process is late-loaded in a stand-in.

    lease of our own -> rehearse, with the lock free -> record -> drop the lease

What was captured for the rehearsal alone is let go again at the end.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

from holdover.errors import HoldoverError, RefusedError
from holdover.flow import Holdover
from holdover.held import Holding
from holdover.model import Item, Process, Result, State
from holdover.rehearsal import Rehearsal
from holdover.steps.plan import Aim
from holdover.steps.rehearse import rehearse

__all__ = ["prove", "carry_out_proven"]

Chosen = list[tuple[Process, Holding]]


def prove(holdover: Holdover, pid: int) -> Rehearsal:
    """Late-load what a process is pointed at in a stand-in, and remember what fails.

    One that is pointed at nothing is rehearsed with what `protect` would give it. Raises
    `ProcessError` if it is no known program, `RefusedError` if there is nothing to rehearse, and
    what `steps.rehearse` raises.
    """
    with _borrowed(holdover, Aim.PROTECT, [pid], _held_for) as chosen:
        if not chosen:
            raise holdover.unknown(pid)
        return _rehearse(holdover, *chosen[0])


def carry_out_proven(holdover: Holdover, aim: Aim, pids: Collection[int] = ()) -> Result:
    """As `carry_out`, but deliver only snapshots of which no module fails in a stand-in."""
    with _borrowed(holdover, aim, pids, _deliverable) as chosen:
        holdover.proven = {}
        for process, holding in chosen:
            if holding.snapshot.id not in holdover.proven:
                holdover.proven[holding.snapshot.id] = _failure(holdover, process, holding)
        try:
            return holdover.carry_out(aim, pids)
        finally:
            holdover.proven = None


def _failure(holdover: Holdover, process: Process, holding: Holding) -> str:
    """Why a snapshot is not proven to serve the process, or ""."""
    try:
        return _rehearse(holdover, process, holding).failure
    except (HoldoverError, OSError) as error:
        return str(error)


def _rehearse(holdover: Holdover, process: Process, holding: Holding) -> Rehearsal:
    holdover.check_damage(holding)
    holdover.progress(f"rehearsing {process.name or process.id.pid}")
    done = rehearse(holdover.proc, process, holdover.program_of(process), holding)
    with holdover.writing():
        holdover.store.record_rehearsal(holding.snapshot.id, done.failure)
    return done


@contextmanager
def _borrowed(
    holdover: Holdover,
    aim: Aim,
    pids: Collection[int],
    choose: Callable[[Holdover, Item], Holding | None],
) -> Iterator[Chosen]:
    """What `choose` says of each process, kept meanwhile by a lease of our own.

    The lock is free inside: hooks wait for it. What was taken for us alone goes afterwards.
    """
    own = holdover.proc.identity(holdover.proc.own_pid)
    there = {holding.snapshot.id for holding in holdover.store.holdings()}
    chosen: Chosen = []
    try:
        with holdover.writing():
            for item in holdover.plan(aim, pids).items:
                if holding := choose(holdover, item):
                    chosen.append((item.process, holding))
                    lease = holdover.lease(own, holding.snapshot.id, "rehearsal")
                    holdover.store.add_lease(lease)
        yield chosen
    finally:
        with holdover.writing():
            holdover.drop_leases(own)
            needed = {lease.snapshot for lease in holdover.store.leases()}
            for snapshot in {held.snapshot.id for _, held in chosen} - there - needed:
                holdover.store.remove(snapshot)


def _held_for(holdover: Holdover, item: Item) -> Holding:
    """What a process is pointed at, or would be."""
    if item.delivery is not None and item.state is not State.DEFUSED:
        return holdover.holding(item.snapshot)
    if not item.source:
        pid, reason = item.process.id.pid, item.problem or item.reason
        raise RefusedError(f"process {pid}: there is nothing to rehearse: {reason}")
    return holdover.holding(item.source)


def _deliverable(holdover: Holdover, item: Item) -> Holding | None:
    """What is going to be delivered; whatever is in the way is met and told when it is."""
    with suppress(HoldoverError, OSError):
        return holdover.holding(item.source) if item.deliver else None
    return None
