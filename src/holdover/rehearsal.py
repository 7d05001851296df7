# SPDX-License-Identifier: Apache-2.0
"""What late loads in a stand-in have shown, module by module."""

from dataclasses import dataclass
from enum import StrEnum

from holdover.model import Process

__all__ = ["Rehearsal", "ModuleProof", "Proof"]


class Proof(StrEnum):
    """What became of a module in a stand-in."""

    LOADS = "loads"
    FAILS = "fails"
    UNTRIED = "untried"


@dataclass(frozen=True, slots=True)
class ModuleProof:
    name: str
    result: Proof
    reason: str = ""
    """Why it does not load, or why it was not tried; "" if it loads."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What late loads of a view did in a stand-in for a process, module by module."""

    process: Process
    snapshot: str
    modules: tuple[ModuleProof, ...]
    problems: tuple[str, ...] = ()
    """What went wrong with the stand-in itself, and is no module's fault."""

    def count(self, result: Proof) -> int:
        return sum(module.result is result for module in self.modules)

    @property
    def failure(self) -> str:
        """What failed, the first of it in full; "" if nothing did."""
        failed = [f"{m.name} fails: {m.reason}" for m in self.modules if m.result is Proof.FAILS]
        failed += self.problems
        rest = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return f"{failed[0]}{rest}" if failed else ""
