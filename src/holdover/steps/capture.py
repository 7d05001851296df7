# SPDX-License-Identifier: Apache-2.0
"""Hold: put the modules of one build, and their closure, into the store while they are its own.

Modules are rewritten to find the closure in the view's `lib`; libraries are linked as they are, so
that the loader recognises those that are mapped already.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from holdover.builds import read_module_names, read_module_stamp
from holdover.errors import DamagedError, UnreadableError, VanishedError
from holdover.held import HeldFile, Snapshot
from holdover.model import Capture, LateLoad, Needed
from holdover.programs import Program
from holdover.rewrite import RPATH, rewrite
from holdover.staging import Staging
from holdover.store import Store

__all__ = ["capture"]


def capture(store: Store, wanted: Capture, programs: tuple[Program, ...]) -> Snapshot:
    """Take a snapshot; the caller holds the store's lock.

    Raises `DamagedError` if a file is no longer the build's own, `ElfError` if it is malformed,
    `VanishedError` or `UnreadableError` if the executable is gone or cannot be read, `StoreError`
    if the store cannot take it. Nothing partial stays.
    """
    program = next(p for p in programs if p.name == wanted.build.program)
    decoys = _decoys(wanted, program)
    with store.staging() as staging:
        modules = [_hold(staging, wanted, late, program) for late in wanted.modules]
        libraries, unheld = _hold_closure(store, staging, wanted)
        beside = [
            staging.hold(name, path, _origin(wanted), beside=True)
            for name, path in _beside(store, wanted, program)
        ]
        staging.add_decoys(decoys)
        staging.add_links(_in_place(wanted, program))
        files = _with_first_origins(store, (*modules, *libraries, *beside))
        return store.commit(staging, _describe(wanted, files, decoys, unheld))


def _decoys(wanted: Capture, program: Program) -> tuple[str, ...]:
    """Every name that the executable may ask for or that lies on disk, and that is not held.

    None if it may ask for any: then it looks nowhere else for what it does not find in the view.
    """
    if program.modules is None:
        return ()
    try:
        with wanted.executable.open("rb") as file:
            known = read_module_names(file, program)
    except FileNotFoundError as error:
        raise VanishedError(f"{wanted.executable} is gone") from error
    except OSError as error:
        raise UnreadableError(f"{wanted.executable} cannot be read: {error.strerror}") from error
    on_disk = {path.stem for d in wanted.build.directories for path in Path(d).glob("*.so")}
    return tuple(
        sorted((known | on_disk | set(program.asked)) - {late.name for late in wanted.modules})
    )


def _hold(staging: Staging, wanted: Capture, late: LateLoad, program: Program) -> HeldFile:
    """Hold one module, and look at what was held, not at what lay there a moment before."""
    name, origin = f"{late.name}.so", late.path.resolve()  # an alias is held as what it leads to
    if not late.order:  # it was rewritten for another snapshot, or needs nothing
        held = staging.hold(name, origin, late.origin)
    else:
        change = partial(rewrite, rpath=RPATH, needed=late.order)
        held = staging.hold_changed(name, origin, change, late.origin)
    with (staging.directory / held.path).open("rb") as file:
        if read_module_stamp(file, program) != wanted.build.stamp:
            raise _replaced(origin)
    return held


def _with_first_origins(store: Store, files: tuple[HeldFile, ...]) -> tuple[HeldFile, ...]:
    """What was taken over from another snapshot came from where that one has it from."""
    if not any(Path(file.origin).is_relative_to(store.views) for file in files):
        return files
    first = {
        str(holding.view / file.path): file.origin
        for holding in store.holdings()
        for file in holding.snapshot.files
    }
    return tuple(replace(file, origin=first.get(file.origin, file.origin)) for file in files)


def _replaced(origin: Path) -> DamagedError:
    return DamagedError(
        f"{origin} was replaced while it was being captured",
        hint="is a package manager at work? try again when it has finished",
    )


def _hold_closure(
    store: Store, staging: Staging, wanted: Capture
) -> tuple[tuple[HeldFile, ...], tuple[tuple[str, str], ...]]:
    """Every library of every module, once; and what of them is not held, with the reason."""
    needs: dict[str, Needed] = {}
    unheld = dict(wanted.unheld)
    for need in _needs(store, wanted):
        first = needs.setdefault(need.name, need)
        if first.path != need.path:
            unheld[need.name] = f"{need.path}: another one of that name comes first, {first.path}"
    held = []
    for need in needs.values():
        file = staging.hold(f"lib/{need.name}", need.path, need.origin)
        if (file.size, file.mtime_ns) != (need.size, need.mtime_ns):
            raise _replaced(need.path)
        held.append(file)
    return tuple(held), tuple(unheld.items())


def _beside(store: Store, wanted: Capture, program: Program) -> Iterator[tuple[str, Path]]:
    """What else the program reads in its directory, each by its name in there.

    From where its modules are from: what lies on disk may be another build's by now.
    """
    views = _views(store, wanted)
    for holding in store.holdings():
        if holding.view in views:
            yield from ((name, holding.view / name) for name in holding.snapshot.beside)
            return
    got_back = [late.path.parent for late in wanted.modules if late.origin]
    for directory in (got_back or wanted.build.directories)[:1]:
        for path in sorted({path for glob in program.beside for path in directory.glob(glob)}):
            name = str(path.relative_to(directory))
            if path.is_file() and not name.startswith("lib/"):  # there are the libraries
                yield name, path.resolve()


def _origin(wanted: Capture) -> str:
    """Where it was got from, if it was; as with all of the packages of a build."""
    return next((late.origin for late in wanted.modules if late.origin), "")


def _in_place(wanted: Capture, program: Program) -> dict[str, Path]:
    """What it uses in its directory and has to find there, each by its name in there."""
    found = (
        path
        for directory in wanted.build.directories[:1]
        for glob in program.in_place
        for path in directory.glob(glob)
    )
    return {path.name: path for path in sorted(found)}


def _views(store: Store, wanted: Capture) -> set[Path]:
    """Other snapshots' that modules are taken over from."""
    return {late.path.parent for late in wanted.modules if late.path.is_relative_to(store.views)}


def _needs(store: Store, wanted: Capture) -> Iterator[Needed]:
    """Those on disk first, then those of the snapshots that modules are taken over from."""
    yield from (need for late in wanted.modules for need in late.needs)
    views = _views(store, wanted)
    for holding in store.holdings():
        if holding.view in views:
            for name, file in holding.snapshot.libraries.items():
                path = holding.view / file.path
                yield Needed(name, path, file.size, file.mtime_ns)


def _describe(
    wanted: Capture,
    files: tuple[HeldFile, ...],
    decoys: tuple[str, ...],
    unheld: tuple[tuple[str, str], ...] = (),
) -> Snapshot:
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
        unheld=unheld,
        library_path=wanted.library_path,
    )


def _content_digest(wanted: Capture, files: tuple[HeldFile, ...], decoys: tuple[str, ...]) -> str:
    """The same content of the same build for the same purpose is the same snapshot."""
    identity = f"{wanted.build.build_id} {wanted.purpose} {wanted.library_path}"
    digest = hashlib.sha256(identity.encode("utf-8", "surrogateescape"))
    for part in (*(f"{held.path} {held.sha256}" for held in files), *decoys):
        digest.update(b"\n" + part.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
