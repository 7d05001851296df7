# SPDX-License-Identifier: Apache-2.0
"""Real QEMU guests in a throwaway root, and what may be attached to them late.

No probe needs a server: an error that comes from the driver means that its module was loaded,
`Unknown driver` that it was not, and a connection that breaks that the guest died.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError, VanishedError
from holdover.procfs import ProcFs

__all__ = ["Guest", "PROBES", "ATTACHED", "REFUSED", "DIED"]

ATTACHED, REFUSED, DIED = "works", "refused", "guest died"

_CLOSED = {"host": "127.0.0.1", "port": "1", "type": "inet"}
PROBES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "https disk": ("blockdev-add", {"driver": "https", "url": "https://127.0.0.1:1/x"}),
    "rbd disk": ("blockdev-add", {"driver": "rbd", "pool": "p", "image": "i", "conf": "/none"}),
    "ssh disk": ("blockdev-add", {"driver": "ssh", "server": _CLOSED, "path": "/x"}),
    "iscsi disk": (
        "blockdev-add",
        {"driver": "iscsi", "transport": "tcp", "portal": "127.0.0.1:1", "target": "iqn.x"},
    ),
    "nfs disk": (
        "blockdev-add",
        {"driver": "nfs", "server": {"host": "127.0.0.1", "type": "inet"}, "path": "/x"},
    ),
    "gluster disk": (
        "blockdev-add",
        {"driver": "gluster", "volume": "v", "path": "x", "server": [_CLOSED]},
    ),
    "all device types": ("qom-list-types", {}),
}
"""What is tried, as a QMP command that changes nothing; the order is the order of the trial."""


@dataclass(frozen=True)
class Guest:
    """A guest that runs; `pid` is its number inside the root."""

    root: ThrowawayRoot
    name: str
    pid: int

    @classmethod
    def start(
        cls,
        root: ThrowawayRoot,
        name: str,
        *,
        name_option: str = "",
        extra: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        binary: str = "/usr/bin/qemu-system-x86_64",
    ) -> "Guest":
        """Start one that needs no image; `wrapper` is what starts it (unshare, setpriv, ...)."""
        options = (
            *("-machine", "q35,accel=tcg", "-nodefaults", "-display", "none", "-S"),
            *("-name", name_option or f"guest={name}"),
            *("-qmp", f"unix:/tmp/{name}.sock,server=on,wait=off"),
            *("-daemonize", "-pidfile", f"/tmp/{name}.pid", "-D", f"/tmp/{name}.log"),
        )
        root.run(*wrapper, binary, *options, *extra)
        return cls(root, name, int((root.inside / f"tmp/{name}.pid").read_text()))

    def lives(self) -> bool:
        try:
            return ProcFs(self.root.inside / "proc").stat(self.pid).state not in "ZX"
        except VanishedError:
            return False

    def qmp(self, command: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer to one QMP command; raises `CommandError` if the guest dies of it."""
        try:
            from qemu.qmp import ConnectError, ExecInterruptedError, QMPError
            from qemu.qmp.legacy import QEMUMonitorProtocol
        except ImportError as error:
            raise CommandError(
                "the Python package qemu.qmp is not installed", hint="pip install qemu.qmp"
            ) from error
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # deaths are expected here
        monitor = QEMUMonitorProtocol(str(self.root.inside / f"tmp/{self.name}.sock"))
        try:
            monitor.connect()
            answer: dict[str, Any] = monitor.cmd_raw(command, dict(arguments or {}))
        except (ConnectError, ExecInterruptedError, QMPError, EOFError, OSError) as error:
            raise CommandError(f"guest {self.name} did not answer {command}: {error!r}") from error
        finally:
            with suppress(QMPError, EOFError, OSError):  # it died; that is told already
                monitor.close()
        return answer

    def probe(self, what: str) -> str:
        """Try one late load: `ATTACHED`, `REFUSED` or `DIED`."""
        command, arguments = PROBES[what]
        if command == "blockdev-add":
            arguments = arguments | {"node-name": "probe"}
        try:
            answer = self.qmp(command, arguments)
        except CommandError:
            return DIED
        if command == "qom-list-types":
            names = {entry["name"] for entry in answer.get("return", ())}
            return ATTACHED if "usb-redir" in names else REFUSED
        problem = answer.get("error", {}).get("desc", "")
        if not problem:
            self.qmp("blockdev-del", {"node-name": "probe"})
        return REFUSED if problem.startswith("Unknown driver") else ATTACHED
