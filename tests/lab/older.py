# SPDX-License-Identifier: Apache-2.0
"""A Debian 11: its QEMU 5.2 goes on to another directory after a module that it could not load.

The archive has two builds of it, as it has of Debian 12's: the older one is installed, the newer
one downloaded.
"""

from holdover.demo.archive import TWO_BUILDS, Recipe
from lab.distributions import BULLSEYE

__all__ = ["RECIPE"]

RECIPE = Recipe("qemu-5", BULLSEYE, TWO_BUILDS.fill)
