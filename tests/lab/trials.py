# SPDX-License-Identifier: Apache-2.0
"""A host on which holdover fails at a chosen moment, and what has to be true there afterwards.

The packages are the archive's; between trials the files of the one or the other build are put in
place as dpkg does it, by renames. Transactions are real ones of dpkg, of a package that nobody
needs.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import ClassVar

from holdover.demo.guest import ATTACHED, Guest
from holdover.demo.root import install_holdover
from lab import injected
from lab.chroot import Lab
from lab.faults import STORE, Fault, Scene, Step

__all__ = ["Host", "Trial", "SCENES", "carry_out"]

_COMMAND = """\
#!/bin/sh
if test -e /srv/clock; then
    export LD_PRELOAD=/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1 FAKETIME_NO_CACHE=1
    export FAKETIME_TIMESTAMP_FILE=/srv/clock DONT_FAKE_MONOTONIC=1
fi
exec python3 -I /srv/command.py "$@"
"""
_MAIN = """\
import sys
sys.path.insert(0, "/srv")
import injected
injected.arm()
from holdover.cli.main import main
sys.exit(main())
"""
_UNPACK = """
set -e
mkdir -p /srv/packages && ln -f /var/cache/apt/archives/*.deb /srv/packages
for deb in /srv/packages/qemu-*_"$(echo "$2" | sed s/:/%3a/)"_*.deb; do
    dpkg-deb --extract "$deb" "/srv/$1"
done
"""
_TURN = """
import os, sys
source = sys.argv[1]
for part in ("usr/bin", "usr/lib"):
    for directory, _, names in os.walk(f"{source}/{part}"):
        for name in names:
            new = f"{directory.removeprefix(source)}/{name}"
            os.link(f"{directory}/{name}", f"{new}.dpkg-new", follow_symlinks=False)
            os.rename(f"{new}.dpkg-new", new)  # does nothing if it is the same file
            if os.path.lexists(f"{new}.dpkg-new"):
                os.unlink(f"{new}.dpkg-new")
"""
_SMALL = "mkdir -p {0} && mount -t tmpfs -o mode=755,size=400m,nr_inodes=20k tmpfs {0}"
_FAULTY = (
    "mkdir -p /srv/disk{0} {0} && python3 /srv/faulty.py /srv/disk{0} {0} /srv/broken "
    ">>/tmp/faulty.log 2>&1 </dev/null & until mountpoint -q {0}; do sleep 0.01; done"
)
_HEAL = "rm -f /srv/broken /srv/plan.json /srv/clock; ln -f /srv/packages/* /var/cache/apt/archives"
_HEAL_SMALL = "mount -o remount,rw,nr_inodes=20k {0} && rm -f {0}/.filler"
_ENDED = (-9, -15, 128 + 9, 128 + 15, 130)
_TRANSACTION = "dpkg -i /var/cache/apt/archives/media-types_*.deb"


@dataclass
class Host:
    lab: Lab
    _started: int = field(default=0, init=False)

    @classmethod
    def prepare(cls, lab: Lab) -> "Host":
        root = lab.root
        install_holdover(root.root, script=_COMMAND)
        for name in ("injected", "faulty"):
            lab.path(f"/srv/{name}.py").write_text(
                (Path(__file__).parent / f"{name}.py").read_text()
            )
        lab.path("/srv/command.py").write_text(_MAIN)
        root.apt("install", "python3-fusepy", "libfaketime")
        for name, version in (("older", lab.older), ("newer", lab.newer)):
            root.run("sh", "-c", _UNPACK, "sh", name, version)
        lab.upgrade()
        root.run("holdover", "enable")
        return cls(lab)

    def sh(self, script: str) -> str:
        return self.lab.root.run("sh", "-c", script).stdout

    def turn_to(self, build: str) -> None:
        self.lab.root.run("python3", "-c", _TURN, f"/srv/{build}")

    def start(self, *wrapper: str) -> Guest:
        self._started += 1
        return Guest.start(self.lab.root, f"guest{self._started}", wrapper=wrapper)

    @contextmanager
    def disks(self, kind: str) -> Iterator[None]:
        """The store on file systems of its own."""
        make = {"small": _SMALL, "faulty": _FAULTY}.get(kind, "true")
        for directory in STORE:
            self.sh(make.format(directory))
        try:
            yield
        finally:
            for directory in STORE if kind else ():
                self.sh(f"umount --lazy {directory}; rm -rf /srv/disk")

    def heal(self, disk: str) -> None:
        self.sh(_HEAL)
        for directory in STORE if disk == "small" else ():
            self.sh(_HEAL_SMALL.format(directory))

    def plan(self, only: str, **moment: object) -> None:
        """What is going to happen in the next holdover that has `only` among its words."""
        for left in (injected.HIT, injected.SITES):
            self.lab.path(left).unlink(missing_ok=True)
        self.lab.path(injected.PLAN).write_text(json.dumps({"only": only, **moment}))

    def has_happened(self) -> bool:
        return self.lab.path(injected.HIT).exists()

    def places(self) -> set[str]:
        """Where something was changed since `plan`, if nothing else was planned."""
        file = self.lab.path(injected.SITES)
        return set(file.read_text().splitlines()) if file.exists() else set()

    def assert_store_is_sound(self) -> None:
        """No leftovers, nothing damaged that anybody needs, no lease but of the living."""
        lab = self.lab
        done = lab.holdover("gc")
        assert done.returncode == 0, done
        held = {snapshot["id"]: snapshot for snapshot in lab.held()}
        for snapshot in held:  # a damaged one may lie below another in a stack of mounts
            sound = lab.holdover("show", snapshot).returncode == 0
            assert sound or not held[snapshot]["leases"], snapshot
        objects, state, run = map(lab.path, STORE)
        assert {path.name for path in (objects / "view").iterdir()} == held.keys()
        assert {path.stem for path in (state / "snapshot").iterdir()} == held.keys()
        assert [*(objects / "staging").iterdir(), *(objects / "rescue").iterdir()] == []
        leases = {path.name for path in (run / "lease").iterdir()}
        told = [(f"{e['pid']}-{e['start_time']}", s) for s in held for e in held[s]["leases"]]
        assert leases == {f"{process}-{snapshot}" for process, snapshot in told}
        for directory in (state, run):
            assert [path for path in directory.rglob(".*") if path.name.endswith(".new")] == []

    def assert_nothing_is_held(self) -> None:
        self.assert_store_is_sound()
        assert self.lab.held() == []
        assert list(self.lab.path(STORE[0]).glob("run/*")) == []


@dataclass
class Trial:
    """One scene: two guests of a build, or three, and what holdover does for them."""

    host: Host
    guests: list[Guest] = field(default_factory=list)
    """The first is the one that `guest gone` means."""

    only: ClassVar[str] = "before"
    wrapper: ClassVar[tuple[str, ...]] = ()

    def set_up(self) -> None:
        self.host.turn_to("older")
        self.guests = [self.host.start(*self.wrapper) for _ in range(2)]

    def act(self) -> CompletedProcess[str]:
        """What is going to fail; a transaction ends well all the same."""
        done = self.host.lab.run("sh", "-c", _TRANSACTION)
        assert done.returncode == 0, done
        return done

    def finish(self) -> None:
        """The second run."""
        self.host.turn_to("older")  # for what was lost
        done = self.host.lab.holdover("protect")
        assert done.returncode == 0, done.stdout + done.stderr

    def assert_guests_load(self) -> None:
        """After their files were replaced."""
        self.host.turn_to("newer")
        for guest in self.alive():
            state = self.host.lab.status(guest.pid)
            assert state["state"] == "protected", state
            assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED), guest.log

    def alive(self) -> list[Guest]:
        return [guest for guest in self.guests if guest.lives()]

    def end(self) -> None:
        for guest in self.alive():
            guest.kill()

    def is_done(self) -> bool:
        """What was to be done is done, whatever was in the way."""
        states = [self.host.lab.status(guest.pid)["state"] for guest in self.alive()]
        return set(states) == {"protected"}


class _Mount(Trial):
    wrapper = ("unshare", "--mount")

    def act(self) -> CompletedProcess[str]:
        with self._mounts_only():
            return super().act()

    def finish(self) -> None:
        with self._mounts_only():
            super().finish()

    @contextmanager
    def _mounts_only(self) -> Iterator[None]:
        file = self.host.lab.path("/etc/holdover/holdover.toml")
        file.parent.mkdir(exist_ok=True)
        file.write_text('deliveries = ["mount"]\n')
        try:
            yield
        finally:
            file.unlink()


class _Release(Trial):
    only = "release"

    def set_up(self) -> None:
        super().set_up()
        assert self.host.lab.holdover("protect").returncode == 0

    def act(self) -> CompletedProcess[str]:
        return self.host.lab.holdover("release", str(self.guests[0].pid))

    def is_done(self) -> bool:
        return all(self.host.lab.status(g.pid)["state"] == "current" for g in self.alive()[:1])

    def finish(self) -> None:
        """It is released; then protected again."""
        self.host.turn_to("older")
        for guest in self.alive()[:1]:
            done = self.host.lab.holdover("release", "--force", str(guest.pid))
            assert done.returncode == 0, done.stderr
            assert self.host.lab.status(guest.pid)["state"] == "current"
        super().finish()


class _Collect(Trial):
    """A guest of the older build has gone; two of the newer one live."""

    only = "after"

    def set_up(self) -> None:
        self.host.turn_to("older")
        gone = self.host.start()
        self.host.lab.root.run("sh", "-c", _TRANSACTION)
        self.host.turn_to("newer")
        self.guests = [self.host.start() for _ in range(2)]
        assert self.host.lab.holdover("protect").returncode == 0
        gone.kill()

    def is_done(self) -> bool:
        held = self.host.lab.held()
        users = {lease["pid"] for snapshot in held for lease in snapshot["leases"]}
        needed = all(snapshot["leases"] for snapshot in held)
        return needed and users == {guest.pid for guest in self.alive()}

    def finish(self) -> None:
        self.host.turn_to("newer")
        assert self.host.lab.holdover("protect").returncode == 0
        assert self.host.lab.holdover("gc").returncode == 0
        assert self.is_done()

    def assert_guests_load(self) -> None:
        self.host.turn_to("older")
        for guest in self.alive():
            assert guest.probe_twice("https disk") == (ATTACHED, ATTACHED), guest.log


class _Rescue(Trial):
    only = "rescue"

    def set_up(self) -> None:
        super().set_up()
        self.host.turn_to("newer")

    def act(self) -> CompletedProcess[str]:
        done = self.host.lab.holdover("rescue", "--all")
        super().act()
        return done

    def finish(self) -> None:
        done = self.host.lab.holdover("rescue", "--all")
        assert done.returncode == 0, done.stdout + done.stderr


SCENES: dict[Scene, Callable[[Host], Trial]] = {
    "protect": Trial,
    "mount": _Mount,
    "release": _Release,
    "collect": _Collect,
    "rescue": _Rescue,
}


def carry_out(host: Host, step: Step, fault: Fault) -> str:
    """One cell of the table: what holdover did, in a word. All that has to be true is asserted."""
    trial = SCENES[step.scene](host)
    with host.disks(fault.disk):
        try:
            trial.set_up()
            command = fault.command.format(guest=trial.guests[0].pid, file=step.vanishes)
            host.plan(trial.only, site=step.site, nth=step.nth, fault=fault.kind, command=command)
            said = trial.act()
            assert host.has_happened(), said.stdout + said.stderr
            expected = trial.guests[1:] if fault.name == "guest gone" else trial.guests
            assert all(guest.qmp("query-status")["return"] for guest in expected)
            host.heal(fault.disk)
            word = _word(trial, said)
            trial.finish()
            host.assert_store_is_sound()
            trial.assert_guests_load()
            assert trial.alive() == expected
        finally:
            host.heal(fault.disk)
            trial.end()
        host.assert_nothing_is_held()
    return word


def _word(trial: Trial, said: CompletedProcess[str]) -> str:
    if "did not run" in said.stderr or said.returncode in _ENDED:
        return "ended"
    if trial.is_done():
        return "done"
    assert "`holdover status` shows" in said.stderr or said.returncode, said
    return "told"
