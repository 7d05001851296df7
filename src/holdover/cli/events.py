# SPDX-License-Identifier: Apache-2.0
"""What is told to the system's log: one table of kinds, and what becomes of each result.

The identifiers are for ever: people look for them, and alert on them. The message catalogue
(`journalctl -x`) and docs/journal.md are made of this table.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from holdover.cli.text import printable
from holdover.cli.together import one_of_each, together
from holdover.journal import ERROR, INFO, NOTICE, WARNING, Entry
from holdover.judging import BAD_STATES
from holdover.model import Delivery, Item, Outcome, Process, Result, State
from holdover.steps.collect import Collected

__all__ = [
    "KINDS",
    "Kind",
    "catalogue",
    "of_result",
    "of_outcome",
    "of_risks",
    "of_collected",
    "of_hook",
]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of message."""

    name: str
    id: str
    """128 random bits: MESSAGE_ID of systemd.journal-fields(7)."""
    priority: int
    subject: str
    about: str
    """What it means, and what to do."""

    def entry(self, text: str, **fields: object) -> Entry:
        named = {f"HOLDOVER_{name.upper()}": str(value) for name, value in fields.items()}
        return Entry(self.id, self.priority, printable(text), named)


PROTECTED = Kind(
    *("protected", "b946be0bd003408cba962f085ef6882a", INFO),
    "A guest is protected",
    "From now on the guest finds modules of its own build, whatever is installed.\n"
    "Nothing needs to be done.",
)
DEFUSED = Kind(
    *("defused", "fcad85176d694b03af6b50063abe3037", NOTICE),
    "A guest was defused",
    "Its own modules are gone, so what it would load late is refused; it no longer dies of that.\n"
    "Restart or migrate it when that can be done.",
)
PRELOADED = Kind(
    *("preloaded", "13ad3d5b2c6b4b46b1d726dfb1404f83", NOTICE),
    "A guest was made to load its modules",
    "They were loaded while those on disk were its own, and stay loaded. What HOLDOVER_REASON\n"
    "names as not loaded may still kill it once it is replaced.",
)
NOT_PROTECTED = Kind(
    *("not-protected", "9be51aa438c34956aa12501fb22e0ec6", WARNING),
    "A guest is not protected",
    "HOLDOVER_REASON says why. If its state is at-risk or poisoned, do not attach devices to it:\n"
    "that would fail, and may kill it. `holdover status` shows its state, docs/operations.md\n"
    "what to do.",
)
RELEASED = Kind(
    *("released", "82f4ba9e56514693a5ab911477993673", NOTICE),
    "A delivery was taken back",
    "An operator asked for it. The guest finds what is installed; holdover leaves it alone until\n"
    "the next transaction that concerns it.",
)
TAKEN = Kind(
    *("snapshot-taken", "acc7d2212fec4721bdf04f6e6c8a9246", INFO),
    "The modules of a build are held",
    "They stay as long as a guest of that build needs them. `holdover list` shows what is held.",
)
REMOVED = Kind(
    *("snapshot-removed", "4dd5a9e811c848519729414e3b7c0f73", INFO),
    "What nobody needs any more was let go",
    "The last guest that needed it has ended, and nobody had pinned it.",
)
GAVE_UP = Kind(
    *("hook-gave-up", "6847d590803744b7aeb55fc528f522fa", ERROR),
    "A hook ran out of time",
    "The transaction went on, and guests may be unprotected: see `holdover status`. The time is\n"
    "hook.budget in holdover.toml.",
)
FAILED = Kind(
    *("hook-failed", "333968e8c19e406b95cc1124cc032119", ERROR),
    "A hook failed",
    "The transaction went on, and guests may be unprotected: see `holdover status` and\n"
    "`holdover doctor`.",
)
VETOED = Kind(
    *("vetoed", "8027ce3b495e48889e33f6b3aefd6766", WARNING),
    "A transaction was stopped",
    "Something that it concerns could not be protected, and hook.veto in holdover.toml asks to\n"
    "stop then. Messages before this one say what.",
)
SPDX = "# SPDX-License-Identifier: Apache-2.0\n"
KINDS = (
    *(PROTECTED, DEFUSED, PRELOADED, NOT_PROTECTED, RELEASED, TAKEN, REMOVED),
    *(GAVE_UP, FAILED, VETOED),
)


