# SPDX-License-Identifier: Apache-2.0
"""A process and those that it forked, which go on to run the same: told of as one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from holdover.model import Outcome, Process, State

__all__ = ["Group", "together", "one_of_each", "worst"]

T = TypeVar("T")
_WORSE = (
    *(State.CURRENT, State.PROTECTED, State.DEFUSED),
    *(State.UNSUPPORTED, State.UNREADABLE, State.AT_RISK, State.POISONED),
)


@dataclass(frozen=True, slots=True)
class Group(Generic[T]):
    """What is told of a process, and of each that it forked."""

    first: T
    others: tuple[T, ...] = ()

    @property
    def all(self) -> tuple[T, ...]:
        return self.first, *self.others

    def kinds(self, kind_of: Callable[[T], object]) -> dict[T, int]:
        """The first of each kind, and how many there are of it."""
        found: dict[object, list[T]] = {}
        for entry in self.all:
            found.setdefault(kind_of(entry), []).append(entry)
        return {entries[0]: len(entries) for entries in found.values()}

    def counted(self, reason: str, concerned: int) -> str:
        """The reason, and for how many of them it is one."""
        if not self.others:
            return reason
        count = len(self.all)
        return f"{reason} ({count if concerned == count else f'{concerned} of {count}'} processes)"


def together(entries: Iterable[T], process_of: Callable[[T], Process]) -> list[Group[T]]:
    """In the order of the first of each; whose first is not among them is alone."""
    entries = tuple(entries)
    there = {process_of(entry).id.pid for entry in entries}
    others: dict[int, list[T]] = {}
    for entry in entries:
        first = process_of(entry).part_of
        if first in there and first is not None:
            others.setdefault(first, []).append(entry)
    return [
        Group(entry, tuple(others.get(process_of(entry).id.pid, ())))
        for entry in entries
        if process_of(entry).part_of not in there
    ]


def one_of_each(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Of those that belong together, and of which the same became, one; its reason counts them."""
    for group in together(outcomes, lambda outcome: outcome.process):
        for outcome, count in group.kinds(_became).items():
            yield replace(outcome, reason=group.counted(outcome.reason, count))


def _became(outcome: Outcome) -> tuple[object, ...]:
    why = outcome.reason if outcome.failed else ""
    return outcome.state, outcome.changed, outcome.failed, why


def worst(group: Group[T], state_of: Callable[[T], State]) -> T:
    """Of those that are equally bad the first."""
    return max(group.all, key=lambda entry: _WORSE.index(state_of(entry)))
