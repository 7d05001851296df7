# SPDX-License-Identifier: Apache-2.0
"""One function a command: do it, show it, return the exit code."""

import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from holdover.cli.output import human_bytes, print_json, print_table, progress
from holdover.errors import UnreadableError, UsageError
from holdover.flow import Holdover
from holdover.model import (
    Delivery,
    Holding,
    Item,
    Lease,
    Outcome,
    Plan,
    Result,
    Scan,
    State,
    Unreadable,
)
from holdover.search import Prospect, prospects
from holdover.steps.plan import Aim

BAD_STATES = (State.AT_RISK, State.POISONED)


# -- status ------------------------------------------------------------------------------------


def run_status(options: Namespace) -> int:
    with progress(wanted=not options.json) as report:
        holdover = Holdover(progress=report)
        scan, items = holdover.status(options.pid)
    if options.json:
        print_json(_status_json(holdover, scan, items))
    else:
        _print_status(holdover, scan, items, verbose=options.verbose)
    return _status_code(scan, items)


def _status_code(scan: Scan, items: tuple[Item, ...]) -> int:
    if any(item.state in BAD_STATES for item in items):
        return 1
    return 3 if scan.unreadable else 0


def _status_json(holdover: Holdover, scan: Scan, items: tuple[Item, ...]) -> dict[str, object]:
    holdings = holdover.store.holdings()
    return {
        "schema": "holdover.status/1",
        "host": {"boot_id": holdover.proc.boot_id()},
        "processes": [
            _process_json(item, _prospects(holdover, scan, item, holdings)) for item in items
        ],
        "foreign": scan.foreign,
        "unreadable": [asdict(entry) for entry in scan.unreadable],
    }


def _process_json(item: Item, modules: Iterable[Prospect]) -> dict[str, object]:
    process = item.process
    return {
        "pid": process.id.pid,
        "start_time": process.id.start_time,
        "program": process.build.program,
        "name": process.name,
        "executable": str(process.executable),
        "build_id": process.build.build_id,
        "stamp": process.build.stamp,
        "version": process.build.version,
        "state": str(item.state),
        "delivery": item.delivery and str(item.delivery),
        "snapshot": item.snapshot or None,
        "reason": item.reason,
        "modules": [asdict(module) for module in modules],
    }


def _prospects(
    holdover: Holdover, scan: Scan, item: Item, holdings: tuple[Holding, ...]
) -> tuple[Prospect, ...]:
    return prospects(item, scan.modules, holdings, holdover.store.views)


def _print_status(
    holdover: Holdover, scan: Scan, items: tuple[Item, ...], *, verbose: bool
) -> None:
    if items:
        print_table(
            ("PID", "NAME", "STATE", "DELIVERY", "VERSION", "REASON"),
            [_status_row(item) for item in items],
        )
    else:
        print("No process that loads modules late is running.")
    if verbose:
        holdings = holdover.store.holdings()
        for item in items:
            rows = [(m.name, m.state, m.reason) for m in _prospects(holdover, scan, item, holdings)]
            if rows:
                print()
                print_table((f"MODULES OF {item.process.id.pid}", "STATE", "REASON"), rows)
    if scan.foreign:
        print(f"{scan.foreign} more belong to other systems (containers): served from there.")
    _print_unreadable(scan)


def _print_unreadable(scan: Scan) -> None:
    if scan.unreadable:
        first = scan.unreadable[0]
        print(f"{len(scan.unreadable)} processes could not be read, the first: {first.reason}.")
        print("Run holdover as root, with CAP_SYS_PTRACE and CAP_SYS_ADMIN.")


def _status_row(item: Item) -> tuple[str, ...]:
    process = item.process
    return (
        str(process.id.pid),
        process.name or process.executable.name,
        str(item.state),
        str(item.delivery or "-"),
        process.build.version or "-",
        item.reason,
    )


# -- protect, defuse, release ------------------------------------------------------------------


def run_protect(options: Namespace) -> int:
    return _carry_out(options, Aim.PROTECT, options.delivery)


def run_defuse(options: Namespace) -> int:
    return _carry_out(options, Aim.DEFUSE, None)


