# SPDX-License-Identifier: Apache-2.0
"""Let go: drop the leases of the dead, and every snapshot that nobody needs. Errs to keep."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from holdover.held import Holding, Lease
from holdover.model import Scan
from holdover.store import Store

__all__ = ["Collected", "collect"]


@dataclass(frozen=True, slots=True)
class Collected:
    """What can go, and what stays for want of knowledge."""

    leases: tuple[Lease, ...]
    snapshots: tuple[str, ...]
    bytes_freed: int
    kept_because: str = ""


def collect(
    store: Store,
    scan: Scan,
    is_alive: Callable[[Lease], bool | None],
    pinned: Collection[str] = (),
    *,
    dry_run: bool = False,
) -> Collected:
    """Remove what no live process needs and nobody pinned; the caller holds the store's lock.

    A process needs a snapshot if a lease says so or if it is seen to be pointed at it. If it cannot
    be told what some process is pointed at, or whether it lives (`is_alive` is None), nothing goes.
    """
    leases = store.leases()
    alive = {lease: is_alive(lease) for lease in leases}
    dead = tuple(lease for lease in leases if alive[lease] is False)
    leased = {lease.snapshot for lease in leases if lease not in dead}
    unused = [
        holding
        for holding in store.holdings()
        if holding.snapshot.id not in leased.union(pinned) and holding.snapshot.program
        if not _seen(holding, scan)
    ]
    elsewhere = sum(lives is None for lives in alive.values())
    doubt = _elsewhere(elsewhere) if elsewhere else _doubt(scan) if unused else ""
    if doubt:
        return Collected((), (), 0, doubt)
    freed = store.bytes_freed_without(unused)
    if not dry_run:
        for holding in unused:
            store.remove(holding.snapshot.id)
        for lease in dead:
            store.drop_lease(lease)
    return Collected(dead, tuple(h.snapshot.id for h in unused), freed)


def _elsewhere(leases: int) -> str:
    return (
        f"{leases} leases are of another pid or time namespace, where their processes may live; "
        "if that was an earlier run of this container: rm /run/holdover/lease/*"
    )


def _doubt(scan: Scan) -> str:
    if scan.unreadable:
        return f"{len(scan.unreadable)} processes could not be read"
    blind = [process.id.pid for process in scan.processes if not process.chosen_known]
    return f"the environment of process {blind[0]} could not be read" if blind else ""


def _seen(holding: Holding, scan: Scan) -> bool:
    return any(
        holding.view in process.chosen
        or holding.view == process.fallback
        or holding.snapshot.id in process.mounted
        or (holding.view_file is not None and holding.view_file == process.covered_by)
        for process in scan.processes
    )
