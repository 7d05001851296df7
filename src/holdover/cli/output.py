# SPDX-License-Identifier: Apache-2.0
"""How things are shown: JSON for programs, aligned tables for people, colour on a terminal only."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from holdover.cli.text import printable
from holdover.looking import Progress
from holdover.model import Process, State

__all__ = ["print_json", "print_table", "process_columns", "progress", "COLOURS", "human_bytes"]

COLOURS = {
    "current": "green",
    "protected": "green",
    "defused": "yellow",
    "at-risk": "red",
    "poisoned": "bold red",
    "unsupported": "magenta",
    "unreadable": "magenta",
    "ok": "green",
    "failed": "red",
    "loads": "green",
    "fails": "red",
    "untried": "yellow",
    "loaded": "green",
    "blocked": "red",
    "works": "green",
    "refused": "yellow",
    "guest died": "bold red",
}
_WIDE = 100_000  # columns; what is not read on a terminal is never wrapped


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Aligned columns; the last one may wrap on a terminal, and nowhere else."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else _WIDE, highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell), style=COLOURS.get(cell, "")) for cell in row))
    if title:
        print(title)
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


@contextmanager
def progress(*, wanted: bool) -> Iterator[Progress]:
    """A line that says what is being done, on a terminal, while it is being done.

    It may have a guest's name in it, which says what its user likes, and must mean nothing to rich.
    """
    if not (wanted and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting") as status:
        yield lambda text: status.update(Text(printable(text)))


def process_columns(process: Process, state: State) -> tuple[str, str, str]:
    """What each table of processes begins with: PID, NAME, STATE."""
    return str(process.id.pid), process.name or process.executable.name, str(state)


def human_bytes(count: int) -> str:
    """Bytes with a binary unit: 0 B, 1.5 MiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")
