# SPDX-License-Identifier: Apache-2.0
"""Would a module load in this process, and if not, why? In a user's words. Pure.

What a process has mapped wins by its soname, however old it is; everything else comes from disk.
Source: glibc's elf/dl-version.c and elf/dl-lookup.c.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from holdover.errors import ElfError
from holdover.linker import Closure, Files, Library, Missing, System, breadth_first, closure
from holdover.symbols import Symbols, Wanted

__all__ = ["World", "Forecast", "start_up", "forecast", "unresolved"]


@dataclass(frozen=True, slots=True)
class World:
    """What a process has already; libraries by the names they are found by."""

    executable: Library
    start_up: Mapping[str, Library]
    """What came with the executable, hence with every process that runs it."""
    mapped: Mapping[str, Library]
    """The same, and what it has loaded since."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What would happen; `problem` is "" if the module would load."""

    closure: Closure
    order: tuple[str, ...] = ()
    """Everything that the module needs, in the order in which symbols are looked up."""
    problems: tuple[str, ...] = ()
    """Why it would not load, the first that the linker meets first."""

    @property
    def problem(self) -> str:
        return self.problems[0] if self.problems else ""


def start_up(executable: Library, mapped: Mapping[str, Library]) -> dict[str, Library]:
    """What of the mapped libraries the executable itself needs, directly or not."""
    found: dict[str, Library] = {}
    queue = [executable]
    for library in queue:  # grows while it is walked
        for name in library.needed:
            if name not in found and name in mapped:
                found[name] = mapped[name]
                queue.append(mapped[name])
    return found


def forecast(module: Library, files: Files, system: System, world: World) -> Forecast:
    """What a late load of `module` would do; its closure leaves out what came at the start."""
    try:
        found = closure(module, files, system, world.start_up, world.executable)
    except ElfError as error:
        return Forecast(Closure(()), problems=(str(error),))
    known = {entry.name: entry.library for entry in found.found} | dict(world.mapped)
    known = {module.soname: module, **known}
    problems = tuple(_problems(module, found, known, world))
    return Forecast(found, breadth_first(module, known), problems)


def _problems(
    module: Library, found: Closure, known: Mapping[str, Library], world: World
) -> Iterator[str]:
    for missing in found.missing:
        if missing.name not in world.mapped:
            yield _not_found(missing, module)
    loaded = {library.file: library for library in (module, *(e.library for e in found.found))}
    for library in loaded.values():
        if known.get(library.soname, library).file != library.file:
            continue  # another one is in the process, and wins
        for file, version in library.requires:
            target = known.get(file)
            if target is not None and target.defines and version not in target.defines:
                yield _too_old(_who(library, module), version, file, target, file in world.mapped)


def _not_found(missing: Missing, module: Library) -> str:
    return f"{_who(missing.needed_by, module)} needs {missing.name}, which is not to be found"


def _who(library: Library, module: Library) -> str:
    return "it" if library.file == module.file else library.soname or library.path.name


def _too_old(who: str, version: str, file: str, target: Library, mapped: bool) -> str:
    prefix = version.rpartition("_")[0]
    same = [name for name in target.defines if prefix and name.startswith(f"{prefix}_")]
    numbered = (name for name in same if name[len(prefix) + 1 :][:1].isdigit())
    best = max(numbered, key=_rank, default="")
    where = f"the {file} in the process" if mapped else f"the {file} on disk"
    return f"{who} needs {version}, {where} has " + (f"only {best}" if best else "no such version")


def _rank(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def unresolved(
    module: Library,
    seen: Forecast,
    world: World,
    symbols: Callable[[Library], Symbols],
    around: Iterable[Library] = (),
) -> Iterator[tuple[Library, Wanted]]:
    """Symbols that nothing would define, each with the object that wants it.

    Looked up as the linker does: first in what came with the executable, then in the module and
    what it needs. `around` are the other modules of the build with what they need: programs load
    those that a module builds upon before it, for everybody to see. A function that is missing may
    never be called; then nobody would notice.
    """
    by_name = {entry.name: entry.library for entry in seen.closure.found} | dict(world.mapped)
    own = [module, *(by_name[name] for name in seen.order if name in by_name)]
    common = (world.executable, *world.start_up.values())
    scope = {library.file: library for library in (*common, *own, *around)}
    offers = [symbols(library) for library in scope.values()]
    there = {library.file for library in world.mapped.values()}
    for library in own:
        if library.file in there:
            continue  # it is loaded already
        for symbol in symbols(library).wanted:
            if not any(offer.offers(symbol) for offer in offers):
                yield library, symbol
