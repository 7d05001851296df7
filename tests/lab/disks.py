# SPDX-License-Identifier: Apache-2.0
"""Network disks of a guest without an operating system: attached late, read by its QEMU."""

from collections.abc import Mapping
from typing import Any

from holdover.demo.guest import Guest
from lab.bases import LabError
from lab.image import IMAGE, bytes_of_dump
from lab.servers import EXPORT, TARGET

__all__ = ["DISKS", "attach_disk", "read_disk", "read_late"]

_HOST = "127.0.0.1"
_FILE = f"{EXPORT}/disk.img"

DISKS: Mapping[str, Mapping[str, Any]] = {
    "http": {"driver": "http", "url": f"http://{_HOST}/disk.img"},
    "https": {"driver": "https", "url": f"https://{_HOST}/disk.img"},
    "ssh": {"driver": "ssh", "server": {"host": _HOST, "port": "22"}, "user": "root"}
    | {"path": _FILE},
    "nfs": {"driver": "nfs", "server": {"type": "inet", "host": _HOST}, "path": _FILE},
    "iscsi": {"driver": "iscsi", "transport": "tcp", "portal": _HOST, "target": TARGET, "lun": 1},
}
"""The disk of `DataServers` by each driver that it is served to, as arguments of blockdev-add."""


def attach_disk(guest: Guest, driver: str) -> str:
    """Attach it; the answer is QEMU's complaint, "" if there is none."""
    node = {"node-name": _node(driver), "read-only": True}
    answer = guest.qmp("blockdev-add", {**DISKS[driver], **node})
    return str(answer["error"]["desc"]) if "error" in answer else ""


def read_disk(guest: Guest, driver: str) -> bytes:
    """All bytes of an attached disk; qemu-io prints them to QEMU's standard output, its log."""
    before = len(guest.log)
    command = f'qemu-io {_node(driver)} "read -v 0 {len(IMAGE)}"'
    answer = guest.qmp("human-monitor-command", {"command-line": command})
    if answer.get("return") != "":
        raise LabError(f"{command}: {answer}")
    return bytes_of_dump(guest.log[before:])


def read_late(guest: Guest, driver: str) -> bytes:
    """Attach a network disk to a running guest, and read all of it."""
    if complaint := attach_disk(guest, driver):
        raise LabError(f"{guest.name} got no {driver} disk: {complaint}")
    return read_disk(guest, driver)


def _node(driver: str) -> str:
    return f"data-{driver}"
