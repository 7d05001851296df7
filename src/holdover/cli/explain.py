# SPDX-License-Identifier: Apache-2.0
"""`holdover explain`: would a module load in a process, and why not?"""

from argparse import Namespace
from collections.abc import Collection
from dataclasses import asdict

from holdover.answers import Explanation
from holdover.cli.output import print_json, print_table, progress
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.text import printable
from holdover.cli.unseen import check_found
from holdover.errors import UsageError
from holdover.model import Item

__all__ = ["run_explain"]

ANSWERS = {"loaded": "is loaded", "loads": "would load", "blocked": "would fail"}


def run_explain(options: Namespace) -> int:
    with progress(wanted=not options.json) as report:
        holdover = make_holdover(read_config(options), progress=report, deep=True, ask_journal=True)
        scan, items, explained = holdover.explain(options.pid)
    check_found([options.pid], [item.process.id.pid for item in items], scan.unreadable)
    wanted = _chosen(explained, options.name)
    if options.json:
        print_json(_json(items[0], wanted))
    elif not wanted:
        print(f"{options.pid} loads no modules: {items[0].reason}.")
    else:
        _print(wanted, verbose=options.verbose)
    failing = [e for e in wanted if e.state == "blocked" and not (e.other and not options.name)]
    return 1 if failing else 0


def _chosen(explained: tuple[Explanation, ...], names: Collection[str]) -> list[Explanation]:
    known = {entry.name for entry in explained}
    for name in names:
        if name.removesuffix(".so") not in known:
            raise UsageError(
                f"{name} is no module on disk, held or loaded",
                hint="without a name `holdover explain PID` shows all of them",
            )
    plain = {name.removesuffix(".so") for name in names}
    return [entry for entry in explained if not plain or entry.name in plain]


def _json(item: Item, explained: list[Explanation]) -> dict[str, object]:
    return {
        "schema": "holdover.explanation/1",
        "pid": item.process.id.pid,
        "start_time": item.process.id.start_time,
        "name": item.process.name,
        "modules": [_module_json(entry) for entry in explained],
    }


def _module_json(entry: Explanation) -> dict[str, object]:
    """`library` is null where the names are made up when it runs."""
    opened = [{"library": name or None, "opened_by": by} for name, by in entry.by_name]
    return asdict(entry) | {"by_name": opened}


def _print(explained: list[Explanation], *, verbose: bool) -> None:
    if not verbose:
        rows = [(entry.name, ANSWERS[entry.state], entry.reason) for entry in explained]
        print_table(("MODULE", "ANSWER", "REASON"), rows)
        return
    for number, entry in enumerate(explained):
        if number:
            print()
        reason = f": {entry.reason}" if entry.reason else ""
        print(printable(f"{entry.name} {ANSWERS[entry.state]}{reason}"))
        rows = [("  itself", str(entry.path), "")] if entry.path else []
        rows += [(f"  {step.name}", str(step.path), step.why) for step in entry.steps]
        rows += [_not_held(name, by) for name, by in entry.by_name]
        if rows:
            print_table(("  FILE", "FOUND AT", "THROUGH"), rows)


def _not_held(name: str, by: str) -> tuple[str, str, str]:
    if name:
        return f"  {name}", "not held", f"{by} opens it by name"
    return "  (plug-ins)", "not held", f"{by} opens files whose names it makes up"
