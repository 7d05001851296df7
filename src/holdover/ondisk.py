# SPDX-License-Identifier: Apache-2.0
"""Look: executables and modules of programs as they lie on disk now, whether one runs or not."""

import glob
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from holdover.builds import module_stamp, read_build
from holdover.errors import ElfError
from holdover.identity import FileId
from holdover.model import Build, Installed, Module, Process
from holdover.procfs import file_id
from holdover.programs import Program
from holdover.trust import distrust

__all__ = ["OnDisk"]


class OnDisk:
    """One look; what it has read of an executable serves all processes that run it."""

    def __init__(
        self, programs: tuple[Program, ...], views: Path, known: Mapping[FileId, Build]
    ) -> None:
        self._programs = {program.name: program for program in programs}
        self._views = views
        self.builds = dict(known)
        """By executable, running or installed."""

    def installed(self) -> tuple[Installed, ...]:
        """Every executable with a stamp where the definitions say that packages put them."""
        found: dict[FileId, Installed] = {}
        for program in self._programs.values():
            for path in (Path(p) for pattern in program.installed for p in glob.glob(pattern)):
                identity = file_id(path)
                build = self.build_at(path, identity, program) if identity else None
                if identity and build and build.stamp:
                    found.setdefault(identity, Installed(path, build))
        return tuple(found.values())

    def build_at(self, path: Path, identity: FileId, program: Program) -> Build | None:
        """What lies there now; None for a wrapper script, or what could never run."""
        if identity not in self.builds:
            try:
                with path.open("rb") as file:
                    self.builds[identity] = read_build(file, program)
            except (OSError, ElfError):
                return None
        return self.builds[identity]

    def modules(
        self, processes: Iterable[Process], installed: Iterable[Installed]
    ) -> Iterator[Module]:
        """Wherever one of these looks for modules, the store's views aside."""
        processes = tuple(processes)
        directories = {
            directory: build.program
            for build in (*(p.build for p in processes), *(i.build for i in installed))
            for directory in build.directories
        } | {
            directory: process.build.program
            for process in processes
            for directory in process.chosen
            if directory.parent != self._views and not distrust(directory)
        }
        for directory, program in directories.items():
            definition = self._programs[program]
            for path in sorted(directory.glob("*.so")):
                stamp = module_stamp(path, definition)
                if stamp or definition.modules is not None:  # else it is some other library
                    yield Module(path.stem, path, stamp)
