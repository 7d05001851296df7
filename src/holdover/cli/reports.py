# SPDX-License-Identifier: Apache-2.0
"""What hooks tell: to who called them, to the system's log, and to the metrics."""

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from holdover.cli.text import printable
from holdover.cli.together import one_of_each, together
from holdover.config import Config
from holdover.model import Delivery, Item, Outcome, Result, Scan, State

if TYPE_CHECKING:
    from holdover.flow import Holdover
    from holdover.journal import Entry

__all__ = ["Done", "announce", "complain", "report", "tell", "told_of", "publisher"]


@dataclass(frozen=True, slots=True)
class Done:
    """What a hook did."""

    said: str = ""
    result: str = "done"
    """One of `records.RESULTS`."""
    finish: Callable[[], None] | None = None
    """What is left to do once it is recorded how the hook ended."""

    @property
    def complete(self) -> bool:
        """Everybody whom the transaction concerns is protected."""
        return self.result == "done"


def complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(f"holdover: {printable(text)}", file=sys.stderr)


def announce(text: str) -> None:
    """On stdout; what a hook did is done, whether somebody reads it or not."""
    try:
        print(text, flush=True)
    except OSError:
        sys.stdout = None  # else Python tries again at its end, and fails for that


def report(result: Result, config: Config) -> Done:
    """Complain about what was not done, and name whom something was done for.

    A user's own program of that name is told, and does not count: else he could veto upgrades; nor
    does one that is poisoned, for no upgrade makes that any worse.
    """
    from holdover.cli.events import of_result

    wrong, foreign, lost = [*result.problems], list[str](), list[str]()
    for process in result.unreadable:
        if process.program:
            wrong.append(f"a {process.program} process is not protected: {process.reason}")
    for outcome in one_of_each(result.outcomes):
        if outcome.failed:
            text = f"{_name(outcome)} is not protected: {outcome.reason}"
            (foreign if outcome.process.distrusted else wrong).append(text)
        elif outcome.state is State.POISONED:
            lost.append(f"{_name(outcome)} is left alone: {outcome.reason}")
    for problem in (*wrong, *foreign, *lost):
        complain(problem)
    tell(of_result(result), config)
    return Done(told_of(result.outcomes), "incomplete" if wrong else "done")


def told_of(outcomes: Iterable[Outcome]) -> str:
    """Whom something was done for, in a line; or ""."""
    done: dict[str, list[str]] = {}
    changed = (outcome for outcome in outcomes if outcome.changed and not outcome.failed)
    for group in together(changed, lambda outcome: outcome.process):
        what = "preloaded" if group.first.delivery is Delivery.PRELOAD else "protected"
        done.setdefault(what, []).append(_name(group.first))
    return "; ".join(f"{what} {len(who)}: {', '.join(who)}" for what, who in done.items())


def _name(outcome: Outcome) -> str:
    process = outcome.process
    return f"{printable(process.name or process.executable.name)} ({process.id.pid})"


def tell(entries: Iterable["Entry"], config: Config) -> None:
    """Write them to the system's log, if the configuration wants that."""
    from holdover.journal import Journal

    if config.journal_enabled:
        journal = Journal()
        for entry in entries:
            journal.write(entry)


def publisher(
    holdover: "Holdover", config: Config, status: tuple[Scan, tuple[Item, ...]] | None = None
) -> Callable[[], None] | None:
    """What writes the metrics; None if there is no directory for them, or nothing to make them.

    That the client is missing is for `doctor` to say, once, and not for a timer every five minutes.
    """
    try:
        found = config.metrics_directory.is_dir()
    except OSError:  # its owner may have mounted anything there
        found = False
    if not found:
        return None
    from importlib.util import find_spec

    if not find_spec("prometheus_client"):
        return None
    return partial(_publish, holdover, config.metrics_directory, status or holdover.status())


def _publish(holdover: "Holdover", directory: Path, status: tuple[Scan, tuple[Item, ...]]) -> None:
    from holdover.cli.metrics import figures_now, write_metrics

    try:
        write_metrics(figures_now(holdover, *status), directory)
    except Exception as error:  # the client is not ours: no transaction fails for it
        complain(f"no metrics are written: {error}")
