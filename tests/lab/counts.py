# SPDX-License-Identifier: Apache-2.0
"""What holdover could leak, counted in a lab: in its store, in the kernel, and in the guests."""

from collections.abc import Collection
from pathlib import Path

from holdover.demo.guest import Guest
from lab.chroot import Lab

__all__ = ["count", "leftovers"]

STORE, STATE, VOLATILE = "/usr/lib/holdover", "/var/lib/holdover", "/run/holdover"


def count(lab: Lab, steady: Collection[Guest]) -> dict[str, int]:
    """By what is counted, in the words of a table; `steady` are guests that live all the time."""
    return {
        **_of_the_store(lab),
        **_on_disk(lab),
        **_of_the_kernel(lab),
        **_of_guests(lab, steady),
        "entries in /tmp": _entries(lab, "/tmp"),
    }


def leftovers(lab: Lab) -> dict[str, int]:
    """Those of what is in the store that are not there any more once no guest lives."""
    counts = _of_the_store(lab)
    return {what: number for what, number in counts.items() if number}


def _of_the_store(lab: Lab) -> dict[str, int]:
    held = lab.held()
    return {
        "snapshots in `holdover list`": len(held),
        "leases in `holdover list`": sum(len(snapshot["leases"]) for snapshot in held),
        "bytes held": sum(snapshot["bytes_held"] for snapshot in held),
        "bytes written": sum(snapshot["bytes_written"] for snapshot in held),
        "views": _entries(lab, f"{STORE}/view"),
        "links of `holdover run`": _entries(lab, f"{STORE}/run"),
        "left in staging": _entries(lab, f"{STORE}/staging"),
        "left of rescues": _entries(lab, f"{STORE}/rescue"),
        "manifests": _entries(lab, f"{STATE}/snapshot"),
        "records of rehearsals": _entries(lab, f"{STATE}/rehearsal"),
        "pins": _entries(lab, f"{STATE}/pin"),
        "files of leases": _entries(lab, f"{VOLATILE}/lease"),
        "records of releases": _entries(lab, f"{VOLATILE}/released"),
        "fallback directories": _entries(lab, f"{VOLATILE}/fallback"),
        "markers of transactions": lab.path(f"{VOLATILE}/transaction").exists(),
    }


def _entries(lab: Lab, directory: str) -> int:
    """Hidden ones included: what is half written has such a name."""
    path = lab.path(directory)
    return len(list(path.iterdir())) if path.is_dir() else 0


def _on_disk(lab: Lab) -> dict[str, int]:
    found = {}
    for directory in (STORE, STATE, VOLATILE):
        stats = {s.st_ino: s for s in map(Path.lstat, _below(lab.path(directory)))}
        found[f"inodes of {directory}"] = len(stats)
        found[f"bytes on disk of {directory}"] = sum(s.st_blocks for s in stats.values()) * 512
    return found


def _below(directory: Path) -> list[Path]:
    return [directory, *directory.rglob("*")]


def _of_the_kernel(lab: Lab) -> dict[str, int]:
    processes = [path for path in lab.path("/proc").iterdir() if path.name.isdecimal()]
    namespaces = {(path / "ns/mnt").readlink(): path / "mountinfo" for path in processes}
    return {
        "processes": len(processes),
        "mount namespaces": len(namespaces),
        "mounts in all of them": sum(_lines(table) for table in namespaces.values()),
    }


def _of_guests(lab: Lab, steady: Collection[Guest]) -> dict[str, int]:
    """All together."""
    found = [lab.path(f"/proc/{guest.pid}") for guest in steady]
    return {
        "file descriptors of steady guests": sum(len(list((p / "fd").iterdir())) for p in found),
        "threads of steady guests": sum(len(list((p / "task").iterdir())) for p in found),
        "maps of steady guests": sum(_lines(p / "maps") for p in found),
        "KiB of VmSize of steady guests": sum(_virtual_size(p / "status") for p in found),
    }


def _lines(file: Path) -> int:
    return len(file.read_text().splitlines())


def _virtual_size(status: Path) -> int:
    return int(status.read_text().partition("VmSize:")[2].split()[0])
