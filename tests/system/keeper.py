# SPDX-License-Identifier: Apache-2.0
"""`keeper.c` as a process: it keeps the name of its module directory in an exported variable."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from system.native import build
from system.scratch import Scratch

from holdover.programs import Variable
from holdover.steps.deliver import variable as delivery
from holdover.variables import continued, parse_name

__all__ = ["ARRAY", "POINTER", "SIZE", "OWN", "FIRST", "SECOND", "Keeper"]
__all__ += ["make_modules", "started", "unchanged"]

SOURCE = Path(__file__).with_name("keeper.c")
SIZE = 256  # bytes of the array
ANY = re.compile(rb"/[^\x00]+")
ARRAY = Variable("module_dir", pointer=False, size=SIZE, value=ANY)
POINTER = Variable("module_dir", pointer=True, size=8, value=ANY)
OWN, FIRST, SECOND = 1, 2, 3
"""What the module in each directory answers."""


class Keeper(Scratch):
    """The process, and its module directories: its own and two that it can be pointed at."""

    def __init__(self, executable: Path, place: Path, variable: Variable) -> None:
        self._command = [str(executable)]
        self.variable = variable
        self.own, self.first, self.second = (
            place / name for name in ("own", "view/first", "view/second")
        )
        super().__init__()

    def command(self) -> list[str]:
        return self._command

    # -- from inside -------------------------------------------------------------------------------

    def text(self) -> str:
        found = self.ask("get")
        assert isinstance(found, bytes)
        return found.decode()

    def start_with(self, name: object) -> None:
        self.ask(f"set {name}")

    def load(self) -> int:
        found = self.ask("load module")
        assert isinstance(found, int)
        return found

    def start(self, kind: str, threads: int) -> None:
        """Threads that read the name and count what is not one of three."""
        for allowed in (str(self.own), *map(self.led_to, (self.first, self.second))):
            self.ask(f"allow {allowed}")
        self.ask(f"start {kind} {threads}")

    def stop_threads(self) -> tuple[int, int]:
        """How often they read the name, and how often it was none of these."""
        found = self.ask("stop")
        assert isinstance(found, tuple)
        return found

    # -- from outside ------------------------------------------------------------------------------

    def led_to(self, view: Path) -> str:
        name = parse_name(os.fsencode(self.own))
        return os.fsdecode(continued(name, f"/proc/{self.pid}/root{self.own}", view))

    def point_to(self, view: Path) -> None:
        delivery.deliver(self.proc, self.process, self.variable, view)

    def take_back(self) -> None:
        delivery.release(self.proc, self.process, self.variable)


def make_modules(place: Path) -> None:
    """Three directories with a module each, none of them like another."""
    for answer, name in enumerate(("own", "view/first", "view/second"), OWN):
        (place / name).mkdir(parents=True)
        code = f"int answer(void) {{ return {answer}; }}"
        module = place / name / "module.so"
        compiler = ("gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", module)
        subprocess.run(compiler, input=code.encode(), check=True)


@contextmanager
def started(place: Path, variable: Variable, *options: str) -> Iterator[Keeper]:
    executable = build(place, "-rdynamic", *options, source=SOURCE)
    with Keeper(executable, place, variable) as keeper:
        keeper.start_with(keeper.own)
        yield keeper


@contextmanager
def unchanged(keeper: Keeper) -> Iterator[None]:
    before = keeper.writable_memory()
    yield
    assert keeper.writable_memory() == before
