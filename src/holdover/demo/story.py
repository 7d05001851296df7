# SPDX-License-Identifier: Apache-2.0
"""`holdover demo`: two identical systems, one upgrade, and what guests can still do afterwards.

Everything is real: Debian's packages, apt, QEMU, the hook that `holdover enable` writes. The last
table shows what was seen, and the exit code is 0 only if all of it was as promised.
"""

import statistics
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from holdover.cli.output import print_table, progress
from holdover.demo.archive import QEMU_PACKAGES, default_cache, prepare_base, qemu_builds
from holdover.demo.clock import ClockGuest
from holdover.demo.guest import ATTACHED, DIED, PROBES, Guest
from holdover.demo.root import ThrowawayRoot, install_holdover, sweep

__all__ = ["tell", "Ending"]

_ROUNDS = 7
Trials = dict[str, tuple[str, str]]
"""For each late load what came of the first and of the second attempt."""


@dataclass(frozen=True, slots=True)
class Ending:
    """What was seen, and which promises it broke."""

    upgraded_from: str
    upgraded_to: str
    before: Trials
    after_stock: Trials
    after_held: Trials
    figures: dict[str, str]
    broken_promises: tuple[str, ...]


def tell(cache: Path | None) -> Ending:
    """Tell the story as it happens."""
    cache = cache or default_cache()
    with progress(wanted=True) as report:
        base = prepare_base(cache, report)
    sweep(cache / "runs")
    with ExitStack() as stack:
        story = _Story(
            stock=stack.enter_context(ThrowawayRoot.copy_of(base, cache / "runs")),
            held=stack.enter_context(ThrowawayRoot.copy_of(base, cache / "runs")),
        )
        story.prepare()
        story.start_guests()
        story.upgrade()
        story.attach()
        story.let_go()
        story.show_figures()
        story.show_end()
        return story.ending()


