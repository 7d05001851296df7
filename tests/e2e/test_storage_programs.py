# SPDX-License-Identifier: Apache-2.0
"""QEMU's other programs that load modules late: its storage daemon, and qemu-nbd."""

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

DISKS = tuple(name for name, probe in PROBES.items() if probe.command == "blockdev-add")
DAEMON = (
    "qemu-storage-daemon --chardev socket,id=m,path=/tmp/{0}.sock,server=on,wait=off --monitor m"
    " --blockdev null-co,node-name=disk --nbd-server addr.type=unix,addr.path=/tmp/{0}.nbd"
    " --export type=nbd,node-name=disk,id={0}-export --pidfile /tmp/{0}.pid"
)
NBD = (
    "qemu-nbd --persistent --socket=/tmp/{0}.sock --pid-file=/tmp/{0}.pid"
    " -x {0}-export -f raw /tmp/raw"
)


def start(lab: Lab, name: str, command: str) -> Guest:
    """A program that writes its number when it listens; what is probed is probed as in a guest."""
    lab.root.run("sh", "-c", f"{command.format(name)} >/tmp/{name}.log 2>&1 </dev/null &")
    deadline = time.monotonic() + 30
    while not _listens(lab.path(f"/tmp/{name}.sock")) or not lab.path(f"/tmp/{name}.pid").exists():
        assert time.monotonic() < deadline, lab.path(f"/tmp/{name}.log").read_text()
        time.sleep(0.02)
    return Guest(lab.root, name, int(lab.path(f"/tmp/{name}.pid").read_text()))


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@dataclass(frozen=True)
class Host:
    """QEMU was upgraded; of each program one was protected before, and one was not."""

    lab: Lab
    daemon: Guest
    nbd: Guest
    bare_daemon: Guest
    bare_nbd: Guest


@pytest.fixture(scope="module")
def host(base: Path, scratch: Path) -> Iterator[Host]:
    with Lab.with_holdover(base, scratch) as lab:
        lab.root.apt("install", f"qemu-utils={lab.older}")
        lab.root.run("truncate", "--size=1M", "/tmp/raw")
        daemon, nbd = start(lab, "daemon", DAEMON), start(lab, "nbd", NBD)
        assert lab.holdover("protect", "--rehearse").returncode == 0
        made = Host(
            lab, daemon, nbd, start(lab, "bare-daemon", DAEMON), start(lab, "bare-nbd", NBD)
        )
        lab.upgrade()
        lab.root.apt("install", f"qemu-utils={lab.newer}")
        yield made


def test_status_tells_them_by_the_names_of_their_exports(host: Host) -> None:
    seen = {p["name"]: (p["state"], p["delivery"]) for p in host.lab.json("status")["processes"]}
    assert seen == {
        "daemon-export": ("protected", "environment"),
        "nbd-export": ("protected", "environment"),
        "bare-daemon-export": ("at-risk", None),
        "bare-nbd-export": ("at-risk", None),
    }


@pytest.mark.parametrize("disk", DISKS)
def test_a_protected_storage_daemon_opens_any_disk(host: Host, disk: str) -> None:
    assert host.daemon.probe_twice(disk) == (ATTACHED, ATTACHED)


def test_a_protected_nbd_would_load_what_its_twin_would_not(host: Host) -> None:
    """It opens its disk when it starts, and nothing can ask it for another one."""
    for guest, answer in ((host.nbd, 0), (host.bare_nbd, 1)):
        assert host.lab.holdover("explain", str(guest.pid), "block-curl").returncode == answer
    proof = {
        m["name"]: m["result"] for m in host.lab.json("rehearse", str(host.nbd.pid))["modules"]
    }
    assert proof["block-curl"] == proof["block-rbd"] == "loads"
    assert host.nbd.lives()


def test_an_unprotected_storage_daemon_refuses_then_dies(host: Host) -> None:
    assert host.bare_daemon.probe("https disk") == REFUSED
    seen = host.lab.status(host.bare_daemon.pid)
    assert (seen["state"], seen["poisoned_by"]) == ("poisoned", "block-curl")
    assert host.bare_daemon.probe("ssh disk") == DIED
