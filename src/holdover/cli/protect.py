# SPDX-License-Identifier: Apache-2.0
"""`holdover protect`, `defuse` and `release`: what changes processes."""

from argparse import Namespace
from dataclasses import asdict

from holdover.cli.events import of_outcome, of_result
from holdover.cli.output import print_json, print_table, process_columns, progress
from holdover.cli.reports import tell
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.together import one_of_each, together
from holdover.cli.unseen import check_found, show_unreadable
from holdover.model import Capture, Delivery, Item, Outcome, Plan, Result, State
from holdover.releasing import release
from holdover.steps.plan import Aim

__all__ = ["run_protect", "run_defuse", "run_release", "show_outcomes", "outcome_json"]


def run_protect(options: Namespace) -> int:
    return _carry_out(options, Aim.PROTECT)


def run_defuse(options: Namespace) -> int:
    return _carry_out(options, Aim.DEFUSE)


def _carry_out(options: Namespace, aim: Aim) -> int:
    config = read_config(options)
    with progress(wanted=not options.json) as report:
        holdover = make_holdover(config, progress=report, ask_journal=True)
        if options.dry_run:
            planned = holdover.plan(aim, options.pid)
        elif aim is Aim.PROTECT and options.rehearse:
            from holdover.proving import carry_out_proven

            result = carry_out_proven(holdover, aim, options.pid)
        else:
            result = holdover.carry_out(aim, options.pid)
    if options.dry_run:
        failed = _show_plan(planned, as_json=options.json)
        seen, unreadable = [item.process for item in planned.items], planned.unreadable
    else:
        tell(of_result(result), config)
        failed = show_outcomes(result, as_json=options.json)
        seen, unreadable = [o.process for o in result.outcomes], result.unreadable
    if not (seen or options.pid or options.json):
        print("No process that loads modules late is running.")
    check_found(options.pid, [process.id.pid for process in seen], unreadable)
    return 1 if show_unreadable(unreadable) or failed else 0


def _show_plan(planned: Plan, *, as_json: bool) -> bool:
    """Returns whether something is in the way."""
    if as_json:
        print_json(_plan_json(planned))
    elif planned.items:
        rows = [
            (*process_columns(item.process, item.state), _intention(item), item.reason)
            for group in together(planned.items, lambda item: item.process)
            for item in group.kinds(_intention)
        ]
        print_table(("PID", "NAME", "STATE", "WOULD BE", "REASON"), rows)
    return any(item.problem or item.state is State.POISONED for item in planned.items)


def _plan_json(planned: Plan) -> dict[str, object]:
    return {
        "schema": "holdover.plan/1",
        "processes": [_item_json(item) for item in planned.items],
        "unreadable": [asdict(entry) for entry in planned.unreadable],
    }


def _item_json(item: Item) -> dict[str, object]:
    """What was decided and why; not all that was seen, which is a thousand times as long."""
    there = item.source if isinstance(item.source, str) else ""
    return {
        "pid": item.process.id.pid,
        "start_time": item.process.id.start_time,
        "part_of": item.process.part_of,
        "name": item.process.name,
        "state": str(item.state),
        "reason": item.reason,
        "deliver": item.deliver and str(item.deliver),
        "snapshot": there or None,
        "capture": _capture_json(item.source) if isinstance(item.source, Capture) else None,
        "problem": item.problem,
    }


def _capture_json(wanted: Capture) -> dict[str, object]:
    libraries = {need.name: None for late in wanted.modules for need in late.needs}
    return {
        "modules": [late.name for late in wanted.modules],
        "libraries": list(libraries),
        "unheld": [{"name": name, "reason": reason} for name, reason in wanted.unheld],
        "reason": wanted.reason,
    }


def _intention(item: Item) -> str:
    if item.problem:
        return f"left alone: {item.problem}"
    if item.deliver is None:
        return "left as it is"
    if item.deliver is Delivery.PRELOAD:
        return "made to load its modules by preload"
    if isinstance(item.source, str):
        return f"pointed at {item.source} by {item.deliver}"
    return f"pointed at a new snapshot of {len(item.source.modules)} modules by {item.deliver}"


def show_outcomes(result: Result, *, as_json: bool) -> bool:
    """Returns whether something failed."""
    if as_json:
        print_json(_result_json(result))
    elif result.outcomes:
        rows = [_outcome_row(outcome) for outcome in one_of_each(result.outcomes)]
        print_table(("PID", "NAME", "STATE", "DELIVERY", "SNAPSHOT", "REASON"), rows)
    return any(o.failed or o.state is State.POISONED for o in result.outcomes)


def _result_json(result: Result) -> dict[str, object]:
    return {
        "schema": "holdover.outcomes/1",
        "processes": [outcome_json(outcome) for outcome in result.outcomes],
        "unreadable": [asdict(entry) for entry in result.unreadable],
    }


def outcome_json(outcome: Outcome) -> dict[str, object]:
    return {
        "pid": outcome.process.id.pid,
        "start_time": outcome.process.id.start_time,
        "part_of": outcome.process.part_of,
        "name": outcome.process.name,
        "state": str(outcome.state),
        "delivery": outcome.delivery and str(outcome.delivery),
        "snapshot": outcome.snapshot or None,
        "reason": outcome.reason,
        "changed": outcome.changed,
        "failed": outcome.failed,
    }


def _outcome_row(outcome: Outcome) -> tuple[str, ...]:
    return (
        *process_columns(outcome.process, outcome.state),
        str(outcome.delivery or "-"),
        outcome.snapshot or "-",
        outcome.reason,
    )


def run_release(options: Namespace) -> int:
    config = read_config(options)
    outcome = release(make_holdover(config, ask_journal=True), options.pid, force=options.force)
    tell(of_outcome(outcome), config)
    show_outcomes(Result((outcome,)), as_json=options.json)
    return 0