def catalogue() -> str:
    """The message catalogue that `journalctl --catalog` shows beside the messages."""
    head = "Defined-By: holdover\nDocumentation: man:holdover(8)"
    return SPDX + "".join(
        f"\n-- {kind.id}\nSubject: {kind.subject}\n{head}\n\n{kind.about}\n" for kind in KINDS
    )


def of_result(result: Result) -> Iterator[Entry]:
    """What was done, and what was not; nothing about those who needed nothing."""
    for snapshot in result.taken:
        yield TAKEN.entry(f"snapshot {snapshot} was taken", snapshot=snapshot)
    for outcome in one_of_each(result.outcomes):
        yield from of_outcome(outcome)
    for problem in result.problems:
        yield NOT_PROTECTED.entry(f"guests that start now are not protected: {problem}")
    for entry in result.unreadable:
        if entry.program:
            text = f"a {entry.program} process is not protected: {entry.reason}"
            fields = {"pid": entry.pid, "program": entry.program, "reason": entry.reason}
            yield NOT_PROTECTED.entry(text, state=State.UNREADABLE, **fields)


def of_outcome(outcome: Outcome) -> Iterator[Entry]:
    name = _label(outcome.process)
    fields = _fields(outcome.process, outcome.state, outcome.reason) | {
        "delivery": outcome.delivery or "",
        "snapshot": outcome.snapshot,
    }
    poisoned = outcome.state is State.POISONED and not outcome.changed
    if outcome.failed or poisoned:
        yield NOT_PROTECTED.entry(f"{name} is not protected: {outcome.reason}", **fields)
    elif outcome.changed and outcome.snapshot:
        defused = outcome.state is State.DEFUSED
        kind, done = (DEFUSED, "defused") if defused else (PROTECTED, "protected")
        yield kind.entry(f"{name} is {done}: {outcome.reason}", **fields)
    elif outcome.changed and outcome.delivery is Delivery.PRELOAD:
        yield PRELOADED.entry(f"{name} was preloaded: {outcome.reason}", **fields)
    elif outcome.changed:
        yield RELEASED.entry(f"{name} was released: {outcome.reason}", **fields)


def of_risks(items: Iterable[Item]) -> Iterator[Entry]:
    """Who is seen to be at risk, or poisoned."""
    groups = together(items, lambda item: item.process)
    for item in (item for group in groups for item in group.kinds(lambda item: item.state)):
        if item.state in BAD_STATES:
            fields = _fields(item.process, item.state, item.reason)
            text = f"{_label(item.process)} is not protected: {item.reason}"
            yield NOT_PROTECTED.entry(text, **fields)


def of_collected(collected: Collected) -> Iterator[Entry]:
    for snapshot in collected.snapshots:
        yield REMOVED.entry(f"snapshot {snapshot} was removed: nobody needs it", snapshot=snapshot)


def of_hook(kind: Kind, hook: str, reason: str, seconds: float) -> Entry:
    """That a hook did not do what it is there for."""
    text = f"hook {hook}: {reason}"
    return kind.entry(text, hook=hook, reason=reason, seconds=f"{seconds:.3f}")


def _fields(process: Process, state: State, reason: str) -> dict[str, object]:
    return {
        "pid": process.id.pid,
        "start_time": process.id.start_time,
        "guest": process.name,
        "program": process.build.program,
        "build_id": process.build.build_id,
        "state": state,
        "reason": reason,
    }


def _label(process: Process) -> str:
    return f"{process.name or process.executable.name} ({process.id.pid})"
