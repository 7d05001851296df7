# SPDX-License-Identifier: Apache-2.0
"""What the dynamic linker would load for a module, and from where. Pure: files come from `Files`.

Order of search: RPATH of the object and of those that loaded it (each only where it has no
RUNPATH; none at all if the object has one), the RUNPATH of the object, ld.so.cache, the default
directories. Names are followed breadth first; what is there already is found by its soname.
LD_LIBRARY_PATH is not modelled, and a relative path is never searched: it would be relative to the
process's working directory, not to ours.

Source: ld.so(8); glibc's elf/dl-load.c (_dl_map_object) and elf/dl-deps.c.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from holdover.model import FileId

__all__ = ["Library", "Files", "System", "Found", "Closure", "closure"]


@dataclass(frozen=True, slots=True)
class Library:
    """What the linker reads of an object, the module itself included."""

    path: Path
    file: FileId
    soname: str = ""
    needed: tuple[str, ...] = ()
    rpath: str = ""
    runpath: str = ""


class Files(Protocol):
    def library(self, path: Path) -> Library | None:
        """The object at `path`; None if there is none, or one of another machine.

        Raises `ElfError` for one that the linker would stop at.
        """


@dataclass(frozen=True, slots=True)
class System:
    """What is the same for every search on a machine."""

    cache: Mapping[str, Sequence[Path]]
    """For each soname the paths that ld.so.cache names for this machine, the preferred first."""
    directories: tuple[Path, ...]
    """The default ones, in the loader's order."""
    lib: str = "lib64"
    """What $LIB stands for."""
    platform: str = "x86_64"
    """What $PLATFORM stands for."""


@dataclass(frozen=True, slots=True)
class Found:
    """`name`, as the NEEDED entry has it, leads to `library`."""

    name: str
    library: Library


@dataclass(frozen=True, slots=True)
class Closure:
    """Breadth first, as the linker would load it."""

    found: tuple[Found, ...]
    missing: tuple[str, ...]


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
    missing: list[str] = field(default_factory=list)


def closure(
    module: Library, files: Files, system: System, mapped: Mapping[str, Library] | None = None
) -> Closure:
    """All that `module` needs and that is not in `mapped` (by soname) already.

    Raises `ElfError` where the linker would stop.
    """
    known = {module.soname: module, **(mapped or {})}
    search = _Search(files, system, known, {at.file: at for at in known.values()})
    queue = [_Node(module)]
    for node in queue:  # grows while it is walked: breadth first, each file once
        for name in node.library.needed:
            if name not in search.known and (library := _load(search, name, node)):
                queue.append(_Node(library, node))
    return Closure(tuple(search.found), tuple(dict.fromkeys(search.missing)))


def _load(search: _Search, name: str, node: _Node) -> Library | None:
    """The library, if it is one that was not loaded under another name."""
    candidates = filter(Path.is_absolute, _candidates(name, node, search.system))
    library = next(filter(None, map(search.files.library, candidates)), None)
    if library is None:
        search.missing.append(name)
        return None
    new = search.by_file.setdefault(library.file, library) is library
    for alias in filter(None, (name, library.soname)):
        search.known.setdefault(alias, library)
    search.found.append(Found(name, library))
    return library if new else None


def _candidates(name: str, node: _Node, system: System) -> Iterator[Path]:
    if "/" in name:
        yield Path(_expand(name, node.library, system))
        return
    for directory in _rpath(node, system):
        yield directory / name
    if node.library.runpath:
        yield from (d / name for d in _paths(node.library.runpath, node.library, system))
    yield from system.cache.get(name, ())
    for directory in system.directories:
        yield directory / name


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
    for entry in listed.split(":"):
        yield Path(_expand(entry, library, system))


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
