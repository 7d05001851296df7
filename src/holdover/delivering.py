# SPDX-License-Identifier: Apache-2.0
"""The choice among the ways to make a process see a view, by name; `steps/deliver` has the ways."""

from pathlib import Path

from holdover.held import Holding
from holdover.model import Delivery, Process, Scan
from holdover.procfs import ProcFs
from holdover.programs import Program
from holdover.steps.deliver import environment, fallback, run
from holdover.steps.deliver.mount import Mounter
from holdover.steps.verify import verify
from holdover.store import Store

__all__ = ["point", "take_back", "problem_of", "in_place", "tidy"]


def point(
    proc: ProcFs,
    store: Store,
    mounter: Mounter,
    process: Process,
    program: Program,
    delivery: Delivery,
    holding: Holding,
) -> None:
    """Make the process find the view; raises as the delivery's own `deliver` says."""
    match delivery:
        case Delivery.RUN:
            run.deliver(proc, process, store.leads, holding.view)
        case Delivery.ENVIRONMENT:
            environment.deliver(proc, process, program.environment, holding.view)
        case Delivery.VARIABLE if program.variable:
            from holdover.steps.deliver import variable  # most hosts run no such program

            variable.deliver(proc, process, program.variable, holding.view)
        case Delivery.MOUNT:
            mounter.deliver(process, holding.view)
        case Delivery.FALLBACK:
            fallback.deliver(proc, process, store.fallbacks, holding.view)


def take_back(
    proc: ProcFs,
    store: Store,
    mounter: Mounter,
    process: Process,
    program: Program,
    delivery: Delivery,
    holding: Holding,
) -> None:
    """Undo what `point` did; what was there before counts again."""
    match delivery:
        case Delivery.RUN:
            run.release(process, store.leads)
        case Delivery.ENVIRONMENT:
            environment.release(proc, process, program.environment)
        case Delivery.VARIABLE if program.variable:
            from holdover.steps.deliver import variable

            variable.release(proc, process, program.variable)
        case Delivery.MOUNT:
            mounter.release(process, holding.view)
        case Delivery.FALLBACK:
            fallback.release(process, store.fallbacks)


def problem_of(proc: ProcFs, process: Process, delivery: Delivery, holding: Holding) -> str:
    """Why the process does not find what is held where the delivery put it, or ""."""
    problem = verify(proc, process, holding, _seen_at(process, delivery, holding.view))
    if delivery is Delivery.FALLBACK:
        problem = problem or fallback.problem_of(proc, process, holding.view)
    return problem


# -- directories that all processes of a build share ----------------------------------------------


def in_place(store: Store, process: Process, wanted: Holding) -> Holding:
    """What its fallback directory leads to already, for another executable of the same build, if
    that has all that is wanted."""
    view = process.build.fallback and store.fallbacks.view_at(process.build.fallback)
    there = next((h for h in store.holdings() if h.view == view), None)
    if there is None or there.damage or there.snapshot.stamp != wanted.snapshot.stamp:
        return wanted
    return there if wanted.snapshot.modules <= there.snapshot.modules else wanted


def tidy(store: Store, seen: Scan, *, everybody: bool) -> None:
    """Take fallback directories away that are no use, or half made; the caller is the writer.

    With `everybody`, also those where nobody who was seen looks. While modules of the same build
    lie on disk, the package that owns them may write through the links when it is replaced.
    """
    on_disk = {module.stamp for module in seen.modules}
    looked_at = {process.build.fallback for process in seen.processes}
    stamps = {holding.view: holding.snapshot.stamp for holding in store.holdings()}
    for directory, view in store.fallbacks.all().items():
        idle = everybody and not seen.unreadable and directory not in looked_at
        gone = view is None or not view.is_dir()
        own = view is not None and stamps.get(view) and stamps[view] in on_disk
        if gone or idle or own:
            store.fallbacks.remove(directory)


def _seen_at(process: Process, delivery: Delivery, view: Path) -> Path:
    """Where the process finds the view, as it names that place."""
    match delivery:
        case Delivery.MOUNT:
            return process.build.directories[0]
        case Delivery.RUN if process.place:
            return process.place
    return view
