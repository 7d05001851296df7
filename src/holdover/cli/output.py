# SPDX-License-Identifier: Apache-2.0
"""How things are shown: JSON for programs, aligned tables for people, colour on a terminal only."""

import json
import sys
import unicodedata
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


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Aligned columns; the last one may wrap on a terminal, and nowhere else."""
    cells = [tuple(map(printable, row)) for row in rows]
    if title:
        print(title)
    if sys.stdout.isatty():
        _print_on_terminal(columns, cells)
        return
    # what nobody reads on a terminal needs no rich, which takes as long as to look at 20 guests
    lines = [tuple(columns), *cells]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        padded = (c + " " * (w - _width(c)) for c, w in zip(line, widths, strict=True))
        print("  ".join(padded).rstrip())


def _width(cell: str) -> int:
    """In columns of a terminal."""
    if cell.isascii():
        return len(cell)
    seen = [character for character in cell if not unicodedata.combining(character)]
    return len(seen) + sum(unicodedata.east_asian_width(character) in "WF" for character in seen)


def _print_on_terminal(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column != columns[-1], overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=COLOURS.get(cell, "")) for cell in row))
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
