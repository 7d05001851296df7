# SPDX-License-Identifier: Apache-2.0
"""What the dynamic linker would load for a module, and from where. Pure: files come from `Files`.

Order of search: RPATH of the object, of those that loaded it and of the executable (each only where
it has no RUNPATH; none at all if the object has one), LD_LIBRARY_PATH, the RUNPATH of the object,
ld.so.cache, the default directories. In each directory the subdirectories for the processor come
first. Names are followed breadth first; what is there already is found by its soname, or by device
and inode if another name led to it. A relative path is never searched: it would be relative to the
process's working directory, not to ours.

Not modelled: the hardware subdirectories that glibc had before 2.37 (tls/, haswell/, x86_64/);
$PLATFORM as glibc has it on some processors of Intel (haswell, xeon_phi); of several entries in
ld.so.cache, that glibc looks at the first alone; DT_AUXILIARY, DT_FILTER, DF_1_NODEFLIB.

Source: ld.so(8); glibc's elf/dl-load.c (_dl_map_object) and elf/dl-deps.c.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from holdover.errors import ElfError
from holdover.identity import FileId

__all__ = [
    "Library",
    "Files",
    "System",
    "Found",
    "Missing",
    "Closure",
    "closure",
    "breadth_first",
    "candidates",
]


_MAX_PLACES = 100_000
_MAX_LIBRARIES = 4096


@dataclass(frozen=True, slots=True)
class Library:
    """What the linker reads of an object, the module itself included."""

    path: Path
    file: FileId
    soname: str = ""
    needed: tuple[str, ...] = ()
    rpath: str = ""
    runpath: str = ""
    requires: tuple[tuple[str, str], ...] = ()
    """(name as in NEEDED, symbol version) that it insists on."""
    defines: frozenset[str] = frozenset()
    """Symbol versions that it offers; empty if it knows none."""
    named: tuple[str, ...] = ()
    """Sonames that it opens by name when it runs, as its .note.dlopen says."""
    size: int = 0
    mtime_ns: int = 0
    distrust: str = ""
    """Why somebody but root may have written it."""


class Files(Protocol):
    def library(self, path: Path) -> Library | None:
        """The object at `path`; None if there is none, or one of another machine.

        Raises `ElfError` for one that the linker would stop at.
        """


@dataclass(frozen=True, slots=True)
class System:
    """What is the same for every search in a process."""

    cache: Mapping[str, Sequence[Path]]
    """For each soname the paths that ld.so.cache names for this machine, the preferred first."""
    directories: tuple[Path, ...]
    """The default ones, in the loader's order."""
    lib: str = "lib64"
    """What $LIB stands for."""
    platform: str = "x86_64"
    """What $PLATFORM stands for."""
    hwcaps: tuple[str, ...] = ()
    """Subdirectories for this processor (glibc-hwcaps/x86-64-v3, ...), the preferred first."""
    library_path: tuple[Path, ...] = ()
    """LD_LIBRARY_PATH, as it was when the process started."""


@dataclass(frozen=True, slots=True)
class Found:
    """`name`, as the NEEDED entry has it, leads to `library`; `why` says through what."""

    name: str
    library: Library
    why: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    name: str
    needed_by: Library


@dataclass(frozen=True, slots=True)
class Closure:
    """Breadth first, as the linker would load it."""

    found: tuple[Found, ...]
    missing: tuple[Missing, ...] = ()
    named: tuple[Found, ...] = ()
    """What these may open by name when they run, as they declare it, with all that it needs."""


@dataclass(frozen=True, slots=True)
class _Node:
    library: Library
    loader: "_Node | None" = None


@dataclass
class _Search:
    files: Files
    system: System
    known: dict[str, Library]
    by_file: dict[FileId, Library]
    found: list[Found] = field(default_factory=list)
    missing: dict[str, Missing] = field(default_factory=dict)
    places: int = _MAX_PLACES
    """How many may still be looked at: a library can be made to need anything, from anywhere."""


def closure(
    module: Library,
    files: Files,
    system: System,
    mapped: Mapping[str, Library] | None = None,
    executable: Library | None = None,
) -> Closure:
    """All that `module` needs and that is not in `mapped` (by soname) already.

    Raises `ElfError` where the linker would stop, or be at it forever.
    """
    known = {module.soname: module, **(mapped or {})}
    search = _Search(files, system, known, {at.file: at for at in (module, *known.values())})
    queue = [_Node(module, _Node(executable) if executable else None)]
    _follow(search, queue)
    found, missing = tuple(search.found), tuple(search.missing.values())
    openers = [(node, node.library.named) for node in queue]
    for node, names in openers:
        queue = _load_all(search, node, names)
        _follow(search, queue)
    return Closure(found, missing, tuple(search.found[len(found) :]))


