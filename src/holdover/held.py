# SPDX-License-Identifier: Apache-2.0
"""The words for what the store holds, as frozen values."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from holdover.identity import FileId, ProcessId

__all__ = ["HeldFile", "COSTLY", "Purpose", "Snapshot", "Holding", "Lease"]


@dataclass(frozen=True, slots=True)
class HeldFile:
    """A file of a snapshot; `path` is relative to its view."""

    path: str
    origin: str
    size: int
    mtime_ns: int
    sha256: str
    how: str
    """link, reflink, copy, rewritten or rescued: the last three cost bytes."""


COSTLY = ("copy", "rewritten", "rescued")
"""Ways to hold a file that write its bytes."""


class Purpose(StrEnum):
    HOLD = "hold"
    """All that the build could load when it was captured."""
    DEFUSE = "defuse"
    """Decoys only: nothing loads any more, and nothing kills."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the store holds for one build."""

    id: str
    purpose: Purpose
    program: str
    build_id: str
    stamp: str
    version: str
    created: str
    """UTC, ISO 8601."""
    files: tuple[HeldFile, ...]
    decoys: tuple[str, ...]
    """Module names that are refused."""
    unheld: tuple[tuple[str, str], ...] = ()
    """Modules and libraries of it that are not held, each with the reason."""
    library_path: str = ""
    """LD_LIBRARY_PATH of the process it was taken for: others must not get what was found there."""

    @property
    def libraries(self) -> dict[str, HeldFile]:
        """By the names they are asked for."""
        return {f.path.removeprefix("lib/"): f for f in self.files if f.path.startswith("lib/")}

    @property
    def beside(self) -> tuple[str, ...]:
        """What else is held of the module directory, each by its name in there."""
        below = (f.path for f in self.files if not f.path.startswith("lib/"))
        return tuple(path for path in below if "/" in path or not path.endswith(".so"))

    @property
    def bytes_written(self) -> int:
        """The rest are links, or share their blocks."""
        return sum(file.size for file in self.files if file.how in COSTLY)

    @property
    def modules(self) -> frozenset[str]:
        names = (f.path for f in self.files if "/" not in f.path and f.path.endswith(".so"))
        return frozenset(name.removesuffix(".so") for name in names)


@dataclass(frozen=True, slots=True)
class Holding:
    """A snapshot as the store has it now."""

    snapshot: Snapshot
    view: Path
    view_file: FileId | None
    damage: str = ""
    """What is no longer as it was captured; nothing is delivered from a damaged one."""
    rehearsal_failure: str = ""
    """Which of its modules did not load when that was last tried, and why."""


@dataclass(frozen=True, slots=True, order=True)
class Lease:
    """A live process needs a snapshot. A transaction holds some while it runs, undelivered."""

    process: ProcessId
    snapshot: str
    name: str
    delivery: str
    boot: str = ""
    """The boot id; of another boot, the process is dead whoever has its numbers now."""
    namespaces: str = ""
    """In which pid and time namespace `process` is counted: in another one nobody can tell."""
