# SPDX-License-Identifier: Apache-2.0
"""A host's processes: guests of up to four builds, and others that are no concern of ours.

Four builds are two executables of two package versions: the older ones are started, the package is
upgraded, the newer ones are started.
"""

from dataclasses import dataclass, field

from benchmarks.measure import Stopwatch
from holdover.demo.archive import QEMU_PACKAGES, qemu_builds
from holdover.demo.guest import Guest

__all__ = ["Population"]

_EXECUTABLES = ("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-i386")
_FEW = ("-m", "16")


@dataclass
class Population:
    """Only grows; all of it ends with its root."""

    watch: Stopwatch
    guests: list[Guest] = field(default_factory=list)
    others: int = 0

    def grow(self, guests: int, others: int) -> None:
        """To so many of each."""
        while len(self.guests) < guests:
            number = len(self.guests)
            binary = _EXECUTABLES[number % len(_EXECUTABLES)]
            name = f"guest{number}"
            self.guests.append(Guest.start(self.watch.root, name, extra=_FEW, binary=binary))
        missing = others - self.others
        loop = f"for n in $(seq {missing}); do sleep 99999 >&- 2>&- & done"
        self.watch.root.run("sh", "-c", loop)
        self.others = others

    def upgrade(self) -> None:
        """Who runs now is protected by the hooks, if holdover is enabled."""
        newer = qemu_builds(self.watch.root)[1]
        self.watch.root.apt("install", *(f"{package}={newer}" for package in QEMU_PACKAGES))