def _carry_out(options: Namespace, aim: Aim, delivery: str | None) -> int:
    with progress(wanted=not options.json) as report:
        holdover = Holdover(progress=report)
        if delivery:
            holdover.deliveries = (Delivery(delivery),)
        if options.dry_run:
            planned = holdover.plan(aim, options.pid)
        else:
            result = holdover.carry_out(aim, options.pid)
    if options.dry_run:
        return _show_plan(planned, as_json=options.json)
    _show_outcomes(result.outcomes, as_json=options.json)
    _check_found(options.pid, result)
    lost = _show_unreadable(result.unreadable)
    return 1 if lost or any(o.failed for o in result.outcomes) else 0


def _show_unreadable(unreadable: Iterable[Unreadable]) -> bool:
    """Whether there are some that certainly load late."""
    lost = [entry for entry in unreadable if entry.program]
    for entry in lost:
        print(f"holdover: a {entry.program} process is left alone: {entry.reason}", file=sys.stderr)
    return bool(lost)


def _check_found(pids: Iterable[int], result: Result) -> None:
    unreadable = {entry.pid: entry.reason for entry in result.unreadable}
    found = {outcome.process.id.pid for outcome in result.outcomes}
    missing = [str(pid) for pid in pids if pid not in found | unreadable.keys()]
    for pid in pids:
        if pid in unreadable:
            raise UnreadableError(unreadable[pid], hint="run holdover as root, on the host itself")
    if missing:
        raise UsageError(
            f"no running program that holdover knows: {', '.join(missing)}",
            hint="`holdover status` shows those that it knows",
        )


def _show_plan(planned: Plan, *, as_json: bool) -> int:
    if as_json:
        print_json({"schema": "holdover.plan/1"} | asdict(planned))
    else:
        rows = [(*_status_row(item)[:3], _intention(item), item.reason) for item in planned.items]
        print_table(("PID", "NAME", "STATE", "WOULD BE", "REASON"), rows)
    return 1 if any(item.problem for item in planned.items) else 0


def _intention(item: Item) -> str:
    if item.problem:
        return f"left alone: {item.problem}"
    if item.deliver is None:
        return "left as it is"
    if isinstance(item.source, str):
        return f"pointed at {item.source} by {item.deliver}"
    return f"pointed at a new snapshot of {len(item.source.modules)} modules by {item.deliver}"


def _show_outcomes(outcomes: tuple[Outcome, ...], *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "schema": "holdover.outcomes/1",
                "processes": [_outcome_json(outcome) for outcome in outcomes],
            }
        )
    elif not outcomes:
        print("No process that loads modules late is running.")
    else:
        rows = [_outcome_row(outcome) for outcome in outcomes]
        print_table(("PID", "NAME", "STATE", "DELIVERY", "SNAPSHOT", "REASON"), rows)


def _outcome_json(outcome: Outcome) -> dict[str, object]:
    return {
        "pid": outcome.process.id.pid,
        "start_time": outcome.process.id.start_time,
        "name": outcome.process.name,
        "state": str(outcome.state),
        "delivery": outcome.delivery and str(outcome.delivery),
        "snapshot": outcome.snapshot or None,
        "reason": outcome.reason,
        "changed": outcome.changed,
        "failed": outcome.failed,
    }


def _outcome_row(outcome: Outcome) -> tuple[str, ...]:
    process = outcome.process
    return (
        str(process.id.pid),
        process.name or process.executable.name,
        str(outcome.state),
        str(outcome.delivery or "-"),
        outcome.snapshot or "-",
        outcome.reason,
    )


def run_release(options: Namespace) -> int:
    outcome = Holdover().release(options.pid, force=options.force)
    _show_outcomes((outcome,), as_json=options.json)
    return 0


# -- list, show, gc ----------------------------------------------------------------------------


def run_list(options: Namespace) -> int:
    holdover = Holdover()
    holdings, leases = holdover.store.holdings(), _live_leases(holdover)
    held = holdover.store.bytes_held(holdings)
    if options.json:
        entries = [_snapshot_json(h, held[h.snapshot.id], leases) for h in holdings]
        print_json({"schema": "holdover.list/1", "snapshots": entries})
    elif not holdings:
        print("Nothing is held.")
    else:
        columns = ("ID", "VERSION", "AGE", "FILES", "ONLY HERE", "WRITTEN", "USED BY")
        print_table(columns, [_snapshot_row(h, held[h.snapshot.id], leases) for h in holdings])
    return 0


