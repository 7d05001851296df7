# SPDX-License-Identifier: Apache-2.0
"""Guests with a kernel, a disk and a network, at work while they are adopted and released.

`make load` does it a thousand times, and shows what the guests noticed of it.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab
from lab.image import IMAGE
from lab.load import UPGRADE, Load
from lab.load_report import LoadReport
from lab.longer import LongRun
from lab.servers import DataServers
from lab.system import System, prepare_system
from lab.worker import Worker, accelerator_problem

from holdover.demo.guest import DIED
from holdover.demo.root import ThrowawayRoot

pytestmark = pytest.mark.e2e

USUAL_ROUNDS = 20
GUESTS = {"environment": (), "mount": ("unshare", "--mount")}
LATE = hashlib.sha256(IMAGE).hexdigest()
STOP = 0.5  # seconds
LEAK = 250  # descriptors or mappings; more than QEMU makes by itself in its first minutes


@pytest.fixture(scope="module")
def system(cache: Path, base: Path, scratch: Path) -> System:
    return prepare_system(cache, base, scratch)


@pytest.fixture(scope="module")
def report(long_run: LongRun) -> Iterator[LoadReport]:
    made = LoadReport(os.cpu_count() or 1, os.getloadavg()[0], os.nice(0))
    yield made
    if long_run.asked_for and made.has_guests:
        long_run.show("load", made.text())


@pytest.fixture
def connected(lab: Lab, servers: DataServers) -> ThrowawayRoot:
    """The lab's root, where guests reach the servers."""
    servers.introduce(lab.root)
    return servers.join(lab.root)


@pytest.fixture(params=["tcg", "kvm"])
def accelerator(
    request: pytest.FixtureRequest, connected: ThrowawayRoot, system: System, report: LoadReport
) -> str:
    name: str = request.param
    if name != "tcg" and (problem := accelerator_problem(connected, system, name)):
        report.absent[name] = problem
        pytest.skip(f"{name}: {problem}")
    return name


def test_working_guests_live_through_being_adopted_and_released(
    accelerator: str,
    lab: Lab,
    connected: ThrowawayRoot,
    system: System,
    long_run: LongRun,
    report: LoadReport,
) -> None:
    def start(name: str, wrapper: tuple[str, ...] = ()) -> Worker:
        return Worker.start(connected, name, system, accelerator=accelerator, wrapper=wrapper)

    load = Load(lab, {name: start(name, wrapper) for name, wrapper in GUESTS.items()})
    for worker in load.workers.values():
        worker.await_work()
    load.run(long_run.rounds_or(USUAL_ROUNDS))
    assert not load.failed
    expect_no_growth(load)
    twin = start("twin")
    twin.await_work()
    expect_a_stop_to_be_noticed(twin)
    upgrade_below(load)
    assert twin.plug().startswith("Unknown driver")
    assert twin.guest.probe("https disk") == DIED
    for name, worker in load.workers.items():
        assert worker.plug() == ""
        assert worker.await_late_disk() == LATE, name
        worker.await_work()
    load.note_the_living()
    assert all(load.lived.values()), load.lived
    for name, worker in load.workers.items():
        worker.guest.kill()  # as a power cut: the disk has what it promised, or has lost it
        assert not worker.errors
        assert not worker.lost(), name
    report.add(accelerator, lab, load)


def upgrade_below(load: Load) -> None:
    for name, guest in load.guests.items():
        done = load.lab.holdover("protect", "--delivery", name, str(guest.pid))
        assert done.returncode == 0, done.stderr
    with load.watched({name: UPGRADE for name in load.workers}):
        load.lab.upgrade()
    for name, guest in load.guests.items():
        seen = load.lab.status(guest.pid)
        assert (seen["state"], seen["delivery"]) == ("protected", name)


def expect_no_growth(load: Load) -> None:
    """Each adoption that left a variable, a mount, a mapping or a descriptor would be seen."""
    for name, before in load.before.items():
        after = load.after[name]
        assert (after.variables, after.mounts) == (before.variables, before.mounts)
        assert after.mappings < before.mappings + LEAK
        assert after.descriptors < before.descriptors + LEAK


def expect_a_stop_to_be_noticed(worker: Worker) -> None:
    """Or the gaps that are shown show nothing."""
    mark = worker.heart.mark()
    with worker.stopped():
        worker.guest.root.run("sleep", str(STOP))
    assert worker.heart.since(mark).longest >= STOP
