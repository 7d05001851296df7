# SPDX-License-Identifier: Apache-2.0
"""Where a process looks for its modules now, and whether it can be made to look elsewhere."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from holdover.environ import find_half, read_variable, room_needed
from holdover.errors import MalformedError, UnreadableError, UnsupportedError
from holdover.memory import Memory
from holdover.model import Delivery, Process
from holdover.places import places
from holdover.procfs import Mapping, ProcFs, file_id
from holdover.programs import Program, Variable
from holdover.trust import distrust
from holdover.variables import Name, locate, read_name

__all__ = ["Pointed", "NOT_ASKED"]

NOT_ASKED = "not looked at"
_ID_LENGTH = 32  # no id of a snapshot is longer


class Pointed:
    """What environments and variables say; `views` is where the store keeps its views."""

    def __init__(self, proc: ProcFs, views: Path, deliveries: tuple[Delivery, ...]) -> None:
        """Whether other deliveries than these are possible is not looked at."""
        self.proc = proc
        self.views = views
        self.deliveries = deliveries

    def look(self, process: Process, maps: Sequence[Mapping], program: Program) -> Process:
        """With all that is to be known about it; `maps` are its own."""
        if program.variable:
            return self._variable(process, maps, program.variable)
        if program.environment:
            return self._environment(process, maps, program.environment)
        return process

    # -- by a variable of its own --------------------------------------------------------------

    def _variable(self, process: Process, maps: Sequence[Mapping], variable: Variable) -> Process:
        pid = process.id.pid
        try:
            with Memory(self.proc, pid) as memory:
                address = locate(self.proc, pid, maps, variable.symbol, variable.size)
                where = (address, variable.size, variable.value, variable.pointer)
                name = memory.ask(read_name, *where)
        except UnreadableError as error:
            return replace(process, chosen_known=False, no_variable=error.message)
        except (UnsupportedError, MalformedError) as error:
            return replace(process, no_variable=error.message)  # then it is no name of ours
        build = replace(process.build, directories=(name.own,))
        chosen = (name.led_to,) if name.led_to and self._leads(pid, name) else ()
        problem = self._distrust_own(pid, name) or self.hidden_store(pid)
        by = Delivery.VARIABLE
        return replace(process, build=build, chosen=chosen, pointed_by=by, no_variable=problem)

    def _leads(self, pid: int, name: Name) -> bool:
        """Whether the process gets there: its own directory may be gone."""
        there = file_id(self.proc.at(pid, f"root{os.fsdecode(name.text)}"))
        return there is not None and there == file_id(self.proc.at(pid, f"root{name.led_to}"))

    def _distrust_own(self, pid: int, name: Name) -> str:
        """Its user can write to its memory, or has: what others can change is held for nobody."""
        own = self.proc.at(pid, f"root{name.own}")
        if not os.path.isdir(own):  # noqa: PTH112 - it may be no name at all
            return f"{name.own}, where it looks for modules, is no directory"
        reason = distrust(name.own)
        return reason and f"it looks for modules where others than root can put some: {reason}"

    # -- by its environment --------------------------------------------------------------------

    def _environment(self, process: Process, maps: Sequence[Mapping], variable: str) -> Process:
        pid = process.id.pid
        chosen, problem = self._read_environment(pid, maps, variable)
        place = self._place(chosen)
        return replace(
            process,
            chosen=tuple(filter(None, map(self._led_to, chosen or ()))),
            place=place,
            no_run=self.hidden_store(pid) if place else process.no_run,
            chosen_known=chosen is not None,
            no_environment=problem,
        )

    def _read_environment(
        self, pid: int, maps: Sequence[Mapping], variable: str
    ) -> tuple[tuple[Path, ...] | None, str]:
        """Where its variable points, and why another value would not help it if so."""
        try:
            with Memory(self.proc, pid) as memory:
                layout, live, values = read_variable(self.proc, pid, memory, variable, maps)
                chosen = tuple(Path(os.fsdecode(value)) for value in values if value)
                if Delivery.ENVIRONMENT not in self.deliveries:
                    return chosen, NOT_ASKED
                need = room_needed(len(live.entries), variable, f"{self.views}/{'x' * _ID_LENGTH}")
                try:
                    find_half(memory, layout, live, need)
                except UnsupportedError as error:
                    return chosen, error.message
                return chosen, self._distrust_chosen(chosen) or self.hidden_store(pid)
        except (UnreadableError, UnsupportedError, MalformedError) as error:
            return None, error.message

    def _place(self, chosen: tuple[Path, ...] | None) -> Path | None:
        """The directory of `holdover run` that counts, if one does."""
        first = next(iter(chosen or ()), None)
        return first if first and first.parent == places(self.views) else None

    def _led_to(self, directory: Path) -> Path | None:
        """What a process finds there: a view, if it is a link of ours; None if it is not there."""
        if directory.parent != places(self.views):
            return directory
        try:
            return self.views / directory.readlink().name
        except OSError:
            return directory if directory.exists() else None

    def _distrust_chosen(self, chosen: tuple[Path, ...]) -> str:
        """Its user may have set the variable; what others can change is not held for anybody."""
        ours = (self.views, places(self.views))
        reasons = (distrust(directory) for directory in chosen if directory.parent not in ours)
        reason = next(filter(None, reasons), "")
        return reason and f"it looks for modules where others than root can put some: {reason}"

    def hidden_store(self, pid: int) -> str:
        """Why the process could not load from the store, as far as its mounts tell; or ""."""
        place = next(path for path in (self.views, *self.views.parents) if path.exists())
        seen = file_id(self.proc.at(pid, f"root{place}"))
        if seen != file_id(place):
            return f"{place} is something else in its mount namespace"
        if os.statvfs(self.proc.at(pid, f"root{place}")).f_flag & os.ST_NOEXEC:
            return f"{place} is mounted noexec in its mount namespace"
        return ""
