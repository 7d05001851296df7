# SPDX-License-Identifier: Apache-2.0
"""The choice among the ways to make a process see a view, by name; `steps/deliver` has the ways."""

from pathlib import Path

from holdover.leads import Leads
from holdover.model import Delivery, Process
from holdover.procfs import ProcFs
from holdover.programs import Program
from holdover.steps.deliver import environment, mount, run

__all__ = ["point", "take_back", "seen_at"]


def point(
    proc: ProcFs, process: Process, program: Program, delivery: Delivery, view: Path, leads: Leads
) -> None:
    """Make the process find `view` first; raises as the delivery's own `deliver` says."""
    match delivery:
        case Delivery.RUN:
            run.deliver(proc, process, leads, view)
        case Delivery.ENVIRONMENT:
            environment.deliver(proc, process, program.variable, view)
        case Delivery.MOUNT:
            mount.deliver(proc, process, view)


def take_back(
    proc: ProcFs, process: Process, program: Program, delivery: Delivery, view: Path, leads: Leads
) -> None:
    """Undo what `point` did; what was there before counts again."""
    match delivery:
        case Delivery.RUN:
            run.release(process, leads)
        case Delivery.ENVIRONMENT:
            environment.release(proc, process, program.variable)
        case Delivery.MOUNT:
            mount.release(proc, process, view)


def seen_at(process: Process, delivery: Delivery, view: Path) -> Path:
    """Where the process finds the view, as it names that place."""
    match delivery:
        case Delivery.MOUNT:
            return process.build.directories[0]
        case Delivery.RUN if process.place:
            return process.place
    return view
