# SPDX-License-Identifier: Apache-2.0
"""What late loads would do in real processes, and what has to be held for them.

Processes that run the same files share one answer: what a guest has mapped is read once for all
that have mapped the same. Nothing is loaded or executed.
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from holdover.elf import ElfFile
from holdover.errors import ElfError, MalformedError
from holdover.forecast import Forecast, World, forecast, start_up
from holdover.libraries import Libraries, read_library
from holdover.linker import Found, Library, System
from holdover.model import FileId, LateLoad, Module, Needed
from holdover.procfs import Mapping, ProcFs
from holdover.trust import distrust, distrust_file

__all__ = ["LateLoads", "Sight"]

_LIBC = "libc.so.6"
_NEVER_HELD = re.compile(r"libc\.so\.6|ld[-.].*|ld-linux.*")
# use GLIBC_PRIVATE, so they must be of the libc in the process
_COMPANION = re.compile(
    r"lib(?:anl|dl|m|mvec|nsl|nss_(?:compat|dns|files|hesiod)|pthread|resolv|rt|util)\.so\.\d+"
)
_Key = tuple[FileId, frozenset[FileId], tuple[Path, ...]]


class Sight:
    """The linker's view of one process, or of one that would be started now."""

    def __init__(self, files: Libraries, system: System, world: World) -> None:
        self.files = files
        self.system = system
        self.world = world

    def forecast(self, path: Path) -> tuple[Library | None, Forecast | None]:
        """For the module at `path`; None if there is no such object for this machine.

        Raises `ElfError` for one that is damaged.
        """
        module = self.files.library(path)
        if module is None:
            return None, None
        return module, forecast(module, self.files, self.system, self.world)


class LateLoads:
    """Forecasts for the processes of this system."""

    def __init__(self, proc: ProcFs) -> None:
        self.proc = proc
        self._files: dict[tuple[int, Path], Libraries] = {}
        self._sights: dict[_Key | Path, Sight] = {}
        self._late: dict[tuple[int, Path], LateLoad] = {}
        self._distrusted: dict[Path, str] = {}

    def of(self, sight: Sight, modules: Iterable[Module]) -> tuple[LateLoad, ...]:
        """What loading each of the modules would do."""
        found = []
        for module in modules:
            key = (id(sight), module.path)
            if key not in self._late:
                self._late[key] = self._late_load(sight, module)
            found.append(self._late[key])
        return tuple(found)

    # -- who looks -----------------------------------------------------------------------------

    def process(self, pid: int) -> Sight:
        """Raises `UnreadableError` or `MalformedError` if it cannot be foreseen."""
        maps = self.proc.maps(pid)
        code = {m.file: m for m in maps if m.file.inode and "x" in m.permissions}
        library_path = self._library_path(pid)
        key = (self.proc.file_of(pid, "exe"), frozenset(code), library_path)
        if key not in self._sights:
            self._sights[key] = self._look(pid, code.values(), library_path)
        return self._sights[key]

    def _look(self, pid: int, code: Iterable[Mapping], library_path: tuple[Path, ...]) -> Sight:
        with self.proc.open(pid, "exe") as file:
            executable, machine = read_library(file, Path(self.proc.link(pid, "exe")))
            files = self._libraries(machine, ElfFile(file).interpreter)
        mapped = files.mapped(self.proc, pid, code)
        world = World(executable, start_up(executable, mapped), mapped)
        return Sight(files, replace(files.system, library_path=library_path), world)

    def installed(self, path: Path) -> Sight:
        """One that is started from `path` now; raises `MalformedError` or `UnreadableError`."""
        if path not in self._sights:
            self._sights[path] = self._imagine(path)
        return self._sights[path]

    def _imagine(self, path: Path) -> Sight:
        with path.open("rb") as file:
            executable, machine = read_library(file, path)
            files = self._libraries(machine, ElfFile(file).interpreter)
        none = World(executable, {}, {})
        closure = forecast(executable, files, files.system, none).closure
        mapped = {entry.name: entry.library for entry in closure.found}
        return Sight(files, files.system, World(executable, mapped, mapped))

    def _libraries(self, machine: int, loader: str) -> Libraries:
        if not loader:
            raise MalformedError("its executable names no loader")
        key = (machine, Path(loader))
        return self._files.setdefault(key, Libraries(*key))

    def _library_path(self, pid: int) -> tuple[Path, ...]:
        """Read by the loader when the process started, and never again."""
        for entry in self.proc.read(pid, "environ").split("\0"):
            if entry.startswith("LD_LIBRARY_PATH="):
                names = re.split("[:;]", entry.partition("=")[2])
                return tuple(Path(name) for name in names if name.startswith("/"))
        return ()

    # -- what is foreseen ----------------------------------------------------------------------

    def _late_load(self, sight: Sight, module: Module) -> LateLoad:
        try:
            library, seen = sight.forecast(module.path)
        except ElfError as error:
            return LateLoad(module.name, module.path, problem=error.message)
        if library is None or seen is None:
            return LateLoad(module.name, module.path, problem="it is not for this machine")
        found = (*seen.closure.found, *seen.closure.named, *self._companions(sight))
        needs, unheld = self._sorted_out(found)
        return LateLoad(module.name, module.path, seen.problem, needs, seen.order, unheld)

    def _companions(self, sight: Sight) -> Iterator[Found]:
        """The rest of the process's glibc, if it still lies beside it."""
        libc = sight.world.start_up.get(_LIBC)
        there = sight.files.library(libc.path) if libc else None
        if libc is None or there is None or there.file != libc.file:
            return
        for name in sight.files.names_in(libc.path.parent):
            if _COMPANION.fullmatch(name) and name not in sight.world.start_up:
                library = sight.files.library(libc.path.parent / name)
                if library is not None:
                    yield Found(name, library)

    def _sorted_out(
        self, found: Iterable[Found]
    ) -> tuple[tuple[Needed, ...], tuple[tuple[str, str], ...]]:
        """What can be held, and what not, with the reason."""
        needs: dict[str, Needed] = {}
        unheld: dict[str, str] = {}
        for entry in found:
            library, path = entry.library, Path(os.path.realpath(entry.library.path))
            if _NEVER_HELD.fullmatch(entry.name) or entry.name in needs:
                continue
            if "/" in entry.name:
                unheld[entry.name] = "it is asked for by its path"
            elif problem := self._distrust(path):
                unheld[entry.name] = problem
            else:
                needs[entry.name] = Needed(entry.name, path, library.size, library.mtime_ns)
        return tuple(needs.values()), tuple(unheld.items())

    def _distrust(self, path: Path) -> str:
        """Why the file may be another user's work, or ""."""
        if path not in self._distrusted:
            directory = path.parent
            if directory not in self._distrusted:
                self._distrusted[directory] = distrust(directory)
            try:
                file = distrust_file(path.lstat())
            except OSError as error:
                file = f"it cannot be looked at: {error.strerror}"
            self._distrusted[path] = self._distrusted[directory] or file
        return self._distrusted[path]
