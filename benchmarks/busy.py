# SPDX-License-Identifier: Apache-2.0
"""A busy guest that notes by itself for how long its processor stood still.

Its memory is a file that we map too: what it notes is read, and set back, without asking QEMU for
anything. So each delivery can have its own longest gap, where the guest of the demo (`demo/clock`)
has one for each window of its own, which is read through QMP.
"""

import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.threads import counts, thread_counts
from holdover.demo.guest import Guest
from holdover.demo.root import ThrowawayRoot
from holdover.errors import CommandError
from holdover.model import Build, Process
from holdover.procfs import ProcFs

__all__ = [
    "BusyGuest",
    "Gaps",
    "Notes",
    "BOOT_SECTOR",
    "PROCESSOR",
    "core_for_guests",
    "process_of",
]

# the first instruction is at 0:7c00
_INSTRUCTIONS = (
    "fa",  # cli
    "31 c0",  # xor ax, ax
    "8e d8",  # mov ds, ax
    "b0 ff",  # mov al, 0xff
    "e6 21",  # out 0x21, al        no interrupt wakes QEMU's processor thread: the timers
    "e6 a1",  # out 0xa1, al        that the firmware has set up are masked in both controllers
    "66 c7 06 0c 80 42 55 53 59",  # mov dword [0x800c], "BUSY"
    "0f 31",  # rdtsc
    "66 0f ac d0 08",  # shrd eax, edx, 8    units of 256 ticks: 32 bits last for minutes
    "66 89 c3",  # mov ebx, eax        the last reading
    "0f 31",  # again: rdtsc
    "66 0f ac d0 08",  # shrd eax, edx, 8
    "66 89 c1",  # mov ecx, eax
    "66 29 d8",  # sub eax, ebx        the gap between two readings
    "66 89 cb",  # mov ebx, ecx
    "66 89 1e 04 80",  # mov [0x8004], ebx
    "66 ff 06 08 80",  # inc dword [0x8008]
    "66 3b 06 00 80",  # cmp eax, [0x8000]
    "76 04",  # jbe shorter
    "66 a3 00 80",  # mov [0x8000], eax
    "66 3d 00 01 00 00",  # shorter: cmp eax, 0x100     some 25 microseconds
    "72 d3",  # jb again
    "66 01 06 10 80",  # add [0x8010], eax
    "eb cc",  # jmp again
)
_CODE = bytes.fromhex("".join(_INSTRUCTIONS))
PROCESSOR = "CPU 0/TCG"
BOOT_SECTOR = _CODE.ljust(510, b"\0") + b"\x55\xaa"
_NOTES, _SIGN = 0x8000, b"BUSY"
_MEMORY = 16  # MiB
_PATIENCE = 30.0  # seconds until a guest that notes nothing is taken for one that never will
_CALIBRATION = 1.0  # seconds


class Notes:
    """What such a guest notes, in units of 256 ticks; `memory` is the guest's.

    Five words of 32 bits at `_NOTES`: the longest gap, the last reading, how many there were, a
    sign, and the sum of all gaps that are too long for a processor that nobody takes away.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    @property
    def begun(self) -> bool:
        return self._memory[_NOTES + 12 : _NOTES + 16] == _SIGN

    @property
    def longest(self) -> int:
        return self._word(0)

    @property
    def reading(self) -> int:
        return self._word(4)

    @property
    def count(self) -> int:
        return self._word(8)

    @property
    def stood(self) -> int:
        return self._word(16)

    def forget(self) -> None:
        """The guest, between its comparison and its store, may still note the gap of just now."""
        self._memory[_NOTES : _NOTES + 4] = bytes(4)

    def settle(self) -> None:
        """Come back when a gap that is under way now has ended and is noted.

        The next reading may have been taken already, and the one after it is counted before its
        gap is noted. Raises `CommandError` if the guest reads no more.
        """
        start, deadline = self.count, time.monotonic() + _PATIENCE
        while _since(start, self.count) < 3:
            if time.monotonic() > deadline:
                raise CommandError("the busy guest stands still")

    def _word(self, offset: int) -> int:
        return int(struct.unpack_from("<I", self._memory, _NOTES + offset)[0])


Mark = tuple[int, float]
"""For how long it stood still in all, in its units, and for how many seconds it waited."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """Between two readings of the guest's; times in seconds."""

    longest: float
    stood: float
    """All that were longer than some 25 microseconds."""
    waited: float
    """In which the kernel had no processor for it, for others had them."""

    @property
    def unexplained(self) -> float:
        """For how long it stood still for another reason; rounded, so it may be less than 0."""
        return self.stood - self.waited


