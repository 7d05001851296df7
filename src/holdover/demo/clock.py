# SPDX-License-Identifier: Apache-2.0
"""A guest that watches the clock: if its processor were ever stopped, it would know.

It runs 83 bytes of boot sector that read the time stamp counter without pause, and note for every
window of 2**26 ticks the longest gap between two readings, in a ring that QMP can read.

    start:  cli; ds = 0; di = 0x8000            first slot of the ring
            [0x7e00] = di                       which slot is being written
            ebp = 0; ebx = esi = rdtsc          longest gap; last reading; start of the window
    again:  ecx = rdtsc
            if ecx - ebx > ebp: ebp = ecx - ebx
            ebx = ecx
            if ecx - esi < 1 << 26: goto again
            [di] = ebp; di += 4; if di == 0xc000: di = 0x8000
            [0x7e00] = di; ebp = 0; esi = ecx; goto again
"""

import struct
import time
from dataclasses import dataclass
from pathlib import Path

from holdover.demo.guest import Guest
from holdover.demo.root import ThrowawayRoot

__all__ = ["ClockGuest", "Gaps"]

_CODE = bytes.fromhex(
    "fa31c08ed8bf0080893e007e6631ed0f316689c36689c60f316689c16629d86689cb6639e876036689c5"
    "6689c86629f0663d0000000472df66892d83c70481ff00c07203bf0080893e007e6631ed6689ceebc4"
)
_RING, _RING_END, _INDEX = 0x8000, 0xC000, 0x7E00
_WINDOW_TICKS = 1 << 26


@dataclass(frozen=True, slots=True)
class Gaps:
    """The longest gap in each window between two moments, in microseconds."""

    windows: tuple[float, ...]

    @property
    def longest(self) -> float:
        return max(self.windows, default=0.0)


class ClockGuest:
    """Such a guest in a throwaway root."""

    def __init__(self, root: ThrowawayRoot, name: str) -> None:
        image = (_CODE.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0")
        (root.inside / f"tmp/{name}.img").write_bytes(image)
        disk = ("-drive", f"file=/tmp/{name}.img,format=raw,if=ide,snapshot=on")
        self.guest = Guest.start(root, name, extra=disk)
        self.guest.qmp("cont")
        self._dump = Path("tmp") / f"{name}.ring"
        before = self._position()
        while self._position() == before:  # the firmware takes its time
            time.sleep(0.05)
        self._microseconds_per_tick = self._calibrate()

    def _calibrate(self) -> float:
        start, began = self._position(), time.monotonic()
        time.sleep(1)
        windows = self._distance(start, self._position())
        return (time.monotonic() - began) * 1e6 / (windows * _WINDOW_TICKS)

    def mark(self) -> int:
        """This moment, for `since`."""
        return self._position()

    def since(self, mark: int) -> Gaps:
        """What the guest noticed since `mark`, the window under way included."""
        end = self._position()
        while self._position() == end:
            time.sleep(0.01)
        ring = struct.unpack(f"<{(_RING_END - _RING) // 4}I", self._memory(_RING, _RING_END))
        first, count = (mark - _RING) // 4, self._distance(mark, end) + 1
        ticks = [ring[(first + n) % len(ring)] for n in range(count)]
        return Gaps(tuple(tick * self._microseconds_per_tick for tick in ticks))

    @staticmethod
    def _distance(start: int, end: int) -> int:
        return (end - start) % (_RING_END - _RING) // 4

    def _position(self) -> int:
        return int(struct.unpack("<H", self._memory(_INDEX, _INDEX + 2))[0])

    def _memory(self, start: int, end: int) -> bytes:
        self.guest.qmp(
            "pmemsave", {"val": start, "size": end - start, "filename": f"/{self._dump}"}
        )
        return (self.guest.root.inside / self._dump).read_bytes()
