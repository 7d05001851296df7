# SPDX-License-Identifier: Apache-2.0
"""What late loads would do in real processes, and what has to be held for them.

Processes that run the same files share one answer: what a guest has mapped is read once for all
that have mapped the same. Nothing is loaded or executed.
"""

import math
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from holdover.dlopened import suggested_names
from holdover.elf import ElfFile
from holdover.errors import ElfError, HoldoverError, MalformedError, UnreadableError
from holdover.forecast import Forecast, World, forecast, start_up, unresolved
from holdover.identity import FileId
from holdover.libraries import CACHE, Libraries, read_library
from holdover.linker import Found, Library, candidates
from holdover.loaded import mapped_objects
from holdover.model import LateLoad, Module, Needed, Process
from holdover.procfs import DELETED, Mapping, ProcFs
from holdover.rooted import RootedLibraries
from holdover.sight import Sight
from holdover.touching import time_taken
from holdover.trust import distrust, distrust_file

if TYPE_CHECKING:
    from holdover.answers import Step
    from holdover.pending import PendingFiles

__all__ = ["LateLoads"]

PATIENCE = 5.0
"""Seconds of our own processor time for all processes of one user. A host full of guests takes a
fraction of one; but users choose what their processes map, how often, and where these look for
libraries, and may make it as tedious to follow as they like. The others must have their turn all
the same."""

_FREE = 0.01
"""Seconds of each look that are not counted, thrice what one at an honest guest takes: else a host
with hundreds of them, all of one user, would be a host of a user who takes too long."""
_MAX_LIBRARY_PATH = 256
_NEVER_HELD = re.compile(r"libc\.so\.6|ld[-.].*|ld-linux.*")
_Key = tuple[FileId, frozenset[FileId], tuple[Path, ...], int]


