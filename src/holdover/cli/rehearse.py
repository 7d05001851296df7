# SPDX-License-Identifier: Apache-2.0
"""`holdover rehearse`: what would load late in a process, seen in a stand-in for it."""

from argparse import Namespace
from dataclasses import asdict

from holdover.cli.output import print_json, print_table, progress
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.text import printable
from holdover.proving import prove
from holdover.rehearsal import Proof, Rehearsal

__all__ = ["run_rehearse"]


def run_rehearse(options: Namespace) -> int:
    with progress(wanted=not options.json) as report:
        done = prove(make_holdover(read_config(options), progress=report), options.pid)
    if options.json:
        print_json(_rehearsal_json(done))
    else:
        _print_rehearsal(done)
    return 1 if done.failure else 0


def _rehearsal_json(done: Rehearsal) -> dict[str, object]:
    return {
        "schema": "holdover.rehearsal/1",
        "pid": done.process.id.pid,
        "start_time": done.process.id.start_time,
        "name": done.process.name,
        "snapshot": done.snapshot,
        "modules": [asdict(module) for module in done.modules],
        "problems": list(done.problems),
    }


def _print_rehearsal(done: Rehearsal) -> None:
    rows = [(module.name, str(module.result), module.reason) for module in done.modules]
    if rows:
        print_table(("MODULE", "RESULT", "REASON"), rows)
        print()
    for problem in done.problems:
        print(f"{printable(problem)}.")
    print(_summary(done))


def _summary(done: Rehearsal) -> str:
    total = len(done.modules)
    if not total:
        return "No module is held for it: there is nothing that could load."
    loaded, failed, untried = (done.count(r) for r in (Proof.LOADS, Proof.FAILS, Proof.UNTRIED))
    parts = [f"{loaded} of {total} " + ("module loads" if total == 1 else "modules load")]
    if failed:
        parts.append("1 fails" if failed == 1 else f"{failed} fail")
    if untried:
        them = ("1 was", "it") if untried == 1 else (f"{untried} were", "them")
        parts.append(f"{them[0]} not tried: nothing asked for {them[1]}")
    return "; ".join(parts) + "."
