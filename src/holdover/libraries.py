# SPDX-License-Identifier: Apache-2.0
"""What the linker model needs of a real system: its libraries, its cache, its processor.

Every file is read once, however many modules of however many processes need it. Nothing is loaded
or executed.
"""

import glob
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from holdover.dlopened import declared_names
from holdover.elf import ElfFile
from holdover.errors import ElfError, MalformedError, OtherMachineError, UnreadableError
from holdover.hwcaps import hwcaps_directories
from holdover.ldcache import parse_cache
from holdover.ldconf import parse_conf
from holdover.linker import Library, System
from holdover.model import FileId
from holdover.procfs import DELETED, Mapping, ProcFs, file_id
from holdover.symbols import Symbols, read_symbols
from holdover.versions import defined_versions, needed_versions

__all__ = ["Libraries", "read_library"]

_CACHE = Path("/etc/ld.so.cache")
_CONFIGURATION = Path("/etc/ld.so.conf")
_DEFAULT_DIRECTORIES = re.compile(rb"(?:/[A-Za-z0-9_/-]+/\0){2,}")  # as the loader has them


def read_library(file: BinaryIO, path: Path) -> tuple[Library, int]:
    """The open object, and its machine as in the ELF header.

    Raises `ElfError` if it is malformed, `OtherMachineError` if it is not for 64-bit little-endian
    machines at all.
    """
    found, elf = os.fstat(file.fileno()), ElfFile(file)
    library = Library(
        path=path,
        file=FileId(found.st_dev, found.st_ino),
        soname=elf.soname,
        needed=elf.needed,
        rpath=elf.rpath,
        runpath=elf.runpath,
        requires=needed_versions(elf),
        defines=defined_versions(elf),
        named=declared_names(elf),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
    )
    return library, elf.machine


class Libraries:
    """The libraries of this system for processes of one machine type (`EM_*` of elf(5)).

    Raises `ElfError` from `library` for a file that the linker would stop at.
    """

    def __init__(self, machine: int, loader: Path) -> None:
        self.machine = machine
        self.loader = loader
        self._by_path: dict[Path, Library | None] = {}
        self._by_file: dict[FileId, Library | None] = {}
        self._absent: set[Path] = set()
        self._names: dict[Path, tuple[str, ...]] = {}
        self._sources: dict[FileId, Path] = {}
        self._symbols: dict[FileId, Symbols] = {}

    def library(self, path: Path) -> Library | None:
        """The object at `path`; None if there is none, or one of another machine."""
        if path not in self._by_path:
            self._by_path[path] = None if path.parent in self._absent else self._open(path)
        return self._by_path[path]

    def _open(self, path: Path) -> Library | None:
        try:
            with path.open("rb") as file:
                return self._read(file, path)
        except OSError:  # the linker, too, goes on to the next directory
            if not path.parent.is_dir():
                self._absent.add(path.parent)
            return None

    def _read(self, file: BinaryIO, path: Path) -> Library | None:
        found = os.fstat(file.fileno())
        identity = FileId(found.st_dev, found.st_ino)
        if identity not in self._by_file:
            try:
                library, machine = read_library(file, path)
                self._by_file[identity] = library if machine == self.machine else None
            except OtherMachineError:
                self._by_file[identity] = None
            except ElfError as error:
                raise ElfError(f"{path} is damaged: {error.message}") from error
        known = self._by_file[identity]
        return None if known is None else replace(known, path=path)

    def names_in(self, directory: Path) -> tuple[str, ...]:
        """What lies in a directory; nothing if it cannot be read."""
        if directory not in self._names:
            try:
                self._names[directory] = tuple(sorted(os.listdir(directory)))
            except OSError:
                self._names[directory] = ()
        return self._names[directory]

    def mapped(self, proc: ProcFs, pid: int, maps: Iterable[Mapping]) -> dict[str, Library]:
        """What a process has mapped as code, by soname: the very files, replaced or not.

        Raises `UnreadableError` without the right to open them, `VanishedError` if it ended.
        """
        found: dict[str, Library] = {}
        for mapping in maps:
            if not mapping.file.inode or "x" not in mapping.permissions:
                continue
            with proc.open(pid, f"map_files/{mapping.start:x}-{mapping.end:x}") as file:
                try:
                    library = self._read(file, Path(mapping.path.removesuffix(DELETED)))
                except ElfError:
                    continue  # mapped as code, and no library: the program's own business
                source = Path(file.name)
            if library is not None:
                self._sources.setdefault(library.file, source)
                found.setdefault(library.soname or library.path.name, library)
        return found

    def open(self, library: Library) -> BinaryIO:
        """The very file; raises `UnreadableError` if it is gone."""
        for path in (library.path, self._sources.get(library.file)):
            if path is not None and file_id(path) == library.file:
                return path.open("rb")
        raise UnreadableError(f"{library.path} was replaced, and cannot be read any more")

    def symbols(self, library: Library) -> Symbols:
        """What it binds to others, and offers; raises `ElfError` or `UnreadableError`."""
        if library.file not in self._symbols:
            with self.open(library) as file:
                self._symbols[library.file] = read_symbols(ElfFile(file))
        return self._symbols[library.file]

    @cached_property
    def _configured(self) -> tuple[Path, ...]:
        """Directories that ldconfig looks into."""
        found: list[str] = []
        todo, seen = [str(_CONFIGURATION)], set()
        while todo:
            path = todo.pop(0)
            if path in seen:
                continue
            seen.add(path)
            with suppress(OSError):
                directories, includes = parse_conf(Path(path).read_text(errors="replace"))
                found += directories
                for pattern in includes:
                    todo += sorted(glob.glob(str(_CONFIGURATION.parent / pattern)))
        return tuple(map(Path, found))

    def unlisted(self, name: str) -> Path | None:
        """A directory where the library lies, and only the cache does not know it yet."""
        return next((at for at in self._configured if self.library(at / name)), None)

    @cached_property
    def system(self) -> System:
        """Raises `UnreadableError` if the loader or the cache cannot be read."""
        directories = self._default_directories()
        try:
            data = _CACHE.read_bytes() if _CACHE.exists() else b""
            hwcaps = hwcaps_directories(Path("/proc/cpuinfo").read_text())
            entries = parse_cache(data) if data else ()
        except (OSError, MalformedError) as error:
            raise UnreadableError(
                f"{_CACHE} cannot be read: {error}", hint="run ldconfig"
            ) from error
        cache: dict[str, list[Path]] = {}
        supported = {name.rpartition("/")[2]: rank for rank, name in enumerate(hwcaps)}
        ranked = sorted(entries, key=lambda entry: supported.get(entry.hwcaps, len(supported)))
        for entry in ranked:
            if not entry.hwcaps or entry.hwcaps in supported:
                cache.setdefault(entry.soname, []).append(Path(entry.path))
        lib = str(directories[0]).removeprefix("/usr").removeprefix("/")
        return System(cache, directories, lib=lib, hwcaps=hwcaps)

    def _default_directories(self) -> tuple[Path, ...]:
        """They are built into the loader; distributions differ."""
        try:
            with self.loader.open("rb") as file:
                elf = ElfFile(file)
                for segment in elf.loads:
                    found = _DEFAULT_DIRECTORIES.search(elf.read(segment.offset, segment.file_size))
                    if found:
                        names = found[0].decode().split("\0")
                        return tuple(Path(name) for name in names if name)
        except (OSError, ElfError) as error:
            raise UnreadableError(f"the loader {self.loader} cannot be read: {error}") from error
        raise UnreadableError(f"the loader {self.loader} names no default directories")
