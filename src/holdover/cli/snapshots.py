# SPDX-License-Identifier: Apache-2.0
"""`holdover list`, `show`, `pin`, `unpin` and `gc`: what is held."""

from argparse import Namespace
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from holdover.cli.events import of_collected
from holdover.cli.output import human_bytes, print_json, print_table
from holdover.cli.reports import tell
from holdover.cli.setup import make_holdover, read_config
from holdover.errors import UsageError
from holdover.flow import Holdover
from holdover.held import Holding, Lease, Snapshot
from holdover.replaced import Now, Replaced, replaced
from holdover.steps.collect import Collected

__all__ = ["run_list", "run_show", "run_pin", "run_unpin", "run_gc"]


def run_list(options: Namespace) -> int:
    holdover = make_holdover(read_config(options))
    holdings, leases = holdover.store.holdings(), _live_leases(holdover)
    pinned = holdover.store.pins.valid(holdover.pin_lifetime)
    held = holdover.store.bytes_held(holdings)
    listed = [_listed(h, held[h.snapshot.id], leases, pinned) for h in holdings]
    if options.json:
        print_json({"schema": "holdover.list/1", "snapshots": [_listed_json(e) for e in listed]})
    elif not listed:
        print("Nothing is held.")
    else:
        columns = ("ID", "VERSION", "AGE", "FILES", "REPLACED", "ONLY HERE", "WRITTEN", "USED BY")
        print_table(columns, [_row(entry) for entry in listed])
        for entry in listed if options.verbose else ():
            _print_replaced(entry)
    return 0


@dataclass(frozen=True, slots=True)
class _Listed:
    """What is shown of one snapshot; `held` are bytes, those that lie here for it alone."""

    snapshot: Snapshot
    replaced: tuple[Replaced, ...]
    held: int
    leases: tuple[Lease, ...]
    pinned: bool

    @property
    def users(self) -> str:
        found = (lease.name or str(lease.process.pid) for lease in self.leases)
        names = list(dict.fromkeys(found))
        return ", ".join(names + ["a pin"] * self.pinned) or "nobody"


def _listed(
    holding: Holding, held: int, leases: tuple[Lease, ...], pinned: frozenset[str]
) -> _Listed:
    snapshot = holding.snapshot
    own = tuple(lease for lease in leases if lease.snapshot == snapshot.id)
    return _Listed(snapshot, replaced(holding), held, own, snapshot.id in pinned)


def _print_replaced(entry: _Listed) -> None:
    """What a security officer asks: what is still here, of when, and for whom."""
    columns = ("REPLACED SINCE", "HELD FILE IS OF", "THERE IS NOW")
    rows = [(file.held.origin, _day(file), _NOW[file.now]) for file in entry.replaced]
    if rows:
        print()
        print_table(columns, rows, title=f"{entry.snapshot.id}, held for {entry.users}")


_NOW = {Now.ANOTHER: "another file", Now.GONE: "nothing"}


def _day(entry: Replaced) -> str:
    """When the package was built, as a rule."""
    return datetime.fromtimestamp(entry.held.mtime_ns / 1e9, UTC).date().isoformat()


def _live_leases(holdover: Holdover) -> tuple[Lease, ...]:
    return tuple(
        lease for lease in holdover.store.leases() if holdover.proc.is_alive_in(lease) is not False
    )


def _listed_json(entry: _Listed) -> dict[str, object]:
    snapshot = entry.snapshot
    return {
        "id": snapshot.id,
        "program": snapshot.program,
        "build_id": snapshot.build_id,
        "version": snapshot.version,
        "created": snapshot.created,
        "files": len(snapshot.files),
        "replaced": [_replaced_json(file) for file in entry.replaced],
        "bytes_held": entry.held,
        "bytes_written": snapshot.bytes_written,
        "pinned": entry.pinned,
        "leases": [_lease_json(lease) for lease in entry.leases],
    }


def _replaced_json(entry: Replaced) -> dict[str, object]:
    return {"path": entry.held.path, "origin": entry.held.origin, "now": entry.now}


def _lease_json(lease: Lease) -> dict[str, object]:
    return {
        "pid": lease.process.pid,
        "start_time": lease.process.start_time,
        "name": lease.name,
    }


