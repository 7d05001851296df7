# SPDX-License-Identifier: Apache-2.0
"""A page that leads through something, followed word for word.

Its commands are the lines of a block that begin with "# "; what a block shows below one is what it
says. Numbers are of the day when it was written, and "…" stands for what was left out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from lab.bases import LabError

__all__ = ["Step", "answers", "definition", "is_shown", "script", "steps"]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NUMBER = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")
_END = "-- end of step --"


@dataclass(frozen=True)
class Step:
    command: str
    shown: tuple[str, ...]


def definition(page: Path, name: str) -> str:
    """The program definition of that name on the page."""
    for kind, text in _BLOCK.findall(page.read_text()):
        if kind == "toml" and f'\nname = "{name}"\n' in text:
            return str(text)
    raise LabError(f"{page} has no definition of {name}")


def steps(page: Path, heading: str) -> list[Step]:
    """What is to be done below a heading."""
    text = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found: list[Step] = []
    for kind, block in _BLOCK.findall(text):
        for line in block.splitlines() if not kind else ():
            if line.startswith("# "):
                found.append(Step(line[2:], ()))
            elif found and line.strip():
                found[-1] = Step(found[-1].command, (*found[-1].shown, line))
    if not found:
        raise LabError(f"{page} has nothing to do below {heading!r}")
    return found


def script(wanted: list[Step]) -> str:
    """For one shell, as the reader has one."""
    return "\n".join(f"{step.command}\necho\necho '{_END}'" for step in wanted)


def answers(said: str) -> list[str]:
    """What each step of a script said."""
    return said.split(f"\n{_END}\n")


def is_shown(line: str, said: str) -> bool:
    """Whether a line of the page is one of those that the command said, its numbers aside."""
    parts = [re.escape(_plain(part)) for part in line.split("…")]
    pattern = re.compile(".*".join(parts))
    return any(pattern.fullmatch(_plain(there)) for there in said.splitlines())


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line).split())
