# SPDX-License-Identifier: Apache-2.0
"""Runs that are longer than the usual one, whose figures a page shows."""

import fcntl
from dataclasses import dataclass
from pathlib import Path

__all__ = ["LongRun"]


@dataclass(frozen=True)
class LongRun:
    """What was asked for with `--rounds` and `--report`."""

    rounds: int | None
    page: Path | None

    @property
    def asked_for(self) -> bool:
        return self.rounds is not None

    def rounds_or(self, usual: int) -> int:
        return usual if self.rounds is None else self.rounds

    def show(self, name: str, text: str) -> None:
        """Print figures, and put them between the marks of that name on the page, if there is one.

        Raises `ValueError` if the page has no such marks.
        """
        print(text)
        if self.page is None:
            return
        with self.page.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # tests run side by side
            page = _replace_block(file.read(), name, text)
            file.seek(0)
            file.write(page)
            file.truncate()


def _replace_block(page: str, name: str, text: str) -> str:
    begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    if end not in rest:
        raise ValueError(f"the page has no marks for {name}")
    return f"{before}{begin}{text.strip()}\n{end}{after}"
