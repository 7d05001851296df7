# SPDX-License-Identifier: Apache-2.0
"""Deliver by run: lead the directory that a process was started with to the view.

`holdover run` has set the variable before the program began, to a directory that was not there
yet: nothing is written to the process. All processes of its build look there, so the directory
leads on from a snapshot only to one in which they all find what they found before.
"""

from collections.abc import Iterable
from pathlib import Path

from holdover.errors import UnsupportedError, VanishedError
from holdover.fitting import extends
from holdover.held import Holding
from holdover.leads import Leads
from holdover.model import Capture, Process
from holdover.places import place_name
from holdover.procfs import ProcFs

__all__ = ["deliver", "release", "in_the_way", "place_of"]


def in_the_way(
    place: Path,
    view: Path | None,
    wanted: Holding,
    held: Iterable[Holding],
    others: Iterable[Process],
) -> str:
    """Why a place that leads to `view` may not lead to what is wanted for it, or "".

    `others` are all processes: one that replaced itself by another build has kept the variable.
    """
    if view == wanted.view:
        return ""
    old = next((holding for holding in held if holding.view == view), None)
    sound = old is not None and not (old.damage or old.rehearsal_failure)
    if old is not None and sound and not extends(wanted.snapshot, old.snapshot):
        return f"other processes of its build need {old.snapshot.id}"
    for other in others:
        if other.place == place and other.build.build_id != wanted.snapshot.build_id:
            return f"process {other.id.pid} looks there too, and is of another build"
    return ""


def place_of(leads: Leads, wanted: Capture) -> Path:
    """Where processes of that build will look which `holdover run` starts from now on."""
    build = wanted.build
    return leads.directory / place_name(build.program, build.build_id, wanted.library_path)


def deliver(proc: ProcFs, process: Process, leads: Leads, view: Path) -> None:
    """Lead the directory that it looks in to `view`.

    Raises `UnsupportedError` if it looks in none, `VanishedError` if it is no longer that process,
    `StoreError` if the link cannot be made.
    """
    place = _place(process)
    if proc.identity(process.id.pid) != process.id:
        raise VanishedError(f"process {process.id.pid} ended, and its number is another's")
    if leads.view(place) != view:
        leads.lead(place, view)


def release(process: Process, leads: Leads) -> None:
    """Nothing is to be found there any more, by any process of its build."""
    leads.drop(_place(process))


def _place(process: Process) -> Path:
    if process.place is None:
        raise UnsupportedError(f"process {process.id.pid} was not started by `holdover run`")
    return process.place
