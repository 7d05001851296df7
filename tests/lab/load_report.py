# SPDX-License-Identifier: Apache-2.0
"""What is shown of guests under load: what was done to them, what was lost, what they noticed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from lab.chroot import Lab
from lab.footprint import Footprint
from lab.load import NOTHING, OTHERS, OWN, UPGRADE, Load

__all__ = ["LoadReport"]

_LONG = 0.1  # seconds
_DONE = ("guest", "rounds", "by the real command", "lives", "heartbeats", "missed")
_WORK = ("blocks written", "blocks read back", "files fetched", "errors", "blocks lost")
_GAPS = ("guest", "during", "seconds", "heartbeats", "half", "99.9 %", "longest", "above 100 ms")
_SIZES = ("virtual memory", "resident", "mappings", "descriptors", "threads")
_OURS = ("variables", "mounts")


@dataclass
class LoadReport:
    """`cores` of this machine, its load average before any guest was started, our priority."""

    cores: int
    busy: float
    nice: int
    absent: dict[str, str] = field(default_factory=dict)
    """Accelerators with which no guest works here, and why."""
    _work: list[Sequence[str]] = field(default_factory=list)
    _gaps: list[Sequence[str]] = field(default_factory=list)
    _sizes: list[Sequence[str]] = field(default_factory=list)
    _builds: str = ""

    @property
    def has_guests(self) -> bool:
        """Whether any were added: a run that failed has nothing to show."""
        return bool(self._work)

    def add(self, accelerator: str, lab: Lab, load: Load) -> None:
        """All guests of a run that has ended; each of them lived until it was ended."""
        self._builds = f"QEMU {lab.older}, upgraded to {lab.newer} below them."
        for name, worker in load.workers.items():
            guest, beats = f"{accelerator}, {name}", worker.heart.beats
            lives = "yes" if load.lived[name] else "no"
            work = (worker.done(what) for what in ("wrote", "read", "fetched"))
            row = (
                *(guest, load.rounds[name], load.by_command[name], lives),
                *(len(beats), beats[-1].number - len(beats)),
                *(*work, len(worker.errors), len(worker.lost())),
            )
            self._work.append(tuple(_text(cell) for cell in row))
            self._gaps += [_gaps_row(guest, name, kind, load) for kind in _KINDS]
            self._sizes.append(_sizes_row(guest, name, load))

    def text(self) -> str:
        parts = [
            f"{self._builds} {self.cores} cores; before the run their load average was"
            f" {self.busy:.1f}, and the guests ran with nice {self.nice}.",
            _table((*_DONE, *_WORK), self._work),
            *(f"No guest by {name} here: {problem}." for name, problem in self.absent.items()),
            "Time from one heartbeat to the next, by the guest's clock; 20 ms are intended:",
            _table(_GAPS, self._gaps),
            "The process, before the first round and after the last:",
            _table(("guest", *_SIZES, *_OURS), self._sizes),
        ]
        return "\n\n".join(parts)


_KINDS = (OWN, OTHERS, NOTHING, UPGRADE)


def _gaps_row(guest: str, name: str, kind: str, load: Load) -> Sequence[str]:
    stretch = load.stretches[name, kind]
    gaps = stretch.gaps
    shares = (gaps.quantile(0.5), gaps.quantile(0.999), gaps.longest)
    cells = (f"{stretch.lasted:,.0f}", len(gaps.values), *(f"{s * 1000:.0f} ms" for s in shares))
    return guest, kind, *(_text(cell) for cell in (*cells, gaps.longer_than(_LONG)))


def _sizes_row(guest: str, name: str, load: Load) -> Sequence[str]:
    cells = [_sizes(load.before[name]), _sizes(load.after[name])]
    return guest, *(" → ".join(pair) for pair in zip(*cells, strict=True))


def _sizes(seen: Footprint) -> Sequence[str]:
    memory = (f"{size >> 10:,} MiB" for size in (seen.virtual, seen.resident))
    counts = (seen.mappings, seen.descriptors, seen.threads, seen.variables, seen.mounts)
    return *memory, *(_text(count) for count in counts)


def _text(cell: object) -> str:
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
