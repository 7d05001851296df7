# SPDX-License-Identifier: Apache-2.0
"""Bases that have every module of QEMU which a Debian release ships, for whatever it is loaded.

The bases that are upgraded leave out those that bring a desktop; here they are looked at as well.
"""

from dataclasses import dataclass

from holdover.demo.archive import Recipe, Release
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress
from lab.distributions import BOOKWORM, BULLSEYE, SID, TRIXIE

__all__ = ["SETS", "ModuleSet"]


@dataclass(frozen=True, slots=True)
class ModuleSet:
    """All modules of a release; `least` is how many there were when this was written."""

    release: Release
    least: int
    python_is_too_old: bool = False
    """For holdover."""

    @property
    def recipe(self) -> Recipe:
        return Recipe(f"modules-of-{self.release.codename}", self.release, self.fill)

    def fill(self, root: ThrowawayRoot, progress: Progress) -> None:
        progress(f"installing QEMU of {self.release.codename} with all its modules")
        root.apt("install", *self.release.qemu_packages, "qemu-system-gui")
        root.apt("clean")


SETS = {
    modules.release.codename: modules
    for modules in (
        ModuleSet(BULLSEYE, 8, python_is_too_old=True),
        ModuleSet(BOOKWORM, 37),
        ModuleSet(TRIXIE, 38),
        ModuleSet(SID, 38),
    )
}
