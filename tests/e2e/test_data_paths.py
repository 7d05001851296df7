# SPDX-License-Identifier: Apache-2.0
"""A driver that was loaded late moves data: real disks from real servers, read by QEMU."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab
from lab.disks import DISKS, attach_disk, read_late
from lab.image import IMAGE
from lab.kinds import KINDS
from lab.servers import DataServers

from holdover.demo.guest import Guest

pytestmark = pytest.mark.e2e

CONFINEMENTS = ("host-namespace", "sandboxed")  # as root: ssh takes the keys from root's home


@pytest.fixture(scope="module")
def plain(base: Path, scratch: Path, servers: DataServers) -> Iterator[Guest]:
    """A guest of a system that nobody upgrades."""
    with Lab.stock(base, scratch) as lab:
        servers.introduce(lab.root)
        yield Guest.start(servers.join(lab.root), "plain")


@pytest.fixture(scope="module")
def protected(base: Path, scratch: Path, servers: DataServers) -> Iterator[dict[str, Guest]]:
    """With holdover's hooks enabled and nothing else done; then apt upgraded QEMU."""
    with Lab.with_holdover(base, scratch) as lab:
        lab.root.run("holdover", "enable")
        servers.introduce(lab.root)
        guests = {kind: KINDS[kind].start(servers.join(lab.root), kind) for kind in CONFINEMENTS}
        lab.upgrade()
        yield guests


@pytest.fixture(scope="module")
def unprotected(base: Path, scratch: Path, servers: DataServers) -> Iterator[dict[str, Guest]]:
    """Its twins, without holdover: one for each driver, because none survives two attempts."""
    with Lab.stock(base, scratch) as lab:
        servers.introduce(lab.root)
        guests = {driver: Guest.start(servers.join(lab.root), driver) for driver in DISKS}
        lab.upgrade()
        yield guests


@pytest.mark.parametrize("driver", DISKS)
def test_server_serves_a_guest_before_any_upgrade(plain: Guest, driver: str) -> None:
    assert read_late(plain, driver) == IMAGE


def test_keys_are_checked(stock: Lab, servers: DataServers) -> None:
    guest = Guest.start(servers.join(stock.root), "stranger")
    assert "certificate" in attach_disk(guest, "https")
    assert "known_hosts" in attach_disk(guest, "ssh")


@pytest.mark.parametrize("driver", DISKS)
@pytest.mark.parametrize("kind", CONFINEMENTS)
def test_protected_guest_reads_a_disk_after_the_upgrade(
    protected: dict[str, Guest], kind: str, driver: str
) -> None:
    assert read_late(protected[kind], driver) == IMAGE


@pytest.mark.parametrize("driver", DISKS)
def test_unprotected_twin_is_refused_the_disk(unprotected: dict[str, Guest], driver: str) -> None:
    assert attach_disk(unprotected[driver], driver).startswith("Unknown driver")
