# SPDX-License-Identifier: Apache-2.0
"""On which Unix sockets QEMU answers QMP, as its command line says. Pure.

Source: qemu(1), -qmp, -chardev and -mon; qemu-storage-daemon(1), --monitor.
"""

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["qmp_sockets"]

_OFF = ("off", "no", "false")
_SHORT = "unix:"


def qmp_sockets(words: Sequence[str]) -> tuple[str, ...]:
    """Their paths, in the order of the monitors, without those that have none, like TCP."""
    options = [(word.lstrip("-"), value) for word, value in pairwise(words)]
    devices = dict(_device(value) for name, value in options if name == "chardev")
    found: dict[str, None] = {}
    for name, value in options:
        if name in ("qmp", "qmp-pretty") and value.startswith(_SHORT):
            path = _path(_parse(value.removeprefix(_SHORT), "path"))
        elif name in ("mon", "monitor"):
            monitor = _parse(value, "chardev")
            control = monitor.get("mode", "control" if name == "monitor" else "") == "control"
            path = devices.get(monitor.get("chardev", ""), "") if control else ""
        else:
            continue
        if path:
            found[path] = None
    return tuple(found)


def _device(value: str) -> tuple[str, str]:
    """Its id, and the path of the socket that it is; "" if it is something else."""
    device = _parse(value, "backend")
    is_socket = device.get("backend") == "socket"
    return device.get("id", ""), _path(device) if is_socket else ""


def _path(device: dict[str, str]) -> str:
    abstract = device.get("abstract", "off") not in _OFF
    return "" if abstract else device.get("path", device.get("addr.path", ""))


def _parse(value: str, first: str) -> dict[str, str]:
    """`x,key=value,flag`: the first may stand without its key; a comma in a value is doubled."""
    parts = [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]
    found = {}
    for number, part in enumerate(parts):
        key, equals, text = part.partition("=")
        if number == 0 and not equals:
            key, text = first, part
        found[key] = text if equals or number == 0 else "on"
    return found
