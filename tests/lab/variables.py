# SPDX-License-Identifier: Apache-2.0
"""An exported variable of a live process, read without holdover: by readelf and /proc/PID/mem."""

from pathlib import Path

from holdover.run import run
from lab.bases import LabError

__all__ = ["read_text"]


def read_text(process: Path, name: str) -> str:
    """The text in an array of characters; `process` is its directory below /proc."""
    symbols = run("readelf", "--wide", "--dyn-syms", process / "exe").stdout
    fields = [line.split() for line in symbols.splitlines()]
    value, size = next((f[1], f[2]) for f in fields if len(f) == 8 and f[7] == name)
    with (process / "mem").open("rb") as memory:
        memory.seek(_base(process) + int(value, 16))
        return memory.read(int(size, 0)).partition(b"\0")[0].decode()


def _base(process: Path) -> int:
    """Where the executable is mapped from its first byte on."""
    executable = str((process / "exe").readlink())
    for line in (process / "maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        if fields[2] == "00000000" and fields[-1] == executable:
            return int(fields[0].partition("-")[0], 16)
    raise LabError(f"{executable} is not mapped in {process}")
