# SPDX-License-Identifier: Apache-2.0
"""How much of a machine a process takes: what would grow if each adoption left something behind."""

import re
from dataclasses import dataclass

from holdover.demo.guest import Guest
from holdover.environ import read_environment
from holdover.memory import Memory
from holdover.procfs import ProcFs

__all__ = ["Footprint", "footprint"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Sizes in KiB; the rest are counts."""

    virtual: int
    resident: int
    mappings: int
    descriptors: int
    threads: int
    variables: int
    """Entries of the live array that `environ` points to."""
    mounts: int
    """In its mount namespace."""


def footprint(guest: Guest) -> Footprint:
    proc, pid = ProcFs(guest.root.inside / "proc"), guest.pid
    status = proc.read(pid, "status")
    with Memory(proc, pid) as memory:
        _, live = read_environment(proc, pid, memory)
    return Footprint(
        virtual=_field(status, "VmSize"),
        resident=_field(status, "VmRSS"),
        mappings=len(proc.maps(pid)),
        descriptors=len(list(proc.path(pid, "fd").iterdir())),
        threads=len(proc.threads(pid)),
        variables=len(live.entries),
        mounts=len(proc.read(pid, "mountinfo").splitlines()),
    )


def _field(status: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    assert found, name
    return int(found[1])
