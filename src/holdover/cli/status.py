# SPDX-License-Identifier: Apache-2.0
"""`holdover status`: every process that loads late, and whether it still can."""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict, replace

from holdover.cli.output import print_json, print_table, process_columns, progress
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.together import Group, together, worst
from holdover.cli.unseen import check_found
from holdover.flow import Holdover
from holdover.held import Holding
from holdover.judging import BAD_STATES
from holdover.model import Item, Scan
from holdover.search import Prospect, prospects

__all__ = ["run_status"]


def run_status(options: Namespace) -> int:
    with progress(wanted=not options.json) as report:
        config = read_config(options)
        holdover = make_holdover(config, progress=report, deep=options.verbose, ask_journal=True)
        scan, items = holdover.status(options.pid)
    if options.json:
        print_json(_status_json(holdover, scan, items))
    else:
        _print_status(holdover, scan, items, options)
    check_found(options.pid, [item.process.id.pid for item in items], scan.unreadable)
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
        "part_of": process.part_of,
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
        "poisoned_by": process.poisoned_by or None,
        "unheard": process.unheard or None,
        "modules": [asdict(module) for module in modules],
    }


def _prospects(
    holdover: Holdover, scan: Scan, item: Item, holdings: tuple[Holding, ...]
) -> tuple[Prospect, ...]:
    return prospects(item, scan.modules, holdings, holdover.store.views)


def _print_status(
    holdover: Holdover, scan: Scan, items: tuple[Item, ...], options: Namespace
) -> None:
    if items:
        groups = together(items, lambda item: item.process)
        print_table(
            ("PID", "NAME", "STATE", "DELIVERY", "VERSION", "REASON"),
            [row for group in groups for row in _status_rows(group, verbose=options.verbose)],
        )
    elif not options.pid:
        print("No process that loads modules late is running.")
    if options.verbose:
        holdings = holdover.store.holdings()
        for item in _telling(items):
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


def _telling(items: tuple[Item, ...]) -> list[Item]:
    """Of those that belong together and would load the same, the first."""
    groups = together(items, lambda item: item.process)
    return [
        item
        for group in groups
        for item in group.all
        if item is group.first or item.process.late != group.first.process.late
    ]


def _status_rows(group: Group[Item], *, verbose: bool) -> list[tuple[str, ...]]:
    """One for all that belong together, and with `verbose` one for each."""
    bad = worst(group, lambda item: item.state)
    alike = sum(item.state is bad.state for item in group.all)
    shown = replace(group.first, state=bad.state, reason=group.counted(bad.reason, alike))
    return [_status_row(shown), *(_status_row(item) for item in group.others if verbose)]


def _status_row(item: Item) -> tuple[str, ...]:
    process = item.process
    return (
        *process_columns(process, item.state),
        str(item.delivery or "-"),
        process.build.version or "-",
        item.reason,
    )
