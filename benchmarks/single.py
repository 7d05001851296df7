# SPDX-License-Identifier: Apache-2.0
"""One delivery to a busy guest, in several ways: for how long its threads are stopped."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter, sleep

from benchmarks.busy import PROCESSOR, BusyGuest
from benchmarks.measure import Command, Spread, Stopwatch
from benchmarks.threads import counts, grown
from holdover.environ import entry_values, read_environment
from holdover.errors import CommandError
from holdover.memory import Memory
from holdover.procfs import ProcFs
from holdover.steps.deliver import environment

__all__ = ["Way", "Seen", "OURS", "GDB", "VARIABLE", "VIEW", "measure_ways"]

NOTHING = "nothing"
OURS = "holdover, the delivery alone"
COMMAND = "holdover protect, the whole command"
GDB = "gdb, call setenv(...)"
GDB_LIBC = "gdb, only libc's symbols loaded"
VARIABLE, VIEW = "QEMU_MODULE_DIR", Path("/usr/lib/holdover/view/none")
_BY_GDB = "/x"
_REST = 0.3  # seconds
_ATTACH = ("/usr/bin/gdb", "--batch", "-nx", "-iex", "set debuginfod enabled off")
_CALL = f'call (int)setenv("{VARIABLE}", "{_BY_GDB}", 1)'


@dataclass(frozen=True, slots=True)
class Seen:
    """Of one delivery; times in seconds."""

    took: float
    gap: float
    """Longest time between two readings of the clock, inside."""
    unexplained: float
    """In which it stood still, seen from inside, and did not wait for a core."""
    left: int
    """How often the thread that is the guest's processor left its core and could not have gone on:
    it hardly ever has to wait for anything."""
    stopped: float
    """In which any thread of the guest was seen stopped, from outside."""
    looks: int
    apart: float
    """Longest time between two looks from outside: a shorter stop may have been missed."""


@dataclass
class Way:
    name: str
    seen: list[Seen] = field(default_factory=list)

    def values(self, of: str) -> list[float]:
        return [getattr(seen, of) for seen in self.seen]

    def spread(self, of: str) -> Spread:
        return Spread.of(self.values(of))

    def json(self) -> dict[str, object]:
        return {"name": self.name, "deliveries": [asdict(seen) for seen in self.seen]}


def measure_ways(watch: Stopwatch, rounds: int, core: int) -> tuple[Way, ...]:
    """A fresh guest in each round, to which each way delivers once.

    Raises `CommandError` if one did not deliver, or nothing was seen of gdb.
    """
    proc = ProcFs(watch.root.inside / "proc")
    ways = {name: Way(name) for name in (NOTHING, OURS, COMMAND, GDB, GDB_LIBC)}
    for number in range(rounds):
        with BusyGuest.running(watch.root, proc, f"once{number}", core) as guest:
            for name, deliver in _ways(watch, proc, guest).items():
                ways[name].seen.append(_seen(proc, guest, deliver))
                environment.release(proc, guest.process, VARIABLE)
        watch.root.run("holdover", "gc")
    for name in (GDB, GDB_LIBC):
        if not all(seen.stopped and seen.left for seen in ways[name].seen):
            raise CommandError(f"{name}: nobody saw that it stopped the guest")
    return tuple(ways.values())


def _ways(watch: Stopwatch, proc: ProcFs, guest: BusyGuest) -> dict[str, Callable[[], float]]:
    """In this order, for what gdb sets stays; they return seconds."""
    pid = str(guest.process.id.pid)

    def nothing() -> float:
        sleep(_REST)
        return _REST

    def ours() -> float:
        started = perf_counter()
        environment.deliver(proc, guest.process, VARIABLE, VIEW)
        return perf_counter() - started

    def gdb(*symbols: str) -> float:
        took = _run(watch, *_ATTACH, *symbols, "-ex", _CALL, "-ex", "detach")
        _expect(proc, guest, _BY_GDB)
        return took

    libc = ("-iex", "set auto-solib-add off", "-p", pid, "-ex", "sharedlibrary libc\\.so")
    return {
        NOTHING: nothing,
        OURS: ours,
        COMMAND: lambda: _run(watch, "/usr/bin/holdover", "protect", pid),
        GDB: lambda: gdb("-p", pid),
        GDB_LIBC: lambda: gdb(*libc),
    }


def _run(watch: Stopwatch, *words: str) -> float:
    return watch.round({words[0]: Command(words)})[words[0]].seconds


def _expect(proc: ProcFs, guest: BusyGuest, value: str) -> None:
    """gdb ends with 0 whatever becomes of its commands."""
    pid = guest.process.id.pid
    with Memory(proc, pid) as memory:
        _, live = read_environment(proc, pid, memory)
        values = entry_values(memory, live, VARIABLE)
    if value.encode() not in values[:1]:
        raise CommandError(f"{VARIABLE} did not arrive: {values}")


def _seen(proc: ProcFs, guest: BusyGuest, deliver: Callable[[], float]) -> Seen:
    """What is seen of one delivery, from outside and inside."""
    looker = Path(__file__).with_name("halts.py")
    pid = guest.process.id.pid
    words = (sys.executable, "-I", str(looker), str(proc.path(pid, "task")))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            if not process.stdout.readline():
                raise CommandError("the guest cannot be looked at")
            before, mark = counts(proc, pid), guest.mark()
            took = deliver()
            gaps = guest.since(mark)
            left = grown(before, counts(proc, pid))[PROCESSOR].left
        finally:
            process.terminate()
        told = process.stdout.read()
    if not told:
        raise CommandError("whoever looked at the guest from outside ended early")
    return Seen(took, gaps.longest, gaps.unexplained, left, **json.loads(told))
