# SPDX-License-Identifier: Apache-2.0
"""Real QEMU guests in a throwaway root, and what may be attached to them late.

No probe needs a server: an error that comes from the driver means that its module was loaded,
`Unknown driver` that it was not, and a guest that is gone that it died of it.
"""

import logging
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError, VanishedError
from holdover.procfs import ProcFs

__all__ = ["Guest", "Probe", "PROBES", "ATTACHED", "REFUSED", "DIED"]

ATTACHED, REFUSED, DIED = "works", "refused", "guest died"

_PATIENCE = 30.0  # seconds until a guest that does not start is taken for one that never will
_DYING = 5.0  # seconds until one that does not answer is taken for one that lives
_CLOSED = {"host": "127.0.0.1", "port": "1"}


@dataclass(frozen=True, slots=True)
class Probe:
    """A QMP command that loads a module and changes nothing; `sign` is in the driver's answer."""

    command: str
    arguments: Mapping[str, Any]
    sign: str


def _disk(sign: str, **options: Any) -> Probe:
    return Probe("blockdev-add", {"node-name": "probe", **options}, sign)


PROBES: Mapping[str, Probe] = {
    "https disk": _disk("curl driver", driver="https", url="https://127.0.0.1:1/x"),
    "rbd disk": _disk("reading conf file", driver="rbd", pool="p", image="i", conf="/none"),
    "ssh disk": _disk("Failed to connect", driver="ssh", server=_CLOSED, path="/x"),
    "iscsi disk": _disk(
        "iSCSI", driver="iscsi", transport="tcp", portal="127.0.0.1:1", target="iqn.x"
    ),
    "nfs disk": _disk(
        "mount nfs", driver="nfs", server={"host": "127.0.0.1", "type": "inet"}, path="/x"
    ),
    "gluster disk": _disk(
        "Gluster", driver="gluster", volume="v", path="x", server=[{"type": "inet", **_CLOSED}]
    ),
    "all device types": Probe("qom-list-types", {}, "usb-redir"),
}
"""What is tried, in this order."""


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
        machine: str = "q35,accel=tcg",
    ) -> "Guest":
        """Start one that needs no image; `wrapper` is what starts it (unshare, setpriv, ...)."""
        options = (
            *("-machine", machine, "-nodefaults", "-display", "none", "-S"),
            *("-name", name_option or f"guest={name}"),
            *("-qmp", f"unix:/tmp/{name}.sock,server=on,wait=off"),
            *("-pidfile", f"/tmp/{name}.pid"),
        )
        # not with -daemonize, which libvirt's sandbox forbids
        start = f'"$@" >/tmp/{name}.log 2>&1 </dev/null &'
        root.run("sh", "-c", start, "sh", *wrapper, binary, *options, *extra)
        return cls(root, name, _wait_for_pid(root, name))

    @property
    def log(self) -> str:
        """What it wrote to stderr: where QEMU complains about modules."""
        return (self.root.inside / f"tmp/{self.name}.log").read_text()

    def lives(self) -> bool:
        try:
            return ProcFs(self.root.inside / "proc").stat(self.pid).state not in "ZX"
        except VanishedError:
            return False

    def _survives(self) -> bool:
        """Its connections break a little before it is gone."""
        deadline = time.monotonic() + _DYING
        while self.lives():
            if time.monotonic() > deadline:
                return True
            time.sleep(0.01)
        return False

    def _has_threads(self) -> bool:
        """Its first thread may be dead while others still hold the lock of its pid file."""
        try:
            return len(ProcFs(self.root.inside / "proc").threads(self.pid)) > 1
        except VanishedError:
            return False

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self.root.run("sh", "-c", f"kill -KILL {self.pid}", check=False)
        deadline = time.monotonic() + 10
        while self.lives() or self._has_threads():
            if time.monotonic() > deadline:
                raise CommandError(f"guest {self.name} does not end")
            time.sleep(0.01)

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
        """Try one late load: `ATTACHED`, `REFUSED` or `DIED`.

        Raises `CommandError` for an answer that means neither: then the probe proves nothing.
        """
        probe = PROBES[what]
        try:
            answer = self.qmp(probe.command, probe.arguments)
        except CommandError:
            if self._survives():
                raise
            return DIED
        if probe.command == "qom-list-types":
            names = {entry["name"] for entry in answer["return"]}
            return ATTACHED if probe.sign in names else REFUSED
        problem = answer["error"]["desc"] if "error" in answer else ""
        # the second is of a build that was made without the driver
        if problem.startswith("Unknown driver") or "does not accept value" in problem:
            return REFUSED
        if probe.sign in problem:
            return ATTACHED
        raise CommandError(f"{what}: an answer that was not foreseen: {answer}")

    def probe_twice(self, what: str) -> tuple[str, str]:
        """The second attempt is the one that kills."""
        return self.probe(what), self.probe(what)


def _wait_for_pid(root: ThrowawayRoot, name: str) -> int:
    """QEMU writes its pid file early, listens a little later, and answers when it has started."""
    file = root.inside / f"tmp/{name}.pid"
    deadline = time.monotonic() + _PATIENCE
    while not (_answers(root.inside / f"tmp/{name}.sock") and file.exists()):
        if time.monotonic() > deadline:
            log = (root.inside / f"tmp/{name}.log").read_text()
            raise CommandError(f"guest {name} does not start", hint=log[-500:])
        time.sleep(0.01)
    return int(file.read_text())


def _answers(path: Path) -> bool:
    """The greeting comes from QEMU's main loop: by then it has started for good."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_PATIENCE)
        try:
            client.connect(str(path))
            return client.recv(6) == b'{"QMP"'
        except OSError:
            return False
