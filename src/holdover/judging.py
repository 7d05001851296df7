# SPDX-License-Identifier: Apache-2.0
"""What is true of a process: its state, and the reason, whatever is to be done about it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from holdover.held import Holding, Purpose
from holdover.model import Delivery, Item, Module, Process, State
from holdover.search import directories as where
from holdover.search import first_found

__all__ = ["Judge", "BAD_STATES", "LOOK_ALIKE", "READY", "failure_of", "no_preload"]

BAD_STATES = (State.AT_RISK, State.POISONED)
READY = "what is held for it comes into play when they are replaced"
LOOK_ALIKE = "its executable was replaced by another build with the same stamp"
_SUCCESSOR = "its executable was replaced by a later build, whose modules it would load"


class Judge:
    """Judges processes by what lies on disk (`modules`) and by what is held."""

    def __init__(
        self, modules: Iterable[Module], holdings: tuple[Holding, ...], views: Path
    ) -> None:
        self.modules = tuple(modules)
        self.holdings = holdings
        self.views = views

    def state(self, process: Process) -> Item:
        """State and reason, whatever anybody wants to do about it."""
        if process.unsupported:
            return Item(process, State.UNSUPPORTED, process.unsupported)
        if process.build.stamp is None:
            return Item(process, State.CURRENT, "its executable loads no modules")
        seen = self._delivered(process)
        if process.poisoned_by:  # whatever it would find now
            delivered = (seen[0], seen[1].snapshot.id) if seen else (None, "")
            return Item(process, State.POISONED, _poisoned(process), *delivered)
        if seen is not None:
            delivery, holding = seen
            state, reason = _state_with(process, holding)
            reason += self._unheard(process, state)
            return Item(process, state, reason, delivery, holding.snapshot.id)
        if any(directory.parent == self.views for directory in process.chosen[:1]):
            reason = f"it is pointed at {process.chosen[0]}, which the store does not know"
            return Item(process, State.AT_RISK, reason)
        state, reason = self._state_without(process)
        item = Item(process, state, reason + self._unheard(process, state))
        return self._with_fallback(item)

    def _unheard(self, process: Process, state: State) -> str:
        """Why it may be poisoned all the same, if ever it could have met another build's files."""
        met = process.replaced or self.replaced(process)
        if state is State.PROTECTED or not (met and process.unheard):
            return ""
        return f"; whether a load failed already cannot be known: {process.unheard}"

    def _with_fallback(self, item: Item) -> Item:
        """What it finds last counts where what it finds first is not its own, or does not load."""
        process = item.process
        if item.state is not State.CURRENT or not process.own:
            there = next((h for h in self.holdings if h.view == process.fallback), None)
            if there is None:
                return item
            state, reason = _state_with(process, there, shared=True)
            return Item(process, state, reason, Delivery.FALLBACK, there.snapshot.id)
        held = next((h for h in self.holdings if h.snapshot.id == process.promised), None)
        if held is None or held.damage:
            return item
        reason = f"{item.reason}; {READY}"
        return Item(process, item.state, reason, Delivery.FALLBACK, held.snapshot.id)

    def _delivered(self, process: Process) -> tuple[Delivery, Holding] | None:
        """The view that the process finds first; the environment comes before the directory."""
        if pointed_at := self._pointed_at(process):
            return Delivery.RUN if process.place else process.pointed_by, pointed_at
        for holding in self.holdings:
            covered = holding.view_file is not None and holding.view_file == process.covered_by
            if covered and not self.looks_elsewhere_first(process):
                return Delivery.MOUNT, holding
        return None

    def _pointed_at(self, process: Process) -> Holding | None:
        return next((h for h in self.holdings if process.chosen[:1] == (h.view,)), None)

    def looks_elsewhere_first(self, process: Process) -> bool:
        """In a directory that somebody else chose: then covering the usual one is no use."""
        return self.directories(process) != process.build.directories

    def _state_without(self, process: Process) -> tuple[State, str]:
        modules = self.there(process)
        wrong = sorted(self.replaced(process))
        if wrong:
            return State.AT_RISK, (
                f"{len(wrong)} of {len(modules)} modules on disk are of another build, "
                f"{_first_few(wrong)}"
            )
        if process.replaced and not modules:
            return State.AT_RISK, "its modules are gone from disk"
        if failing := failure_of(
            replace(process, late=process.own) if process.fallback else process
        ):
            return State.AT_RISK, failing
        if process.outlived:
            return State.CURRENT, _SUCCESSOR
        if process.look_alike:
            return State.CURRENT, LOOK_ALIKE
        if not modules:
            return State.CURRENT, "no modules are installed"
        return State.CURRENT, "the modules on disk are its own" + _doubt(process)

    def replaced(self, process: Process) -> set[str]:
        """Names under which another build's modules lie on disk, without those that it has."""
        there = self.there(process)
        wrong = {name for name, module in there.items() if module.stamp != process.build.stamp}
        return wrong - process.loaded

    def there(self, process: Process) -> Mapping[str, Module]:
        """What it finds on disk, by name, the store's views aside."""
        return first_found(self.modules, self.directories(process))

    def directories(self, process: Process) -> tuple[Path, ...]:
        return where(process, self.views)