class LateLoads:
    """Forecasts for the processes of this system."""

    def __init__(
        self,
        proc: ProcFs,
        *,
        deep: bool = False,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time_taken,
        cache: Path = CACHE,
    ) -> None:
        """With `deep`, every symbol is looked up too: half a second for a build."""
        self.proc = proc
        self.deep = deep
        self.patience = patience
        self.clock = clock
        self.cache = cache
        self._spent: dict[int, float] = defaultdict(float)  # by user
        self._deadline = float("inf")
        self._files: dict[tuple[int, Path], Libraries] = {}
        self._sights: dict[_Key | Path, Sight] = {}
        self._beside: dict[tuple[Sight, Path], Sight] = {}
        self._views: dict[Path, tuple[Module, ...]] = {}
        self._late: dict[tuple[int, Path], LateLoad] = {}
        self._origins: dict[Path, tuple[Path, str]] = {}
        self._distrusted: dict[Path, str] = {}

    def of(
        self,
        sight: Sight,
        modules: Iterable[Module],
        view: Path | None = None,
        *,
        doubtful: float = math.inf,
        by_file: bool = False,
    ) -> tuple[LateLoad, ...]:
        """What loading each of the modules of one build would do; raises as `check_trust`.

        What lies in `view` the process may see at another place: whether it can be mapped as code
        there is not looked at. Of modules whose files are younger than `doubtful`, in nanoseconds,
        every symbol is looked up. `by_file` is as in `Build`: what is loaded, or needs nothing
        more, has to be held as it is.
        """
        modules, found = tuple(modules), []
        for module in modules:
            key = (id(sight), module.path)
            if key not in self._late:
                late = self._late_load(sight, module, modules, view, doubtful=doubtful)
                self._late[key] = self._as_it_is(sight, late) if by_file else late
            found.append(self._late[key])
        return tuple(found)

    def modules_in(self, view: Path) -> tuple[Module, ...]:
        """Of a view, which is never changed: without the decoys, which are empty."""
        if view not in self._views:
            paths = [path for path in sorted(view.glob("*.so")) if path.stat().st_size]
            self._views[view] = tuple(Module(path.stem, path, "") for path in paths)
        return self._views[view]

    @contextmanager
    def on_behalf_of(self, pid: int) -> Iterator[None]:
        """Raises `UnreadableError` in the midst of it when its user has had his share."""
        user, started = self.proc.owner(pid), self.clock()
        self._deadline = started + self.patience - self._spent[user]
        try:
            self._check()
            yield
        finally:
            self._spent[user] += max(0.0, self.clock() - started - _FREE)
            self._deadline = float("inf")

    def _check(self) -> None:
        if self.clock() > self._deadline:
            raise UnreadableError("its user's processes take too long to look at")

    # -- who looks -----------------------------------------------------------------------------

    def see(self, process: Process, maps: Sequence[Mapping]) -> tuple[Process, Sight | None]:
        """With its LD_LIBRARY_PATH, and what it has mapped now; or why that cannot be told."""
        pid, library_path = process.id.pid, ""
        try:
            # who was forked has its own from there, and may have written its title over it
            library_path = self.library_path(process.part_of or pid)
            sight = self.process(pid, maps, library_path)
            return replace(process, library_path=library_path), sight
        except (HoldoverError, OSError) as error:
            return replace(process, library_path=library_path, unforeseen=str(error)), None

    def process(
        self, pid: int, maps: Sequence[Mapping] = (), library_path: str | None = None
    ) -> Sight:
        """Raises `UnreadableError` or `MalformedError` if it cannot be foreseen.

        `maps` and `library_path` are what was read a moment ago.
        """
        maps = maps or self.proc.maps(pid)
        objects = frozenset(mapping.file for mapping, _ in mapped_objects(maps))
        text = self.library_path(pid) if library_path is None else library_path
        names = dict.fromkeys(re.split("[:;]", text))
        if len(names) > _MAX_LIBRARY_PATH:
            raise MalformedError(f"its LD_LIBRARY_PATH names {len(names)} directories")
        directories = tuple(Path(name) for name in names if name.startswith("/"))
        executable, namespace = self.proc.file_of(pid, "exe"), self.proc.namespace(pid)
        key = (executable, objects, directories, namespace)
        if key in self._sights:
            self._sights[key].files.also_mapped(self.proc, pid)
        else:
            self._sights[key] = self._look(pid, maps, directories)
        return self._sights[key]

    def _look(self, pid: int, maps: Iterable[Mapping], library_path: tuple[Path, ...]) -> Sight:
        with self.proc.open(pid, "exe") as file:
            path = Path(self.proc.link(pid, "exe").removesuffix(DELETED))
            executable, machine = read_library(file, path)
            files = self._libraries(machine, ElfFile(file).interpreter)
        mapped = files.mapped(self.proc, pid, maps)
        world = World(executable, start_up(executable, mapped), mapped)
        system = replace(files.system, library_path=library_path)
        return Sight(files, system, world, self.proc.path(pid, "root"))

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

    def after(self, sight: Sight, pending: "PendingFiles") -> Sight:
        """The same process when the pending change has been made."""
        from holdover.pending import PendingLibraries

        return Sight(PendingLibraries(sight.files, pending), sight.system, sight.world)

    def beside(self, sight: Sight, root: Path) -> Sight:
        """The same process, with the libraries of another system that was unpacked below `root`."""
        if (sight, root) not in self._beside:
            files = RootedLibraries(sight.files, root)
            directories = (*sight.files.configured, *sight.system.directories)
            system = replace(sight.system, cache={}, library_path=(), directories=directories)
            self._beside[sight, root] = Sight(files, system, sight.world, sight.root)
        return self._beside[sight, root]

    def _libraries(self, machine: int, loader: str) -> Libraries:
        if not loader:
            raise MalformedError("its executable names no loader")
        key = (machine, Path(loader))
        return self._files.setdefault(key, Libraries(*key, self._check, self.cache))

    def library_path(self, pid: int) -> str:
        """LD_LIBRARY_PATH; the loader reads it when a process starts, and never again."""
        for entry in self.proc.read(pid, "environ").split("\0"):
            if entry.startswith("LD_LIBRARY_PATH="):
                return entry.partition("=")[2]
        return ""

    # -- what is foreseen ----------------------------------------------------------------------

    def _late_load(
        self,
        sight: Sight,
        module: Module,
        siblings: tuple[Module, ...],
        view: Path | None,
        *,
        doubtful: float,
    ) -> LateLoad:
        try:
            there = sight.forecast(module.path)
            if there is None:
                return LateLoad(module.name, module.path, problem="it is not for this machine")
            library, seen = there
            sight.check_trust(seen)
            problem, other = self._problem(sight, library, seen, view), False
            young = library.mtime_ns > doubtful
            if (self.deep or young) and not problem:
                spans = doubtful < math.inf  # then no other executable shares its modules
                problem, other = _undefined(sight, library, seen, siblings, doubtful=spans)
        except ElfError as error:
            return LateLoad(module.name, module.path, problem=error.message)
        found = (*seen.closure.found, *sight.started_with(seen), *seen.closure.named)
        found = (*found, *sight.companions)
        needs, unheld = self._sorted_out(found)
        order = (*seen.order, *sight.resolvers) if seen.order else ()
        file = (library.file, library.size, library.mtime_ns)
        return LateLoad(module.name, module.path, problem, other, needs, order, unheld, "", *file)

    def lacking(self, sight: Sight, late: LateLoad, siblings: Iterable[LateLoad]) -> str:
        """Why a module that finds all its libraries would not load all the same, or "".

        `siblings` are the others that lie beside it.
        """
        there = sight.forecast(late.path)
        if there is None:
            return ""
        modules = tuple(Module(other.name, other.path, "") for other in siblings)
        return _undefined(sight, *there, modules, doubtful=True)[0]

    def _as_it_is(self, sight: Sight, late: LateLoad) -> LateLoad:
        """Without what it needs, if that is mapped in every process of the build, or it is itself.

        Held like that it is not rewritten, and stays the file that it was.
        """
        loaded = any(library.file == late.file for library in sight.world.mapped.values())
        if loaded or all(name in sight.world.start_up for name in late.order):
            return replace(late, needs=(), order=(), unheld=())
        return late

    # -- how it would go -----------------------------------------------------------------------

    def way(
        self, sight: Sight, late: LateLoad
    ) -> tuple[tuple["Step", ...], tuple[tuple[str, str], ...]]:
        """Where the linker finds each library; and what they open by name that is not held.

        Raises `ElfError` or `UnreadableError` where it cannot be followed.
        """
        from holdover.answers import Step

        there = sight.forecast(late.path)
        if there is None:
            return (), ()
        library, seen = there
        mapped, found = sight.world.mapped, {f.name: f for f in seen.closure.found}
        known = {f.library.soname: f for f in reversed(found.values())} | found
        steps = [
            Step(name, mapped[name].path, "mapped already")
            if name in mapped
            else Step(name, known[name].library.path, known[name].why)
            for name in seen.order
        ]
        objects = [library, *(f.library for f in found.values() if f.name not in mapped)]
        held = {*mapped, *found, *sight.files.names_in(late.path.parent / "lib")}
        opened = [(name, who) for at in objects for name, who in _opened(sight, at, held)]
        return tuple(steps), tuple(dict.fromkeys(opened))

    def _problem(self, sight: Sight, module: Library, seen: Forecast, view: Path | None) -> str:
        missing = next((m.name for m in seen.closure.missing if m.name in seen.problem), None)
        directory = missing and sight.files.unlisted(missing)
        if directory:
            return f"{seen.problem}; it lies in {directory}: run ldconfig"
        new = (module.path, *(entry.library.path for entry in seen.closure.found))
        where = (path for path in new if view is None or not path.is_relative_to(view))
        return seen.problem or sight.noexec(where)

    def _sorted_out(
        self, found: Iterable[Found]
    ) -> tuple[tuple[Needed, ...], tuple[tuple[str, str], ...]]:
        """What can be held, and what not, with the reason."""
        needs: dict[str, Needed] = {}
        unheld: dict[str, str] = {}
        for entry in found:
            library = entry.library
            if _NEVER_HELD.fullmatch(entry.name) or entry.name in needs:
                continue
            path, problem = self._origin(library.path)
            if "/" in entry.name:
                unheld[entry.name] = "it is asked for by its path"
            elif problem:
                unheld[entry.name] = problem
            else:
                needs[entry.name] = Needed(entry.name, path, library.size, library.mtime_ns)
        return tuple(needs.values()), tuple(unheld.items())

    def _origin(self, path: Path) -> tuple[Path, str]:
        """The file behind all links, and why it may be another user's work, or ""."""
        if path not in self._origins:  # many modules need the same libraries
            real = Path(os.path.realpath(path))
            self._origins[path] = real, self._distrust(real)
        return self._origins[path]

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


