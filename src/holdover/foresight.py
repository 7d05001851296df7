# SPDX-License-Identifier: Apache-2.0
"""Adds to what was seen of processes and installed builds what their late loads would do."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from holdover.errors import HoldoverError
from holdover.lateloads import LateLoads
from holdover.model import Build, Installed, LateLoad, Module, Process, Rescued, Scan
from holdover.procfs import file_id
from holdover.search import directories, first_found
from holdover.sight import Sight

__all__ = ["Foresight"]

_A_BUILD = 86400 * 10**9  # ns; as a rule all files of a build have one time


class Foresight:
    """Looks ahead by what lies on disk (`modules`) and in the views."""

    def __init__(
        self,
        late: LateLoads,
        views: Path,
        modules: tuple[Module, ...],
        rescued: Mapping[str, Rescued] | None = None,
    ) -> None:
        """`rescued` has what was got back for builds, by build-id."""
        self.late = late
        self.views = views
        self.modules = modules
        self.rescued = rescued or {}
        self.view_files = {file_id(view): view for view in views.glob("*")}
        self._own: dict[tuple[object, ...], tuple[Module, ...]] = {}

    def scan(self, seen: Scan, sights: Mapping[int, Sight | None]) -> Scan:
        """With all that is foreseen; `sights` are by pid."""
        processes = (
            self.process(process, sights.get(process.id.pid)) for process in seen.processes
        )
        installed = map(self.installed, seen.installed)
        return replace(seen, processes=tuple(processes), installed=tuple(installed))

    def process(self, process: Process, sight: Sight | None) -> Process:
        """`sight` is the linker's view of it; without one, why is known."""
        build = process.build
        if sight is None or build.stamp is None or process.unsupported:
            return process
        try:
            with self.late.on_behalf_of(process.id.pid):
                on_disk = self.late.of(
                    sight,
                    self._on_disk(build, directories(process, self.views)),
                    doubtful=_doubtful(process, sight),
                    by_file=build.by_file,
                )
                if process.outlived and build.strict:
                    on_disk = tuple(map(_refused, on_disk))
                view = self._view(process)
                late = self.late.of(sight, self.late.modules_in(view), view) if view else on_disk
                if not view and process.fallback:
                    late = self._with_fallback(sight, on_disk, process.fallback)
                process = replace(process, own=on_disk, late=late)
                rescued = self.rescued.get(build.build_id)
                return self._with_rescued(process, sight, rescued) if rescued else process
        except (HoldoverError, OSError) as error:
            return replace(process, unforeseen=str(error))

    def _on_disk(self, build: Build, where: tuple[Path, ...]) -> tuple[Module, ...]:
        """Modules of a build that are found first in these directories."""
        key = (build.stamp, where)
        if key not in self._own:
            own = [module for module in self.modules if module.stamp == build.stamp]
            self._own[key] = tuple(first_found(own, where).values())
        return self._own[key]

    def _with_rescued(self, process: Process, sight: Sight, rescued: Rescued) -> Process:
        """Whose the files on disk are is of no matter then: these are of its very build.

        Libraries of two systems are never mixed: with those of another one, only its modules count.
        """
        if rescued.root is not None:
            sight = self.late.beside(sight, rescued.root)
        found = self.late.of(sight, rescued.modules, rescued.root)
        own = {late.name: _with_origin(late, rescued.origins) for late in found}
        if rescued.root is None and not (process.look_alike or process.outlived):
            own |= {late.name: late for late in process.own if not late.problem}
        own_modules = tuple(own.values())
        return replace(process, own=own_modules, look_alike=False, whole=rescued.whole)

    def _view(self, process: Process) -> Path | None:
        """Where it looks first, if that is one of ours."""
        first = next(iter(process.chosen), None)
        if first is not None:
            return first if first.parent == self.views else None
        return self.view_files.get(process.covered_by)

    def _with_fallback(
        self, sight: Sight, on_disk: tuple[LateLoad, ...], view: Path
    ) -> tuple[LateLoad, ...]:
        """What lies on disk comes first, and if it does not load, it is as if it were not there."""
        last = {late.name: late for late in self.late.of(sight, self.late.modules_in(view), view)}
        first = {late.name: late for late in on_disk if not late.problem}
        return tuple((last | first).values())

    def installed(self, found: Installed) -> Installed:
        own = self._on_disk(found.build, found.build.directories)
        try:
            sight, by_file = self.late.installed(found.path), found.build.by_file
            return replace(found, own=self.late.of(sight, own, by_file=by_file))
        except (HoldoverError, OSError) as error:
            return replace(found, unforeseen=str(error))


def _doubtful(process: Process, sight: Sight) -> float:
    """From when on files may be a later build's, where the stamp does not tell: of one whose
    executable was replaced, all; else those that are younger than that, as when some of a build's
    packages were replaced, and others not yet."""
    if process.build.exact:
        return math.inf
    return -math.inf if process.outlived else sight.world.executable.mtime_ns + _A_BUILD


def _refused(late: LateLoad) -> LateLoad:
    return replace(late, problem=late.problem or "it is of another build")


def _with_origin(late: LateLoad, origins: Mapping[Path, str]) -> LateLoad:
    needs = (replace(need, origin=origins.get(need.path, "")) for need in late.needs)
    return replace(late, origin=origins.get(late.path, ""), needs=tuple(needs))
