# SPDX-License-Identifier: Apache-2.0
"""QEMU is upgraded and downgraded again and again under living guests, and nothing adds up.

Guests of every kind live throughout; others are started on each build, and end. Upgrades are made
by apt, downgrades by dpkg alone: both kinds of hooks are at work. `make endurance` does 200 rounds.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from lab import Lab
from lab.counts import count, leftovers
from lab.longer import LongRun

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

USUAL_ROUNDS = 3
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
RUN = ("holdover", "run", "--")
STEADY = {
    "throughout": ((), "environment"),
    "private": (("unshare", "--mount"), "mount"),
    "by-run": (RUN, "run"),
    "unprivileged": (NOBODY, "environment"),
    "twin": ((), "environment"),
}
"""Who lives throughout: how it is started, and how it is protected."""
HOOKS = ("apt-before", "apt-after", "dpkg-before", "dpkg-after", "timer-run")


@dataclass
class Endurance:
    """One lab, its guests, and what was seen."""

    lab: Lab
    steady: dict[str, Guest] = field(default_factory=dict)
    passing: dict[str, Guest] = field(default_factory=dict)
    """Guests that live for a round or two."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """What each hook took."""
    transactions: int = 0
    deliveries: int = 0
    started: int = 0
    ended: int = 0

    def begin(self) -> None:
        self.lab.root.run("holdover", "enable")
        for name, (wrapper, _) in STEADY.items():
            self.steady[name] = self._start(name, wrapper)
        self.passing["old-0"] = self._start("old-0")
        self._protect_by_mount()

    def upgrade(self) -> None:
        done = self.lab.upgrade()
        self._look(done.stdout, done.stderr, "apt")

    def downgrade(self) -> None:
        done = self.lab.install_by_dpkg(self.lab.older)
        self._look(done.stdout, done.stderr, "dpkg")

    def go_round(self, number: int) -> dict[str, int]:
        """Returns what is counted when it is over; all rounds end alike."""
        if number > 1:
            self._deliver_again()
        self.passing[f"old-{number}"] = self._start(f"old-{number}")
        self.upgrade()
        new = f"new-{number}"
        self.passing[new] = self._start(new, RUN if number % 2 else ())
        self.downgrade()
        self._end(new)
        self._release(f"old-{number - 1}", self.passing)  # its build is there: it may go
        self._end(f"old-{number - 1}")
        self._take_time(self.lab.root.run("holdover", "hook", "timer").stdout, ("timer-run",))
        return count(self.lab, self.steady.values())

    def _start(self, name: str, wrapper: tuple[str, ...] = ()) -> Guest:
        self.started += 1
        return Guest.start(self.lab.root, name, wrapper=wrapper)

    def _end(self, name: str) -> None:
        """It loads what it can until then: by now the other build came, or came and went."""
        guest = self.passing.pop(name)
        assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}, name
        self.kill(guest)

    def kill(self, guest: Guest) -> None:
        guest.kill()
        self.ended += 1
        for left in self.lab.path("/tmp").glob(f"{guest.name}.*"):
            left.unlink()

    def _deliver_again(self) -> None:
        """As often as there are rounds: bytes in the process and mounts are given back each time.

        The next hook protects who is released; it would not choose a mount.
        """
        for name in ("throughout", "unprivileged", "private"):
            self._release(name, self.steady)
        self._protect_by_mount()

    def _protect_by_mount(self) -> None:
        pid = str(self.steady["private"].pid)
        self.lab.root.run("holdover", "protect", "--delivery", "mount", pid)
        self.deliveries += 1

    def _release(self, name: str, guests: dict[str, Guest]) -> None:
        self.lab.root.run("holdover", "release", str(guests[name].pid))

    def _look(self, said: str, complaints: str, manager: str) -> None:
        """After a transaction: nothing went wrong, and everybody is served."""
        self.transactions += 1
        assert "holdover" not in complaints
        self._take_time(said, (f"{manager}-before", f"{manager}-after"))
        seen = {p["pid"]: p for p in self.lab.json("status")["processes"]}
        for name, guest in (self.steady | self.passing).items():
            assert seen[guest.pid]["state"] == "protected", name
            if name in STEADY:
                assert seen[guest.pid]["delivery"] == STEADY[name][1], name
        assert len(seen) == len(self.steady) + len(self.passing)

    def _take_time(self, said: str, hooks: tuple[str, ...]) -> None:
        self.deliveries += sum(map(int, re.findall(r"holdover: protected ([0-9]+): ", said)))
        for hook in hooks:
            took, came_to, _ = self.lab.path(f"/run/holdover/hooks/{hook}").read_text().split()
            assert came_to == "done", hook
            self.seconds[hook].append(float(took))

    def table(self, rounds: int, first: dict[str, int], last: dict[str, int]) -> str:
        living = self.started - self.ended
        transactions = f"{rounds} rounds, {self.transactions} transactions"
        deliveries = f"{self.deliveries} deliveries"
        guests = f"{self.started} guests started, {self.ended} ended, {living} lived throughout"
        return f"{transactions}, {deliveries}; {guests}.\n\n" + "\n".join(self._rows(first, last))

    def _rows(self, first: dict[str, int], last: dict[str, int]) -> Iterator[str]:
        yield "| hook | runs | shortest | median | longest |"
        yield "|---|---|---|---|---|"
        for hook, took in self.seconds.items():
            figures = (f"{f(took):.2f} s" for f in (min, statistics.median, max))
            yield f"| {hook} | {len(took)} | {' | '.join(figures)} |"
        yield ""
        yield "| counted at the end of a round | first | last |"
        yield "|---|---|---|"
        for what, number in first.items():
            yield f"| {what} | {number:,} | {last[what]:,} |"


def test_nothing_adds_up_however_often_the_build_changes(lab: Lab, long_run: LongRun) -> None:
    rounds = long_run.rounds_or(USUAL_ROUNDS)
    endurance = Endurance(lab)
    endurance.begin()
    first = endurance.go_round(1)
    last = first
    for number in range(2, rounds + 1):
        last = endurance.go_round(number)
        assert last == first, f"after round {number}"
        if number % 10 == 0:
            print(f"round {number}", flush=True)
    endurance.upgrade()
    check_guests_of_the_old_build(endurance)
    long_run.show("endurance", endurance.table(rounds, first, last))
    for guest in (*endurance.steady.values(), *endurance.passing.values()):
        endurance.kill(guest)
    lab.root.run("holdover", "hook", "timer")
    assert leftovers(lab) == {}


def check_guests_of_the_old_build(endurance: Endurance) -> None:
    """All that were delivered to load everything; the one that is let go dies."""
    lab, twin = endurance.lab, endurance.steady["twin"]
    assert lab.holdover("release", "--force", str(twin.pid)).returncode == 0
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)
    for name in STEADY.keys() - {"twin"}:
        guest = endurance.steady[name]
        assert {guest.probe_twice(what) for what in PROBES} == {(ATTACHED, ATTACHED)}, name
