# SPDX-License-Identifier: Apache-2.0
"""What is held beside what lies on disk: which of it serves a build."""

from collections.abc import Iterable

from holdover.held import HeldFile, Holding, Snapshot
from holdover.identity import FileId
from holdover.model import LateLoad

__all__ = ["joined", "covers", "is_of", "extends", "fullest"]


def joined(
    own: tuple[LateLoad, ...],
    held: Holding | None,
    *,
    own_first: bool,
    loaded: Iterable[tuple[str, FileId]] = (),
) -> tuple[LateLoad, ...]:
    """What lies on disk and what is held, of each name one: from disk, unless that fails.

    Of what is `loaded` from a file that is not on disk, what is held.
    """
    if held is None:
        return own
    kept = {name: LateLoad(name, held.view / f"{name}.so") for name in held.snapshot.modules}
    there = {late.name: late for late in own}
    loading = {late.name: late for late in own if not late.problem}
    joined = there | kept | loading if own_first else there | loading | kept
    for name, file in loaded:
        if name in kept and (name not in there or there[name].file != file):
            joined[name] = kept[name]
    return tuple(joined.values())


def covers(snapshot: Snapshot, own: tuple[LateLoad, ...], *, same_files: bool = False) -> bool:
    """Whether it holds every module that would load, with the libraries that it would load.

    With `same_files`, also the very files, or what was made of them.
    """
    modules = snapshot.modules
    held = {name: (file.size, file.mtime_ns) for name, file in snapshot.libraries.items()}
    files = {file.path: file for file in snapshot.files} if same_files else {}
    return all(
        late.name in modules
        and all(held.get(need.name) == (need.size, need.mtime_ns) for need in late.needs)
        and (not same_files or is_of(files[f"{late.name}.so"], late))
        for late in own
        if not late.problem
    )


def is_of(held: HeldFile, late: LateLoad) -> bool:
    """Whether it is the file of a late load, or made of it if that has to be changed."""
    if held.mtime_ns != late.mtime_ns or (held.how == "rewritten") != bool(late.order):
        return False
    return bool(late.order) or held.size == late.size


def extends(new: Snapshot, old: Snapshot) -> bool:
    """Whether whoever saw the old one misses nothing in the new one, and meets nothing else."""
    there = {file.path: file.sha256 for file in new.files}
    same = all(there.get(file.path) == file.sha256 for file in old.files)
    return same and set(old.decoys) <= {*new.decoys, *new.modules}


def fullest(holdings: Iterable[Holding]) -> Holding | None:
    newest_last = sorted(holdings, key=lambda holding: holding.snapshot.created)
    return max(
        reversed(newest_last),
        key=lambda h: (len(h.snapshot.modules), len(h.snapshot.files)),
        default=None,
    )
