# SPDX-License-Identifier: Apache-2.0
"""Real libraries, and what readelf says of them."""

import shutil
from functools import cache
from pathlib import Path

import pytest

from holdover.run import run

__all__ = ["libraries", "readelf"]


@cache
def libraries() -> tuple[Path, ...]:
    """Whatever this interpreter has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return tuple(sorted({Path(line.split(None, 5)[5]) for line in lines if ".so" in line}))


def readelf(*words: str | Path) -> str:
    """What it prints; skips the test if it does not work here."""
    found = shutil.which("readelf")
    if not found or run(found, "-d", "/proc/self/exe", check=False).returncode:
        pytest.skip("readelf does not work here")
    return run(found, "--wide", *words).stdout