def _row(entry: _Listed) -> tuple[str, ...]:
    snapshot = entry.snapshot
    return (
        snapshot.id,
        snapshot.version or "-",
        _age(snapshot.created),
        str(len(snapshot.files)),
        str(len(entry.replaced)),
        human_bytes(entry.held),
        human_bytes(snapshot.bytes_written),
        entry.users,
    )


def _age(created: str) -> str:
    """`created` as manifests have it; "" if that cannot be told."""
    if not created:
        return "-"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def run_show(options: Namespace) -> int:
    holdover = make_holdover(read_config(options))
    holding = _find(holdover, options.id)
    damage = holding.damage or holdover.store.damage(holding)
    if options.json:
        print_json(_show_json(holding, damage))
    else:
        _print_snapshot(holding, damage)
    return 1 if damage else 0


def _show_json(holding: Holding, damage: str) -> dict[str, object]:
    snapshot = holding.snapshot
    unheld = [{"name": name, "reason": reason} for name, reason in snapshot.unheld]
    shown = {"schema": "holdover.show/1"} | asdict(snapshot) | {"unheld": unheld}
    return shown | {"view": str(holding.view), "damage": damage}


def _find(holdover: Holdover, beginning: str) -> Holding:
    found = [h for h in holdover.store.holdings() if h.snapshot.id.startswith(beginning)]
    if len(found) != 1:
        raise UsageError(
            f"{beginning!r} is the beginning of {len(found)} snapshots, not of one",
            hint="`holdover list` shows them",
        )
    return found[0]


def run_pin(options: Namespace) -> int:
    config = read_config(options)
    holdover = make_holdover(config)
    with holdover.writing():
        snapshot = _find(holdover, options.id).snapshot.id
        holdover.store.pins.add(snapshot)
    days = config.pins_lifetime / 86400
    how_long = f"for {days:g} days" if days else "until it is unpinned"
    return _show_pin(options, snapshot, True, f"is kept {how_long}, whether it is needed or not")


def run_unpin(options: Namespace) -> int:
    holdover = make_holdover(read_config(options))
    with holdover.writing():
        snapshot = _find(holdover, options.id).snapshot.id
        was_pinned = holdover.store.pins.remove(snapshot)
    return _show_pin(
        options, snapshot, False, "is no longer pinned" if was_pinned else "was not pinned"
    )


def _show_pin(options: Namespace, snapshot: str, pinned: bool, what: str) -> int:
    if options.json:
        print_json({"schema": "holdover.pin/1", "snapshot": snapshot, "pinned": pinned})
    else:
        print(f"{snapshot} {what}.")
    return 0


def _print_snapshot(holding: Holding, damage: str) -> None:
    snapshot = holding.snapshot
    print_table(
        ("SNAPSHOT", snapshot.id),
        [
            ("program", snapshot.program),
            ("version", snapshot.version or "-"),
            ("build-id", snapshot.build_id),
            ("stamp", snapshot.stamp),
            ("purpose", str(snapshot.purpose)),
            ("created", snapshot.created),
            ("view", str(holding.view)),
            ("refused names", str(len(snapshot.decoys))),
            ("verified", damage or "every file is what was captured"),
        ],
    )
    if snapshot.files:
        print()
        rows = [(f.path, human_bytes(f.size), f.how, f.origin) for f in snapshot.files]
        print_table(("FILE", "SIZE", "HOW", "FROM"), rows)
    if snapshot.unheld:
        print()
        print_table(("NOT HELD", "BECAUSE"), snapshot.unheld)


def run_gc(options: Namespace) -> int:
    config = read_config(options)
    collected = make_holdover(config).collect(dry_run=options.dry_run)
    if not options.dry_run:
        tell(of_collected(collected), config)
    if options.json:
        print_json(_gc_json(collected, dry_run=options.dry_run))
        return 0
    if collected.kept_because:
        print(f"Nothing was removed: {collected.kept_because}.")
    would = "would be " if options.dry_run else ""
    for snapshot in collected.snapshots:
        print(f"{snapshot} {would}removed")
    freed = human_bytes(collected.bytes_freed)
    count = len(collected.snapshots)
    print(f"{count} snapshot{'s'[: count != 1]} {would}removed, {freed} {would}freed.")
    return 0


def _gc_json(collected: Collected, *, dry_run: bool) -> dict[str, object]:
    leases = [_lease_json(lease) | {"snapshot": lease.snapshot} for lease in collected.leases]
    head = {"schema": "holdover.gc/1", "dry_run": dry_run}
    return head | asdict(collected) | {"leases": leases}
