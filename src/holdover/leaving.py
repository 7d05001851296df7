# SPDX-License-Identifier: Apache-2.0
"""Leave a machine: take back every delivery that may be, and say what stays, for whom, and why.

    release whoever can do without -> drop leases that serve nobody -> collect -> what is left

What a live process is pointed at stays with its manifest and lease: a holdover that comes back
finds it protected as before.
"""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from holdover.errors import HoldoverError, VanishedError
from holdover.flow import Holdover
from holdover.held import Holding
from holdover.identity import ProcessId
from holdover.model import Item, Process, Scan
from holdover.releasing import release

__all__ = ["leave", "Departure", "Kept", "Left"]

UNDER_WAY = "a change of packages that may concern it is under way"


@dataclass(frozen=True, slots=True)
class Kept:
    """A process that is pointed at something still, and why it was not released."""

    process: Process
    snapshot: str
    reason: str


@dataclass(frozen=True, slots=True)
class Left:
    """A snapshot that stays."""

    holding: Holding
    users: tuple[tuple[str, int], ...]
    """Processes that need it, name and number."""
    pinned: bool

    @property
    def id(self) -> str:
        """Of one whose manifest cannot be read too."""
        return self.holding.view.name


@dataclass(frozen=True, slots=True)
class Departure:
    released: tuple[Process, ...]
    kept: tuple[Kept, ...]
    left: tuple[Left, ...]
    bytes_left: int
    """On disk; they go with what is left."""
    problem: str = ""
    """Why what nobody needs could not be told from the rest."""


def leave(
    holdover: Holdover, *, transactions: Collection[ProcessId] = (), under_way: bool = False
) -> Departure:
    """Let go of everything that no live process needs and nobody pinned.

    With `under_way` nobody is released: what lies on disk now may be gone in a moment. The leases
    of `transactions` end here, as nobody will catch those who start during it.
    """
    seen, items = holdover.status()
    released: list[Process] = []
    kept: list[Kept] = []
    for item in _firsts(items):
        with suppress(VanishedError):  # it needs nothing any more
            if reason := UNDER_WAY if under_way else _release(holdover, item.process):
                kept.append(Kept(item.process, item.snapshot, reason))
            else:
                released.append(item.process)
    _drop_idle_leases(holdover, seen, kept)
    with holdover.writing():
        for transaction in transactions:
            holdover.drop_leases(transaction)
    problem = holdover.collect().kept_because
    left = _what_is_left(holdover, kept)
    size = holdover.store.bytes_freed_without([entry.holding for entry in left])
    return Departure(tuple(released), tuple(kept), left, size, problem)


def _firsts(items: tuple[Item, ...]) -> list[Item]:
    """Whoever sees what is held; for what a process has forked that process, which is released
    with it."""
    there = {item.process.id.pid: item for item in items}
    seeing = (item.process for item in items if item.delivery is not None)
    pids = dict.fromkeys(p.part_of if p.part_of in there else p.id.pid for p in seeing)
    return [there[pid] for pid in pids if pid is not None]


def _release(holdover: Holdover, process: Process) -> str:
    """Why the process has to stay as it is, or "" if it was released."""
    try:
        release(holdover, process.id.pid)
        holdover.store.released.forget(process.id)  # one that comes back may protect it again
    except VanishedError:
        raise
    except HoldoverError as error:
        return error.message  # its hint is to use force
    except OSError as error:
        return str(error)
    return ""


def _drop_idle_leases(holdover: Holdover, seen: Scan, kept: list[Kept]) -> None:
    """Of processes that were looked at and are pointed at nothing."""
    needed = {entry.process.id.pid for entry in kept}
    idle = [p.id for p in seen.processes if not needed & {p.id.pid, p.part_of}]
    with holdover.writing():
        for process in idle:
            holdover.drop_leases(process)


def _what_is_left(holdover: Holdover, kept: list[Kept]) -> tuple[Left, ...]:
    """The snapshots that stay; if there is none, the store itself goes."""
    with holdover.writing():
        holdings, pinned = holdover.store.holdings(), holdover.store.pins.valid()
        if not holdings:
            holdover.store.remove_empty()
    return tuple(
        Left(holding, _users(holdover, holding.view.name, kept), holding.view.name in pinned)
        for holding in holdings
    )


def _users(holdover: Holdover, snapshot: str, kept: list[Kept]) -> tuple[tuple[str, int], ...]:
    """By what was seen and by leases: either alone may be incomplete."""
    users = {(k.process.name, k.process.id.pid) for k in kept if k.snapshot == snapshot}
    users |= {
        (lease.name, lease.process.pid)
        for lease in holdover.store.leases()
        if lease.snapshot == snapshot and holdover.proc.is_alive_in(lease) is not False
    }
    return tuple(sorted(users, key=lambda user: user[1]))
