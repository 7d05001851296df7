# SPDX-License-Identifier: Apache-2.0
"""The flow of a release: take a delivery back, unless that would put the process at risk."""

from dataclasses import replace

from holdover.delivering import take_back
from holdover.errors import RefusedError, VanishedError
from holdover.flow import Holdover
from holdover.judging import Judge
from holdover.model import Item, Outcome, State

__all__ = ["release"]


def release(holdover: Holdover, pid: int, *, force: bool = False) -> Outcome:
    """Take a delivery back.

    Raises `RefusedError` if the process would then find files of another build, unless forced.
    """
    with holdover.writing():
        items = holdover.status([pid])[1]
        if not items:
            raise holdover.unknown(pid)
        item = items[0]
        if item.delivery is None:
            return Outcome(item.process, item.state, "nothing was delivered to it")
        if not force and item.state is not State.POISONED:  # nothing makes that any worse
            _check(holdover, item)
        program, view = holdover.program_of(item.process), holdover.holding(item.snapshot).view
        take_back(holdover.proc, item.process, program, item.delivery, view)
        holdover.drop_leases(item.process.id)
        holdover.store.released.add(item.process.id)
        after = holdover.status([pid])[1]
        if not after:
            raise VanishedError(f"process {pid} ended")
        return Outcome(after[0].process, after[0].state, after[0].reason, changed=True)


def _check(holdover: Holdover, item: Item) -> None:
    """Without the view it would find what lies on disk: that has to be its own."""
    process, views = item.process, holdover.store.views
    chosen = tuple(d for d in process.chosen if d.parent != views)
    bare = replace(process, chosen=chosen, covered_by=None, late=process.own)
    modules = holdover.status([process.id.pid])[0].modules
    without = Judge(modules, (), views).state(bare)
    if without.state is not State.CURRENT:
        raise RefusedError(
            f"process {bare.id.pid} still needs it: {without.reason}",
            hint="a late load may kill it afterwards; to do it all the same: --force",
        )