def _follow(search: _Search, queue: list[_Node]) -> None:
    for node in queue:  # grows while it is walked: breadth first, each file once
        queue += _load_all(search, node, node.library.needed)


def _load_all(search: _Search, node: _Node, names: Iterable[str]) -> list[_Node]:
    """Those that are new; an empty name stands for the program itself."""
    wanted = (name for name in names if name and name not in search.known)
    return [_Node(new, node) for name in wanted if (new := _load(search, name, node))]


def breadth_first(module: Library, known: Mapping[str, Library]) -> tuple[str, ...]:
    """Names of all that `module` needs, in the order in which its symbols are looked up."""
    order: dict[str, None] = {}
    queue, seen = [module], {module.file}
    for library in queue:  # grows while it is walked
        for name in library.needed:
            at = known.get(name)
            if at is None or at.file == module.file:
                continue
            order[name] = None  # also a second name of what was there: it is asked for by both
            if at.file not in seen:
                seen.add(at.file)
                queue.append(at)
    return tuple(order)


def _load(search: _Search, name: str, node: _Node) -> Library | None:
    """The library, if it is one that was not loaded under another name."""
    library, why = _first(search, name, node)
    if library is None:
        search.missing.setdefault(name, Missing(name, node.library))
        return None
    new = search.by_file.setdefault(library.file, library) is library
    for alias in filter(None, (name, library.soname)):
        search.known.setdefault(alias, library)
    search.found.append(Found(name, library, why))
    if len(search.found) > _MAX_LIBRARIES:
        raise ElfError(f"more than {_MAX_LIBRARIES} libraries are needed")
    return library if new else None


def _first(search: _Search, name: str, node: _Node) -> tuple[Library | None, str]:
    for path, why in _candidates(name, node, search.system):
        search.places -= 1
        if search.places < 0:
            raise ElfError(f"libraries are looked for in more than {_MAX_PLACES} places")
        if path.is_absolute() and (library := search.files.library(path)):
            return library, why
    return None, ""


def candidates(name: str, system: System) -> Iterator[Path]:
    """Where a library is looked for that no RPATH or RUNPATH leads to, in order."""
    yield from (path for path, _ in _everywhere(name, system))


def _candidates(name: str, node: _Node, system: System) -> Iterator[tuple[Path, str]]:
    """Where to look, in order, each with the reason."""
    library = node.library
    if "/" in name:
        yield Path(_expand(name, library, system)), "its path"
        return
    yield from _below(_rpath(node, system), name, system, "RPATH")
    yield from _below(system.library_path, name, system, "LD_LIBRARY_PATH")
    if library.runpath:
        yield from _below(_paths(library.runpath, library, system), name, system, "RUNPATH")
    yield from _everywhere(name, system)


def _everywhere(name: str, system: System) -> Iterator[tuple[Path, str]]:
    for path in system.cache.get(name, ()):
        yield path, "ld.so.cache"
    yield from _below(system.directories, name, system, "a default directory")


def _below(
    directories: Iterable[Path], name: str, system: System, why: str
) -> Iterator[tuple[Path, str]]:
    for directory in directories:
        for special in system.hwcaps:
            yield directory / special / name, why
        yield directory / name, why


def _rpath(node: _Node, system: System) -> Iterator[Path]:
    """Of the object and of its loaders; a RUNPATH of the object switches all of it off."""
    if node.library.runpath:
        return
    at: _Node | None = node
    while at is not None:
        if at.library.rpath and not at.library.runpath:
            yield from _paths(at.library.rpath, at.library, system)
        at = at.loader


def _paths(listed: str, library: Library, system: System) -> Iterator[Path]:
    for entry in _entries(listed):
        yield Path(_expand(entry, library, system))


@lru_cache(maxsize=32)  # else a long list of the same costs as much again for each name
def _entries(listed: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(listed.split(":")))


def _expand(text: str, library: Library, system: System) -> str:
    """Dynamic string tokens; ld.so(8) allows both ways to write them."""
    values = {
        "ORIGIN": str(library.path.parent),
        "LIB": system.lib,
        "PLATFORM": system.platform,
    }
    for token, value in values.items():
        text = text.replace(f"${{{token}}}", value).replace(f"${token}", value)
    return text
