# SPDX-License-Identifier: Apache-2.0
"""Hold: put the modules of one build into the store while they are still what it loads."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from holdover.builds import read_module_names, read_module_stamp
from holdover.errors import DamagedError, UnreadableError, VanishedError
from holdover.model import Capture, HeldFile, Snapshot
from holdover.programs import Program
from holdover.staging import Staging
from holdover.store import Store

__all__ = ["capture"]


def capture(store: Store, wanted: Capture, programs: tuple[Program, ...]) -> Snapshot:
    """Take a snapshot; the caller holds the store's lock.

    Raises `DamagedError` if a file is no longer the build's own, `VanishedError` if the
    executable is gone, `StoreError` if the store cannot take it. Nothing partial stays.
    """
    program = next(p for p in programs if p.name == wanted.build.program)
    decoys = _decoys(wanted, program)
    with store.staging() as staging:
        files = tuple(_hold(staging, wanted, name, path, program) for name, path in wanted.modules)
        staging.add_decoys(decoys)
        return store.commit(staging, _describe(wanted, files, decoys))


def _decoys(wanted: Capture, program: Program) -> tuple[str, ...]:
    """Every name that the executable may ask for or that lies on disk, and that is not held."""
    try:
        with wanted.executable.open("rb") as file:
            known = read_module_names(file, program)
    except FileNotFoundError as error:
        raise VanishedError(f"{wanted.executable} is gone") from error
    except OSError as error:
        raise UnreadableError(f"{wanted.executable} cannot be read: {error.strerror}") from error
    on_disk = {path.stem for d in wanted.build.directories for path in Path(d).glob("*.so")}
    return tuple(sorted((known | on_disk) - {name for name, _ in wanted.modules}))


def _hold(staging: Staging, wanted: Capture, name: str, origin: Path, program: Program) -> HeldFile:
    """Hold one module, and look at what was held, not at what lay there a moment before."""
    held = staging.hold(f"{name}.so", origin.resolve())  # an alias is held as what it leads to
    with (staging.directory / held.path).open("rb") as file:
        if read_module_stamp(file, program) != wanted.build.stamp:
            raise DamagedError(
                f"{origin} was replaced while it was being captured",
                hint="is a package manager at work? try again when it has finished",
            )
    return held


def _describe(wanted: Capture, files: tuple[HeldFile, ...], decoys: tuple[str, ...]) -> Snapshot:
    build = wanted.build
    return Snapshot(
        id=f"{build.program}-{_content_digest(wanted, files, decoys)[:12]}",
        purpose=wanted.purpose,
        program=build.program,
        build_id=build.build_id,
        stamp=build.stamp or "",
        version=build.version,
        created=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        files=files,
        decoys=decoys,
    )


def _content_digest(wanted: Capture, files: tuple[HeldFile, ...], decoys: tuple[str, ...]) -> str:
    """The same content of the same build for the same purpose is the same snapshot."""
    digest = hashlib.sha256(f"{wanted.build.build_id} {wanted.purpose}".encode())
    for part in (*(f"{held.path} {held.sha256}" for held in files), *decoys):
        digest.update(b"\n" + part.encode())
    return digest.hexdigest()