@dataclass
class _Story:
    """Two systems: `stock` is Debian as it is, `held` has holdover as well."""

    stock: ThrowawayRoot
    held: ThrowawayRoot
    before: Trials = field(default_factory=dict)
    after_stock: Trials = field(default_factory=dict)
    after_held: Trials = field(default_factory=dict)
    figures: list[tuple[str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    # -- the five acts ---------------------------------------------------------------------------

    def prepare(self) -> None:
        self.older, self.newer = qemu_builds(self.stock)
        _say(f"Two identical Debian 12 systems with QEMU {self.older}.")
        _say("One is left as it is. The other gets holdover:")
        install_holdover(self.held.root)
        _command(self.held, "holdover", "enable")
        trial = Guest.start(self.stock, "before")
        self.before = {what: trial.probe_twice(what) for what in PROBES}
        trial.kill()
        self._measure_hook()

    def start_guests(self) -> None:
        _say("Guests are started on both. One of them does nothing but watch the clock.")
        self.victims = {what: Guest.start(self.stock, f"stock{n}") for n, what in enumerate(PROBES)}
        self.guest = Guest.start(self.held, "web01")
        self.clock = ClockGuest(self.held, "clock")
        self._measure_gaps()
        _command(self.held, "holdover", "status")

    def upgrade(self) -> None:
        _say(f"apt upgrades QEMU on both to {self.newer}, the guests keep running.")
        wanted = [f"{package}={self.newer}" for package in QEMU_PACKAGES]
        self.stock.apt("install", *wanted)
        started = time.perf_counter()
        done = self.held.apt("install", *wanted)
        took = time.perf_counter() - started
        said = [line for line in done.stdout.splitlines() if line.startswith("holdover:")]
        _quote("apt-get install " + " ".join(wanted), *said)
        self.figures.append(("the real transaction, holdover's hooks included", f"{took:.2f} s"))
        self._expect(bool(said), "the hook protected the guests before the upgrade")
        _command(self.held, "holdover", "status")

    def attach(self) -> None:
        _say("Each kind of disk and device is attached, twice.")
        for what, victim in self.victims.items():
            self.after_stock[what] = victim.probe_twice(what)
        for what in PROBES:
            self.after_held[what] = self.guest.probe_twice(what)
        for what, seen in self.after_stock.items():
            self._expect(ATTACHED not in seen and DIED in seen, f"stock Debian fails: {what}")
        for what, seen in self.after_held.items():
            self._expect(seen == (ATTACHED, ATTACHED), f"with holdover it works: {what}")
        self._expect(self.guest.lives() and self.clock.guest.lives(), "protected guests live")
        _command(self.held, "holdover", "list")

    def let_go(self) -> None:
        _say("The guests end. Nobody needs the old modules any more.")
        self.guest.kill()
        self.clock.guest.kill()
        _command(self.held, "holdover", "gc")
        left = self.held.run("holdover", "list").stdout.strip()
        self._expect(left == "Nothing is held.", "nothing is held when the last guest is gone")

    # -- figures ---------------------------------------------------------------------------------

    def _measure_hook(self) -> None:
        """Whole processes: the shell line that apt runs, Python's start included."""
        others = self._other_packages()
        idle = [self._time_hook(_listing(others, "0", "1")) for _ in range(_ROUNDS)]
        what = f"hook, {len(others)} packages change and none concerns a guest (aim 0.15 s)"
        self.figures.append((what, _spread(idle)))
        first = []
        for _ in range(_ROUNDS):
            guest = Guest.start(self.held, "first")
            first.append(self._time_hook(_listing(QEMU_PACKAGES, self.older, self.newer)))
            state = self.held.run("holdover", "status", str(guest.pid)).stdout
            self._expect("protected" in state, "the hook protects the first guest of a build")
            guest.kill()
            self.held.run("holdover", "hook", "apt", "after")
        self.figures.append(("hook, first guest of a build (aim 1 s)", _spread(first)))

    def _time_hook(self, listing: str) -> float:
        dump = self.held.run("apt-config", "dump", "--format", "%v%n", "DPkg::Pre-Install-Pkgs")
        line = next(text for text in dump.stdout.splitlines() if text.startswith("holdover="))
        started = time.perf_counter()
        self.held.run("sh", "-c", 'sh -c "$1"; true', "apt", line, text=listing)
        return time.perf_counter() - started

    def _other_packages(self) -> list[str]:
        installed = self.held.run("dpkg-query", "-W", "-f", "${Package}\\n").stdout.split()
        return [package for package in installed if not package.startswith("qemu")]

    def _measure_gaps(self) -> None:
        """What the busy guest itself notices: quiet, looked at, and delivered to."""
        pid = str(self.clock.guest.pid)
        rounds = {
            "nothing else runs": ("sleep", "0.3"),
            "holdover only looks": ("holdover", "status", pid),
            "holdover delivers": ("holdover", "protect", pid),
        }
        seen: dict[str, list[float]] = {name: [] for name in rounds}
        for _ in range(_ROUNDS):
            for name, command in rounds.items():
                mark = self.clock.mark()
                self.held.run(*command, check=False)
                seen[name].append(self.clock.since(mark).longest)
            self.held.run("holdover", "release", pid)
        for name, gaps in seen.items():
            text = f"{statistics.median(gaps):.0f} us, at most {max(gaps):.0f} us"
            self.figures.append((f"longest gap a busy guest sees while {name}", text))

    # -- the end ---------------------------------------------------------------------------------

    def show_figures(self) -> None:
        _say("Figures of this run, on this machine:")
        print_table(("WHAT", "MEDIAN AND WORST"), self.figures)

    def show_end(self) -> None:
        print()
        rows = [
            (what, *self.before[what], *self.after_stock[what], *self.after_held[what])
            for what in PROBES
        ]
        columns = (
            "LATE LOAD",
            "BEFORE",
            "AGAIN",
            "AFTER, STOCK",
            "AGAIN",
            "WITH HOLDOVER",
            "AGAIN",
        )
        print_table(columns, rows, title=f"QEMU {self.older} upgraded to {self.newer}")
        print()
        for promise in self.broken:
            print(f"Not as promised: {promise}")
        if not self.broken:
            print("As promised: stock guests die at a late load, guests under holdover do not.")

    def ending(self) -> Ending:
        return Ending(
            upgraded_from=self.older,
            upgraded_to=self.newer,
            before=self.before,
            after_stock=self.after_stock,
            after_held=self.after_held,
            figures=dict(self.figures),
            broken_promises=tuple(self.broken),
        )

    def _expect(self, truth: bool, promise: str) -> None:
        if not truth:
            self.broken.append(promise)


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def _command(root: ThrowawayRoot, *words: str) -> None:
    """Run a command of the story and show it as it would look in a terminal."""
    done = root.run(*words, check=False)
    _quote(" ".join(words), *done.stdout.rstrip().splitlines(), *done.stderr.splitlines())


def _quote(command: str, *output: str) -> None:
    print(f"  # {command}")
    for line in output:
        print(f"  {line}")


def _listing(packages: Iterable[str], old: str, new: str) -> str:
    """What apt tells a hook about an upgrade of these packages."""
    lines = [f"{package} {old} amd64 none < {new} amd64 none /x.deb" for package in packages]
    return "\n".join(["VERSION 3", "", *lines, ""])


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s"
