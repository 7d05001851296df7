# SPDX-License-Identifier: Apache-2.0
"""What is held beside what lies on disk: which of it serves a build."""

from collections.abc import Iterable

from holdover.model import Holding, LateLoad, Snapshot

__all__ = ["joined", "covers", "extends", "fullest"]


def joined(
    own: tuple[LateLoad, ...], held: Holding | None, *, own_first: bool
) -> tuple[LateLoad, ...]:
    """What lies on disk and what is held, of each name one: from disk, unless that fails."""
    if held is None:
        return own
    kept = {name: LateLoad(name, held.view / f"{name}.so") for name in held.snapshot.modules}
    there = {late.name: late for late in own}
    loading = {late.name: late for late in own if not late.problem}
    joined = there | kept | loading if own_first else there | loading | kept
    return tuple(joined.values())


def covers(snapshot: Snapshot, own: tuple[LateLoad, ...]) -> bool:
    """Whether it holds every module that would load, with the libraries that it would load."""
    held = {name: (file.size, file.mtime_ns) for name, file in snapshot.libraries.items()}
    return all(
        late.name in snapshot.modules
        and all(held.get(need.name) == (need.size, need.mtime_ns) for need in late.needs)
        for late in own
        if not late.problem
    )


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
