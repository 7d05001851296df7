# SPDX-License-Identifier: Apache-2.0
"""What tests met, and what came of it: a table of what a run has seen."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Outcome", "Outcomes", "Record"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One line: what a delivery met, what came of it, what is said, and which test saw it."""

    met: str
    outcome: str
    said: str
    test: str


Record = Callable[[str, str, str], None]
"""Called with what was met, the outcome, and what is said; "" for a success."""


@dataclass
class Outcomes:
    """In the order in which they were seen, each once; a process is any process."""

    seen: dict[Outcome, None] = field(default_factory=dict)

    def recorder(self, test: str) -> Record:
        def record(met: str, outcome: str, said: str) -> None:
            everywhere = re.sub(r"\bprocess \d+", "process PID", said)
            self.seen[Outcome(met, outcome, everywhere, test)] = None

        return record

    def table(self) -> str:
        lines = [
            f"| {line.met} | {line.outcome} | {line.said or '-'} | `{line.test}` |"
            for line in self.seen
        ]
        head = ["| what it met | outcome | what is said | test |", "|---|---|---|---|"]
        return "\n".join([*head, *lines])