def _undefined(
    sight: Sight,
    module: Library,
    seen: Forecast,
    siblings: tuple[Module, ...],
    *,
    doubtful: bool,
) -> tuple[str, bool]:
    """What nothing would define, and whether another executable of the build does instead."""
    around = sight.surroundings(siblings)
    wanted = unresolved(module, seen, sight.world, sight.files.symbols, around)
    for library, symbol in wanted:
        if library.file != module.file:
            return f"{library.soname or library.path.name} needs {symbol}, which nothing has", False
        if symbol.version:
            return f"it needs {symbol}, which nothing has", False
        if doubtful:  # it is of another build
            return f"undefined symbol {symbol}", False
        return f"it needs {symbol}, which this executable has not", True
    return "", False


def _opened(sight: Sight, library: Library, held: set[str]) -> Iterator[tuple[str, str]]:
    """What of this system the library seems to open by name, beyond what is held.

    "" stands for files whose names it makes up when it runs.
    """
    who = library.soname or library.path.name
    imports = frozenset(symbol.name for symbol in sight.files.symbols(library).wanted)
    suggested = None
    with sight.files.open(library) as file, suppress(ElfError):  # too much to look through
        suggested = suggested_names(ElfFile(file), imports)
    names = dict.fromkeys((*library.named, *(suggested or ())))
    for name in names:
        if name not in held and any(map(sight.files.library, candidates(name, sight.system))):
            yield name, who
    if suggested is not None and not names:
        yield "", who