class BusyGuest:
    """Such a guest in a throwaway root; `process` is what a delivery goes to.

    Its threads have names of QEMU's; that of its processor is `PROCESSOR`.
    """

    def __init__(self, guest: Guest, proc: ProcFs, notes: Notes) -> None:
        self.guest = guest
        self.process = process_of(proc, guest)
        self._proc = proc
        (self._thread,) = (n for n, name in counts(proc, guest.pid) if name == PROCESSOR)
        self._notes = notes
        self._unit = self._calibrate()

    @classmethod
    @contextmanager
    def running(
        cls, root: ThrowawayRoot, proc: ProcFs, name: str, core: int
    ) -> Iterator["BusyGuest"]:
        """Raises `CommandError` if it does not begin to take notes, or did not live to the end."""
        image, memory = (root.inside / f"tmp/{name}.{what}" for what in ("img", "memory"))
        image.write_bytes(BOOT_SECTOR.ljust(1 << 20, b"\0"))
        backend = f"memory-backend-file,id=ram,size={_MEMORY}M,mem-path=/tmp/{name}.memory,share=on"
        guest = Guest.start(
            root,
            name,
            name_option=f"guest={name},debug-threads=on",
            extra=(
                *("-m", str(_MEMORY), "-object", backend),
                *("-drive", f"file=/tmp/{name}.img,format=raw,if=ide,snapshot=on"),
            ),
            wrapper=("taskset", "--cpu-list", str(core)),
            machine="q35,accel=tcg,memory-backend=ram",
        )
        with memory.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            guest.qmp("cont")
            memory.unlink()
            notes = Notes(mapped)
            _wait_for(notes, guest)
            yield cls(guest, proc, notes)
        if not guest.lives():
            raise CommandError(f"guest {name} died while it was measured", hint=guest.log[-500:])
        guest.kill()

    def _calibrate(self) -> float:
        """Seconds of the clock on the wall in a unit of the guest's readings."""
        self._notes.settle()
        start, began = self._notes.reading, time.monotonic()
        time.sleep(_CALIBRATION)
        self._notes.settle()
        units, took = _since(start, self._notes.reading), time.monotonic() - began
        return took / units

    def mark(self) -> Mark:
        """This moment, for `since`; what was the longest gap until now is forgotten."""
        mark = self._account()
        self._notes.forget()
        return mark

    def since(self, mark: Mark) -> Gaps:
        """What the guest noticed since the last `mark`."""
        stood, waited = self._account()
        return Gaps(
            self._notes.longest * self._unit, _since(mark[0], stood) * self._unit, waited - mark[1]
        )

    def _account(self) -> Mark:
        """How long it stood still, and how long it waited, of the same moment."""
        while True:
            before = self._waited()
            self._notes.settle()
            stood = self._notes.stood
            if self._waited() == before:
                return stood, before

    def _waited(self) -> float:
        """Seconds; the kernel adds them up when it runs again."""
        return thread_counts(self._proc, self.process.id.pid, self._thread).waited


@contextmanager
def core_for_guests() -> Iterator[int]:
    """The last core that we may use is theirs: we, and all that we start, keep off it meanwhile.

    So what is measured beside a guest does not take its place. Of a single core they get a share.
    """
    ours = os.sched_getaffinity(0)
    core = max(ours)
    os.sched_setaffinity(0, ours - {core} or ours)
    try:
        yield core
    finally:
        os.sched_setaffinity(0, ours)


def _since(start: int, end: int) -> int:
    return (end - start) % (1 << 32)


def process_of(proc: ProcFs, guest: Guest) -> Process:
    """What a scan would know of it, as far as a delivery asks for it."""
    return Process(
        id=proc.identity(guest.pid),
        name=guest.name,
        executable=proc.path(guest.pid, "exe"),
        executable_file=proc.file_of(guest.pid, "exe"),
        replaced=False,
        build=Build("qemu", "", "", "", ()),
    )


def _wait_for(notes: Notes, guest: Guest) -> None:
    """The firmware takes its time."""
    deadline = time.monotonic() + _PATIENCE
    while not notes.begun:
        if time.monotonic() > deadline or not guest.lives():
            raise CommandError(f"guest {guest.name} takes no notes", hint=guest.log[-500:])
        time.sleep(0.01)