def no_preload(item: Item) -> str:
    """Why the process must not be made to load its modules from disk, or "": in doubt it is not."""
    process = item.process
    if item.state is not State.CURRENT or process.replaced or process.look_alike:
        return "that is possible only before anything of it is replaced"
    if process.unforeseen:
        return f"what it needs cannot be told: {process.unforeseen}"
    if process.unheard:
        return f"whether a load failed already cannot be known: {process.unheard}"
    return ""


def failure_of(process: Process) -> str:
    """Which modules would not load although they are its own."""
    failing = [
        late
        for late in process.late
        if late.problem and not late.other and late.name not in process.loaded
    ]
    if not failing:
        return ""
    names = _first_few([late.name for late in failing])
    if process.outlived:
        return (
            f"{len(failing)} of the modules on disk would not load, {names}: {failing[0].problem}"
        )
    return f"{len(failing)} of its own modules would not load, {names}: {failing[0].problem}"


def _poisoned(process: Process) -> str:
    return (
        f"it failed to load {process.poisoned_by}, and the next load of anything kills it: "
        "attach nothing to it, migrate or restart it"
    )


def _doubt(process: Process) -> str:
    unforeseen = process.unforeseen
    return f", but whether they would load cannot be told: {unforeseen}" if unforeseen else ""


def _state_with(process: Process, holding: Holding, *, shared: bool = False) -> tuple[State, str]:
    """State of a process that is pointed at a view; `shared` by all executables of its build."""
    snapshot = holding.snapshot
    same = snapshot.stamp == process.build.stamp
    if not (same if shared else snapshot.build_id == process.build.build_id):
        return State.AT_RISK, f"it is pointed at {snapshot.id}, which is of another build"
    if holding.damage:
        return State.AT_RISK, f"its snapshot {snapshot.id} is damaged: {holding.damage}"
    if snapshot.purpose is Purpose.DEFUSE:
        return State.DEFUSED, "late loads are refused, and no longer kill it"
    if failing := failure_of(process):
        return State.AT_RISK, failing
    if holding.rehearsal_failure:
        return State.AT_RISK, f"rehearsal: {holding.rehearsal_failure}"
    lost = [entry for entry in snapshot.unheld if entry[0] in snapshot.decoys]
    held = f"{len(snapshot.modules)} modules of its build are held"
    if lost:
        return (
            State.PROTECTED,
            f"{held}, {len(lost)} would not load before: {lost[0][0]}, {lost[0][1]}",
        )
    return State.PROTECTED, held


def _first_few(names: list[str], count: int = 3) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest
