# SPDX-License-Identifier: Apache-2.0
"""Model values with defaults that fit together: one build, its modules, a process that runs it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdover.held import HeldFile, Holding, Lease, Purpose, Snapshot
from holdover.identity import FileId, ProcessId
from holdover.model import Build, Installed, LateLoad, Module, Process, Scan, Unreadable
from holdover.search import directories, first_found
from holdover.store import Store

STAMP = "qemu_stamp_" + "a" * 40
OTHER_STAMP = "qemu_stamp_" + "b" * 40
BUILD_ID, OTHER_BUILD_ID = "aa" * 20, "bb" * 20
DIRECTORY = Path("/usr/lib/x86_64-linux-gnu/qemu")
EXECUTABLE = Path("/usr/bin/qemu-system-x86_64")
VIEWS = Path("/usr/lib/holdover/view")


def build(
    build_id: str = BUILD_ID,
    stamp: str | None = STAMP,
    directories: tuple[Path, ...] = (DIRECTORY,),
) -> Build:
    return Build("qemu", build_id, stamp, "7.2.15 (Debian 1:7.2+dfsg-7+deb12u15)", directories)


def other_build() -> Build:
    return build(OTHER_BUILD_ID, OTHER_STAMP)


def process(pid: int = 4711, **changes: Any) -> Process:
    """A guest whose executable is the one on disk, and that nothing was done for."""
    values: dict[str, Any] = {
        "id": ProcessId(pid, 123456),
        "name": f"guest{pid}",
        "executable": EXECUTABLE,
        "executable_file": FileId(1, 100),
        "replaced": False,
        "build": build(),
        "covered_by": FileId(1, 200),
    }
    return Process(**(values | changes))


def module(name: str = "block-rbd", stamp: str = STAMP, directory: Path = DIRECTORY) -> Module:
    return Module(name, directory / f"{name}.so", stamp)


def modules(*names: str, stamp: str = STAMP, directory: Path = DIRECTORY) -> tuple[Module, ...]:
    return tuple(module(name, stamp, directory) for name in names)


def scan(
    *processes: Process,
    modules: tuple[Module, ...] = (),
    installed: tuple[Installed, ...] = (),
    unreadable: tuple[Unreadable, ...] = (),
) -> Scan:
    """As the scan step does, with late loads foreseen where a test does not say what they do."""
    return Scan(
        tuple(foreseen(process, modules) for process in processes),
        modules,
        tuple(replace(at, own=at.own or late_loads(at.build, modules)) for at in installed),
        0,
        unreadable,
    )


def foreseen(process: Process, modules: tuple[Module, ...]) -> Process:
    own = process.own or late_loads(process.build, modules, directories(process, VIEWS))
    return replace(process, own=own, late=process.late or own)


def late_loads(
    build: Build, modules: tuple[Module, ...], where: tuple[Path, ...] = ()
) -> tuple[LateLoad, ...]:
    """The build's own modules would load, and need nothing."""
    own = [module for module in modules if module.stamp == build.stamp]
    found = first_found(own, where or build.directories)
    return tuple(LateLoad(name, module.path) for name, module in found.items())


def held_file(name: str = "block-rbd", how: str = "link") -> HeldFile:
    return HeldFile(f"{name}.so", str(DIRECTORY / f"{name}.so"), 5, 1, "0" * 64, how)


def snapshot(
    snapshot_id: str = "qemu-aaaaaaaaaaaa",
    files: Sequence[HeldFile] = (),
    build: Build | None = None,
    purpose: Purpose = Purpose.HOLD,
    decoys: tuple[str, ...] = (),
) -> Snapshot:
    of = build or Build("qemu", BUILD_ID, STAMP, "7.2.15", (DIRECTORY,))
    return Snapshot(
        id=snapshot_id,
        purpose=purpose,
        program=of.program,
        build_id=of.build_id,
        stamp=of.stamp or "",
        version=of.version,
        created="2026-11-23T10:00:00Z",
        files=tuple(files),
        decoys=decoys,
    )


def holding(held: Snapshot, inode: int = 900, damage: str = "") -> Holding:
    return Holding(held, VIEWS / held.id, FileId(1, inode), damage)


def lease(pid: int = 4711, of: str = "qemu-aaaaaaaaaaaa", start_time: int = 123456) -> Lease:
    return Lease(ProcessId(pid, start_time), of, f"guest{pid}", "environment")


# -- a store on disk ---------------------------------------------------------------------------


def store_below(directory: Path) -> Store:
    return Store(directory / "usr", directory / "var", directory / "run")


def write_modules(directory: Path, *names: str) -> tuple[Path, ...]:
    """Files to be held, each with content of its own."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = tuple(directory / f"{name}.so" for name in names)
    for path in paths:
        path.write_bytes(path.name.encode() * 500)
    return paths


def take(
    store: Store,
    origins: Sequence[Path],
    snapshot_id: str = "qemu-aaaaaaaaaaaa",
    decoys: tuple[str, ...] = ("block-ssh", "block-nfs"),
) -> Snapshot:
    """Hold the files as the capture step does; the caller is the writer."""
    with store.staging() as staging:
        files = [staging.hold(origin.name, origin) for origin in origins]
        staging.add_decoys(decoys)
        return store.commit(staging, snapshot(snapshot_id, files, decoys=decoys))
