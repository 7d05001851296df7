# SPDX-License-Identifier: Apache-2.0
"""Which module a process would find, and what a late load of it would do. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from holdover.held import Holding
from holdover.model import Item, Module, Process, State

__all__ = ["directories", "first_found", "Prospect", "prospects"]


@dataclass(frozen=True, slots=True)
class Prospect:
    """What a late load of one module would do: "loaded", "loads" or "blocked".

    `reason` is why it is blocked, or why it may not load all the same.
    """

    name: str
    state: str
    reason: str = ""


def directories(process: Process, views: Path) -> tuple[Path, ...]:
    """Where a process looks for modules, in order, the store's views aside."""
    chosen = tuple(directory for directory in process.chosen if directory.parent != views)
    return chosen + process.build.directories


def first_found(modules: Iterable[Module], where: tuple[Path, ...]) -> Mapping[str, Module]:
    """For each name the file in the first of the directories that has one."""
    return _first_found(tuple(modules), where)


@lru_cache(maxsize=64)  # the same is asked for each process of a build
def _first_found(modules: tuple[Module, ...], where: tuple[Path, ...]) -> Mapping[str, Module]:
    found: dict[str, Module] = {}
    for module in sorted(
        (m for m in modules if m.path.parent in where), key=lambda m: where.index(m.path.parent)
    ):
        found.setdefault(module.name, module)
    return found


def prospects(
    item: Item, modules: Iterable[Module], holdings: Collection[Holding], views: Path
) -> tuple[Prospect, ...]:
    """For every module on disk or held, what would happen in this process."""
    process = item.process
    if process.build.stamp is None:
        return ()
    found = first_found(modules, directories(process, views))
    held = next((h.snapshot.modules for h in holdings if h.snapshot.id == item.snapshot), None)
    names = sorted(found.keys() | (held or frozenset()) | process.loaded)
    return tuple(_prospect(name, item, found.get(name), held) for name in names)


def _prospect(name: str, item: Item, found: Module | None, held: frozenset[str] | None) -> Prospect:
    if name in item.process.loaded:
        return Prospect(name, "loaded")
    if item.state is State.POISONED:
        return Prospect(name, "blocked", "another load failed already: this one kills it")
    problem = next((late.problem for late in item.process.late if late.name == name), "")
    doubt = item.process.unforeseen and f"what it needs cannot be told: {item.process.unforeseen}"
    if held is not None and item.state in (State.PROTECTED, State.DEFUSED):
        if name not in held:
            return Prospect(name, "blocked", "not held for its build: refused without harm")
        return Prospect(name, "blocked" if problem else "loads", problem or doubt)
    if found is not None and found.stamp == item.process.build.stamp:
        return Prospect(name, "blocked" if problem else "loads", problem or doubt)
    where = (
        "there is no such file any more"
        if found is None
        else "the file on disk is of another build"
    )
    return Prospect(name, "blocked", where)
