# SPDX-License-Identifier: Apache-2.0
"""The base of the benchmark: the demo's, with the neighbours installed."""

from holdover.demo.archive import RELEASE, TWO_BUILDS, Recipe
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress

__all__ = ["BENCH"]

# ldd is in libc-bin, checkrestart in debian-goodies
_NEIGHBOURS = ("pax-utils", "libtree", "needrestart", "debian-goodies", "lsof", "gdb")


def _fill(root: ThrowawayRoot, progress: Progress) -> None:
    TWO_BUILDS.fill(root, progress)
    progress("installing the neighbours in it")
    root.apt("install", *_NEIGHBOURS)


BENCH = Recipe("bench", RELEASE, _fill)
