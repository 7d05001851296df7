# SPDX-License-Identifier: Apache-2.0
"""The flow of a release: take a delivery back, unless that would put the process at risk."""

from contextlib import suppress
from dataclasses import replace

from holdover.delivering import take_back
from holdover.errors import RefusedError, VanishedError
from holdover.flow import Holdover
from holdover.held import Holding
from holdover.judging import Judge
from holdover.looking import holding_of
from holdover.model import Delivery, Item, Outcome, Scan, State

__all__ = ["release"]


def release(holdover: Holdover, pid: int, *, force: bool = False) -> Outcome:
    """Take a delivery back.

    Raises `RefusedError` if the process would then find files of another build, unless forced, or
    if others that share its directory would. Those that share it are released with it.
    """
    with holdover.writing():
        seen, items = holdover.status([pid])
        if not items:
            raise holdover.unknown(pid, seen)
        item = next((item for item in items if item.delivery), items[0])
        if item.delivery is None:
            return Outcome(item.process, item.state, "nothing was delivered to it")
        others = _sharing(holdover, item, items)
        safe = force or item.state is State.POISONED  # nothing makes that any worse
        unasked = [] if item.delivery is Delivery.VARIABLE else others
        for concerned in unasked if safe else [item, *others]:
            _check(holdover, concerned, seen)
        stays, holdings = _staying_for(holdover, item), holdover.store.holdings()
        if not stays:
            _take_back(holdover, item, holdings)
        if item.delivery is Delivery.VARIABLE:
            others = [*others, *_newcomers(holdover, item, others)]
            for other in others:
                with suppress(VanishedError):  # it ended, and needs nothing
                    _take_back(holdover, other, holdings)
        for concerned in (item, *others):
            holdover.drop_leases(concerned.process.id)
            if concerned.process.part_of != item.process.id.pid:  # that one stands for them
                holdover.store.released.add(concerned.process.id)
        after = holdover.status([pid], workers=False)[1]
        if not after:
            raise VanishedError(f"process {pid} ended")
        told = "" if item.delivery is Delivery.VARIABLE else _told(others)
        reason = after[0].reason + stays + told
        return Outcome(after[0].process, after[0].state, reason, changed=True)


def _staying_for(holdover: Holdover, item: Item) -> str:
    """Who else is served by the same fallback directory, and needs it still; or ""."""
    if item.delivery is not Delivery.FALLBACK or item.process.fallback is None:
        return ""
    directory, own = item.process.build.fallback, item.process.id
    sharing = (
        str(other.process.id.pid)
        for other in holdover.status()[1]
        if other.process.build.fallback == directory and other.process.promised
        if other.process.id != own
    )
    pids = ", ".join(sharing)
    return pids and f"; {directory} stays for others of its build ({pids})"


def _take_back(holdover: Holdover, item: Item, holdings: tuple[Holding, ...]) -> None:
    if item.delivery is not None:
        program = holdover.program_of(item.process)
        holding = holding_of(holdings, item.snapshot)
        how = (holdover.proc, holdover.store, holdover.mounter)
        take_back(*how, item.process, program, item.delivery, holding)


def _newcomers(holdover: Holdover, item: Item, known: list[Item]) -> list[Item]:
    """Forked by it since the look, and before its own was taken back."""
    pids = {other.process.id.pid for other in known}
    new = [pid for pid in holdover.proc.children({item.process.id.pid}) if pid not in pids]
    return list(holdover.status(new, workers=False)[1]) if new else []


def _sharing(holdover: Holdover, item: Item, family: tuple[Item, ...]) -> list[Item]:
    """Others that see the same by `holdover run`, or that have it from their parent."""
    if item.delivery is Delivery.VARIABLE:
        return [i for i in family if i.delivery is Delivery.VARIABLE and i is not item]
    if item.delivery is not Delivery.RUN:
        return []
    place, process = item.process.place, item.process.id
    return [i for i in holdover.status()[1] if i.process.place == place and i.process.id != process]


def _told(others: list[Item]) -> str:
    if not others:
        return ""
    names = ", ".join(f"{i.process.name or 'a guest'} ({i.process.id.pid})" for i in others)
    return f"; released with it, as they look in the same directory: {names}"


def _check(holdover: Holdover, item: Item, seen: Scan) -> None:
    """Without the view it would find what lies on disk: that has to be its own."""
    process, views = item.process, holdover.store.views
    chosen = tuple(d for d in process.chosen if d.parent != views)
    bare = replace(process, chosen=chosen, covered_by=None, fallback=None, late=process.own)
    without = Judge(seen.modules, (), views).state(bare)
    if without.state is not State.CURRENT:
        raise RefusedError(
            f"process {bare.id.pid} still needs it: {without.reason}",
            hint=("late loads fail" if process.build.harmless else "a late load may kill it")
            + " afterwards; to do it all the same: --force",
        )
