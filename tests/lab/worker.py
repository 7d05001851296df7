# SPDX-License-Identifier: Apache-2.0
"""A guest with the system of `lab.system` in it: it works while things are done to its QEMU."""

import hashlib
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from holdover.demo.guest import Guest
from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError
from lab.beats import Heart
from lab.disks import DISKS
from lab.image import IMAGE
from lab.init import BLOCK, SLOTS
from lab.system import System

__all__ = ["WORK", "Worker", "accelerator_problem"]

WORK = ("wrote", "read", "fetched")
"""What it says when a piece of work is done."""
_SIZE = "192"  # MiB of memory, all of it taken at once: what grows later is QEMU itself
_PROBE = 20.0  # seconds until a guest with a processor's help is taken for one without
_START = 120.0  # seconds until a guest that does not work is taken for one that never will
# one whose processor has to wait for a core takes its timer for broken, and gives up; and what it
# measures of the processor's own clock is wrong by any factor
_PATIENT_KERNEL = ("mitigations=off", "no_timer_check", "tsc=unstable")
_LATE = "late"  # the slot that a disk can be plugged into
_IMAGE_SUM = hashlib.sha256(IMAGE).hexdigest()
# of the work, or of the kernel about a device or itself
_COMPLAINTS = re.compile(r"^error|I/O error|Kernel panic|Oops|BUG:")


@dataclass(frozen=True)
class Worker:
    """One that runs, in a root which is on the network of `DataServers`."""

    guest: Guest
    heart: Heart

    @classmethod
    def start(
        cls,
        root: ThrowawayRoot,
        name: str,
        system: System,
        *,
        accelerator: str = "tcg",
        wrapper: Sequence[str] = (),
    ) -> "Worker":
        """Start one; it does not work yet. The disk is on the file system of the root."""
        for file in (system.kernel, system.initramfs):
            shutil.copy(file, root.inside / f"tmp/{file.name}")
        with (root.inside / f"srv/{name}.img").open("wb") as image:
            image.truncate(SLOTS * BLOCK)
        words = ("console=ttyS0", "quiet", *_PATIENT_KERNEL, f"SUM={_IMAGE_SUM}")
        extra = (
            *("-m", _SIZE, "-mem-prealloc", "-kernel", "/tmp/kernel"),
            *("-initrd", "/tmp/initramfs", "-append", " ".join(words)),
            *("-serial", f"file:/tmp/{name}.console", "-serial", f"file:/tmp/{name}.beats"),
            *("-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="),
            *("-drive", f"if=none,id=disk,file=/srv/{name}.img,format=raw"),
            *("-device", "virtio-blk-pci,drive=disk", "-device", f"pcie-root-port,id={_LATE}"),
        )
        machine = f"q35,accel={accelerator}"
        guest = Guest.start(root, name, extra=extra, wrapper=wrapper, machine=machine)
        guest.qmp("cont")
        return cls(guest, Heart(root.inside / f"tmp/{name}.beats"))

    # -- what it says ----------------------------------------------------------------------------

    @property
    def said(self) -> list[list[str]]:
        """The words of each whole line on its console."""
        console = self.guest.root.inside / f"tmp/{self.guest.name}.console"
        text = console.read_text("utf-8", "replace")
        return [line.split() for line in text.split("\n")[:-1]]

    @property
    def errors(self) -> list[str]:
        lines = (" ".join(words) for words in self.said)
        return [line for line in lines if _COMPLAINTS.search(line)]

    def done(self, what: str) -> int:
        """How many pieces of work of that kind it has done."""
        return sum(1 for words in self.said if words[:1] == [what])

    def await_work(self, patience: float = _START) -> None:
        """Until it has done one more of everything. Raises `TimeoutError`."""
        before, deadline = {what: self.done(what) for what in WORK}, time.monotonic() + patience
        while missing := [what for what in WORK if self.done(what) == before[what]]:
            if time.monotonic() > deadline:
                tail = [" ".join(words) for words in self.said[-5:]]
                raise TimeoutError(f"nothing {missing} within {patience:.0f} s: {tail}")
            time.sleep(0.05)
        self.heart.await_another()

    # -- what is done to it ----------------------------------------------------------------------

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """As a debugger would stop it: all threads of its QEMU."""
        self.guest.root.run("sh", "-c", f"kill -STOP {self.guest.pid}")
        try:
            yield
        finally:
            self.guest.root.run("sh", "-c", f"kill -CONT {self.guest.pid}")

    def plug(self) -> str:
        """Give it a second disk, from a server; QEMU's complaint, or ""."""
        node = {"node-name": "late", "read-only": True}
        device = {"driver": "virtio-blk-pci", "drive": "late", "bus": _LATE}
        for command, arguments in (
            ("blockdev-add", {**DISKS["https"], **node}),
            ("device_add", device),
        ):
            answer = self.guest.qmp(command, arguments)
            if "error" in answer:
                return str(answer["error"]["desc"])
        return ""

    def await_late_disk(self, patience: float = _START) -> str:
        """The SHA256 of the second disk, as the guest read it."""
        deadline = time.monotonic() + patience
        while not (found := [words[1] for words in self.said if words[:1] == ["late"]]):
            if time.monotonic() > deadline:
                raise TimeoutError("the guest does not read its second disk")
            time.sleep(0.05)
        return found[0]

    # -- after its end ---------------------------------------------------------------------------

    def lost(self) -> list[int]:
        """Slots of the disk that do not have what the disk has promised to have; look when the
        guest has ended. What was being written to at the end was promised to nobody."""
        promised: dict[int, str] = {}
        for words in self.said:
            if words[:1] == ["writing"]:
                promised.pop(int(words[1]), None)
            elif words[:1] == ["wrote"]:
                promised[int(words[1])] = words[2]
        return [slot for slot, found in promised.items() if self._sum_on_disk(slot) != found]

    def _sum_on_disk(self, slot: int) -> str:
        with (self.guest.root.inside / f"srv/{self.guest.name}.img").open("rb") as image:
            image.seek(slot * BLOCK)
            return hashlib.sha256(image.read(BLOCK)).hexdigest()


def accelerator_problem(root: ThrowawayRoot, system: System, accelerator: str) -> str:
    """Why guests do not come to work with it here, or ""; found out by trying."""
    machine = f"q35,accel={accelerator}"
    opened = f"echo quit | qemu-system-x86_64 -machine {machine} -display none -S -monitor stdio"
    done = root.run("sh", "-c", opened, check=False)
    if done.returncode:
        return done.stderr.strip().replace("\n", "; ")
    worker = Worker.start(root, f"probe-{accelerator}", system, accelerator=accelerator)
    try:
        worker.await_work(_PROBE)
    except TimeoutError:
        return f"a guest starts, and its system does not work within {_PROBE:.0f} s"
    except CommandError as error:
        return str(error)
    finally:
        worker.guest.kill()
    return ""
