# SPDX-License-Identifier: Apache-2.0
"""What is answered when somebody asks how a late load would go, or what a change would break."""

from dataclasses import dataclass
from pathlib import Path

from holdover.model import Item

__all__ = ["Step", "Explanation", "Preview"]


@dataclass(frozen=True, slots=True)
class Step:
    """Where the linker finds one library; `why` says through what."""

    name: str
    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a late load of one module would do, and how."""

    name: str
    state: str
    """As in `Prospect`: loaded, loads or blocked."""
    reason: str
    other: bool
    path: Path | None = None
    """The file that is found first; None if there is none."""
    steps: tuple[Step, ...] = ()
    by_name: tuple[tuple[str, str], ...] = ()
    """(library, who opens it by name): it is not held. "" stands for names that are made up."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a pending change of packages would mean for one process."""

    item: Item
    """What would be done for it before the change."""
    breaks: tuple[tuple[str, str], ...]
    """Modules that it could no longer load without that, each with the reason."""
    modules: int = 0
    libraries: int = 0
    """How many would be held for it."""
    bytes_held: int = 0
    """Size of what would be kept on disk once the packages have replaced it."""
    bytes_written: int = 0
    """Size of what would be written now."""