def _live_leases(holdover: Holdover) -> tuple[Lease, ...]:
    return tuple(
        lease for lease in holdover.store.leases() if holdover.proc.is_alive(lease.process)
    )


def _snapshot_json(holding: Holding, held: int, leases: tuple[Lease, ...]) -> dict[str, object]:
    snapshot = holding.snapshot
    return {
        "id": snapshot.id,
        "program": snapshot.program,
        "build_id": snapshot.build_id,
        "version": snapshot.version,
        "created": snapshot.created,
        "files": len(snapshot.files),
        "bytes_held": held,
        "bytes_written": _bytes_written(holding),
        "pinned": False,
        "leases": [
            {"pid": u.process.pid, "start_time": u.process.start_time, "name": u.name}
            for u in leases
            if u.snapshot == snapshot.id
        ],
    }


def _bytes_written(holding: Holding) -> int:
    return sum(held.size for held in holding.snapshot.files if held.how == "copy")


def _snapshot_row(holding: Holding, held: int, leases: tuple[Lease, ...]) -> tuple[str, ...]:
    snapshot = holding.snapshot
    users = [u.name or str(u.process.pid) for u in leases if u.snapshot == snapshot.id]
    return (
        snapshot.id,
        snapshot.version or "-",
        _age(snapshot.created),
        str(len(snapshot.files)),
        human_bytes(held),
        human_bytes(_bytes_written(holding)),
        ", ".join(users) or "nobody",
    )


def _age(created: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{max(seconds, 0)} s"


def run_show(options: Namespace) -> int:
    holdover = Holdover()
    found = [h for h in holdover.store.holdings() if h.snapshot.id.startswith(options.id)]
    if len(found) != 1:
        raise UsageError(
            f"{options.id!r} is the beginning of {len(found)} snapshots, not of one",
            hint="`holdover list` shows them",
        )
    holding, damage = found[0], found[0].damage or holdover.store.damage(found[0])
    if options.json:
        shown = {"schema": "holdover.snapshot/1"} | asdict(holding.snapshot)
        print_json(shown | {"view": str(holding.view), "damage": damage})
    else:
        _print_snapshot(holding, damage)
    return 1 if damage else 0


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


def run_gc(options: Namespace) -> int:
    collected = Holdover().collect(dry_run=options.dry_run)
    if options.json:
        print_json({"schema": "holdover.gc/1", "dry_run": options.dry_run} | asdict(collected))
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


# -- the machine -------------------------------------------------------------------------------


def run_doctor(options: Namespace) -> int:
    from holdover.cli.doctor import examine

    checks = examine(Holdover())
    if options.json:
        print_json({"schema": "holdover.doctor/1", "checks": [asdict(c) for c in checks]})
    else:
        rows = [(c.name, "ok" if c.ok else "failed", c.detail) for c in checks]
        print_table(("CHECK", "RESULT", "DETAIL"), rows)
    return 0 if all(check.ok for check in checks) else 1


def run_enable(options: Namespace) -> int:
    from holdover.cli.hooks import enable

    return _show_hook_change(enable(), as_json=options.json)


def run_disable(options: Namespace) -> int:
    from holdover.cli.hooks import disable

    return _show_hook_change(disable(), as_json=options.json)


def _show_hook_change(changes: list[tuple[Path, str]], *, as_json: bool) -> int:
    if as_json:
        entries = [{"path": str(path), "change": change} for path, change in changes]
        print_json({"schema": "holdover.hooks/1", "files": entries})
    else:
        for path, change in changes:
            print(f"{path}: {change}")
    return 0


def run_demo(options: Namespace) -> int:
    from holdover.demo.story import tell

    # with --json the story goes to stderr, and what came of it to stdout
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        ending = tell(Path(options.cache) if options.cache else None)
    if options.json:
        print_json({"schema": "holdover.demo/1"} | asdict(ending))
    return 1 if ending.broken_promises else 0
