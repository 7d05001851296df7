# SPDX-License-Identifier: Apache-2.0
"""Guests that no other delivery reaches: they load before the upgrade, if that is wanted."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import qemu.qmp
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

NO_ROOM = ("sh", "-c", 'for i in $(seq 5000); do export V$i=x; done; exec "$@"', "sh")
"""Starts a guest whose environment fills the place where another one would go."""
PRELOAD = ("-o", "deliveries=environment,mount,preload")
SETTINGS = 'deliveries = ["environment", "mount", "preload"]\n'
BY_CHARDEV = (
    *("-chardev", "socket,path=/srv/a,,b,id=other,server=on,wait=off"),
    *("-mon", "mode=control,chardev=other"),
)


@dataclass
class Preloaded:
    lab: Lab
    guests: dict[str, Guest]
    twin: Guest
    said: str
    nodes: object
    """What the first guest answers to query-named-block-nodes after it was preloaded."""


@pytest.fixture(scope="module")
def preloaded(base: Path, scratch: Path) -> Iterator[Preloaded]:
    """Upgraded with hooks; the twin started too late to be asked, and could not be helped."""
    with Lab.with_holdover(base, scratch) as lab:
        package = Path(qemu.qmp.__path__[0])
        shutil.copytree(package, lab.path("/usr/lib/python3/dist-packages/qemu/qmp"))
        lab.root.run("holdover", "enable")
        twin = Guest.start(lab.root, "twin", wrapper=NO_ROOM)
        off = lab.holdover("protect").stdout
        assert "no room for a new environment" in off
        settings = lab.path("/etc/holdover/holdover.toml")
        settings.parent.mkdir()
        settings.write_text(SETTINGS)
        twin_sees_no_monitor(lab, twin)
        guests = {name: Guest.start(lab.root, name, wrapper=NO_ROOM) for name in ("one", "two")}
        said = lab.upgrade().stdout
        yield Preloaded(lab, guests, twin, said, guests["one"].qmp("query-named-block-nodes"))


def twin_sees_no_monitor(lab: Lab, twin: Guest) -> None:
    """Its socket is gone for others, so that the hook cannot reach it."""
    lab.path(f"/tmp/{twin.name}.sock").rename(lab.path(f"/tmp/{twin.name}.hidden"))


def test_guests_are_preloaded_by_the_hook(preloaded: Preloaded) -> None:
    assert "holdover: preloaded 2: one (" in preloaded.said
    assert preloaded.nodes == {"return": []}
    assert preloaded.lab.held() == [] or all(not held["leases"] for held in preloaded.lab.held())


@pytest.mark.parametrize("name", ["one", "two"])
def test_preloaded_guest_loads_everything_twice(preloaded: Preloaded, name: str) -> None:
    guest = preloaded.guests[name]
    status = preloaded.lab.status(guest.pid)
    assert (status["state"], status["delivery"]) == ("at-risk", None)  # for what is not loaded
    seen = {what: guest.probe_twice(what) for what in PROBES}
    assert seen == dict.fromkeys(PROBES, (ATTACHED, ATTACHED)), guest.log
    assert guest.lives()


def test_nothing_is_sent_after_the_upgrade(preloaded: Preloaded) -> None:
    """It would kill the twin, whose monitor can be reached again."""
    twin = preloaded.twin
    preloaded.lab.path("/tmp/twin.hidden").rename(preloaded.lab.path("/tmp/twin.sock"))
    before = loaded(preloaded.lab, twin)
    done = preloaded.lab.holdover("protect", *PRELOAD, str(twin.pid))
    assert (done.returncode, "its modules were replaced before" in done.stdout) == (1, True)
    assert (loaded(preloaded.lab, twin), twin.log) == (before, "")
    assert (twin.probe("https disk"), twin.probe("https disk")) == (REFUSED, DIED)


def loaded(lab: Lab, guest: Guest) -> set[str]:
    modules = lab.status(guest.pid)["modules"]
    return {module["name"] for module in modules if module["state"] == "loaded"}


# -- whom it asks, and how -------------------------------------------------------------------------


def test_guest_is_asked_through_a_socket_that_its_command_line_names(preloaded: Preloaded) -> None:
    lab = preloaded.lab
    guest = Guest.start(lab.root, "newer", extra=BY_CHARDEV, wrapper=NO_ROOM)
    lab.path("/tmp/newer.sock").unlink()
    dry = lab.holdover("protect", *PRELOAD, "--dry-run", str(guest.pid)).stdout
    assert "made to load its modules by preload" in dry
    assert "block-curl" not in loaded(lab, guest)
    (done,) = lab.json("protect", *PRELOAD, str(guest.pid))["processes"]
    assert (done["delivery"], done["changed"], done["failed"]) == ("preload", True, False)
    assert {"block-curl", "block-rbd", "hw-usb-redirect"} <= loaded(lab, guest)
    (again,) = lab.json("protect", *PRELOAD, str(guest.pid))["processes"]
    assert (again["changed"], again["failed"]) == (False, False)
    guest.kill()


def test_guest_that_names_no_socket_that_is_there_is_left_alone(preloaded: Preloaded) -> None:
    lab = preloaded.lab
    guest = Guest.start(lab.root, "silent", wrapper=NO_ROOM)
    lab.path("/tmp/silent.sock").unlink()
    done = lab.holdover("protect", *PRELOAD, str(guest.pid))
    assert (done.returncode, "its monitor cannot be reached: No such" in done.stdout) == (1, True)
    guest.kill()


def test_monitor_that_another_process_serves_is_not_spoken_to(preloaded: Preloaded) -> None:
    lab = preloaded.lab
    victim = Guest.start(lab.root, "victim")
    guest = Guest.start(lab.root, "liar", wrapper=NO_ROOM)
    lab.path("/tmp/liar.sock").unlink()
    lab.path("/tmp/liar.sock").symlink_to("victim.sock")
    done = lab.holdover("protect", *PRELOAD, str(guest.pid))
    assert f"its monitor is served by process {victim.pid}, not by itself" in done.stdout
    assert loaded(lab, victim) == loaded(lab, guest)
    for each in (victim, guest):
        each.kill()


def test_monitor_that_is_busy_is_given_up(preloaded: Preloaded) -> None:
    """It serves one client; the guest is left as it is."""
    lab = preloaded.lab
    guest = Guest.start(lab.root, "busy", wrapper=NO_ROOM)
    client = "import signal, socket; s = socket.socket(1); s.connect('/tmp/busy.sock'); s.recv(9)"
    keep = (
        f"python3 -c \"{client}; open('/tmp/on', 'w'); signal.pause()\" >/dev/null 2>&1 & echo $!"
    )
    pid = lab.root.run("sh", "-c", keep).stdout.strip()
    lab.root.run("sh", "-c", "while ! test -e /tmp/on; do sleep 0.05; done")
    done = lab.holdover("protect", *PRELOAD, str(guest.pid))
    assert "its monitor does not answer within 10 s" in done.stdout
    lab.root.run("sh", "-c", f"kill {pid}")
    assert lab.holdover("protect", *PRELOAD, str(guest.pid)).returncode == 0
    guest.kill()
