# SPDX-License-Identifier: Apache-2.0
"""What the linker model needs of a real system: its libraries, its cache, its processor.

Every file is read once, however many modules of however many processes need it. Nothing is loaded
or executed.
"""

import errno
import glob
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from holdover.dlopened import declared_names
from holdover.elf import ElfFile
from holdover.errors import (
    ElfError,
    MalformedError,
    OtherMachineError,
    ProcessError,
    UnreadableError,
)
from holdover.hwcaps import hwcaps_directories
from holdover.identity import FileId
from holdover.ldcache import parse_cache
from holdover.ldconf import parse_conf
from holdover.linker import Library, System
from holdover.loaded import is_loaded, mapped_objects
from holdover.procfs import DELETED, Mapping, ProcFs, file_id, mapped_name, open_regular
from holdover.symbols import Symbols, read_symbols
from holdover.trust import distrust_file
from holdover.versions import defined_versions, needed_versions

__all__ = ["Libraries", "read_library", "CACHE"]

CACHE = Path("/etc/ld.so.cache")
_PASSED_OVER = (errno.ENOENT, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG)
_DEFAULT_DIRECTORIES = re.compile(rb"(?:/[A-Za-z0-9_/-]{1,250}/\0){2,9}")  # as the loader has them


def read_library(file: BinaryIO, path: Path) -> tuple[Library, int]:
    """The open object, and its machine as in the ELF header.

    Raises `ElfError` if it is malformed, `OtherMachineError` if it is not for 64-bit little-endian
    machines at all.
    """
    found, elf = os.fstat(file.fileno()), ElfFile(file)
    if not elf.dynamic:
        raise ElfError("it has no dynamic section")
    library = Library(
        path=path,
        file=_identity(file),
        soname=elf.soname,
        needed=elf.needed,
        rpath=elf.rpath,
        runpath=elf.runpath,
        requires=needed_versions(elf),
        defines=defined_versions(elf),
        named=_named(elf),
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
        distrust=distrust_file(found),
    )
    return library, elf.machine


def _named(elf: ElfFile) -> tuple[str, ...]:
    try:
        return declared_names(elf)
    except ElfError:
        return ()  # the linker does not read these notes, and loads it all the same


def _identity(file: BinaryIO) -> FileId:
    found = os.fstat(file.fileno())
    return FileId(found.st_dev, found.st_ino)


def _no_check() -> None:
    return


def _open_mapped(proc: ProcFs, pid: int, library: Library) -> BinaryIO | None:
    for mapping in proc.maps(pid):
        if mapping.path.removesuffix(DELETED) == str(library.path):
            file = proc.open_mapped(pid, mapping)
            if file is not None:
                if _identity(file) == library.file:
                    return file
                file.close()
    return None


class Libraries:
    """The libraries of this system for processes of one machine type (`EM_*` of elf(5)).

    Raises `ElfError` from `library` for a file that the linker would stop at. `check` is called
    before each file that may have to be read, and may raise.
    """

    def __init__(
        self,
        machine: int,
        loader: Path,
        check: Callable[[], None] = _no_check,
        cache: Path = CACHE,
    ) -> None:
        self.machine = machine
        self.loader = loader
        self.check = check
        self.cache = cache
        self._by_path: dict[Path, Library | None] = {}
        self._by_file: dict[FileId, Library | None] = {}
        self._absent: set[Path] = set()
        self._names: dict[Path, tuple[str, ...]] = {}
        self._sources: dict[FileId, Path] = {}
        self._others: dict[int, ProcFs] = {}
        self._symbols: dict[FileId, Symbols] = {}

    def library(self, path: Path) -> Library | None:
        """The object at `path`; None if there is none, or one of another machine."""
        self.check()
        if path not in self._by_path:
            self._by_path[path] = None if path.parent in self._absent else self._open(path)
        return self._by_path[path]

    def _open(self, path: Path) -> Library | None:
        """As open_path() and open_verify() of glibc's elf/dl-load.c do."""
        try:
            file = open_regular(path)
            if file is None:
                raise ElfError(f"{path} is no regular file")
            with file:
                return self._read(file, path)
        except OSError as error:
            if error.errno not in _PASSED_OVER:
                raise ElfError(f"{path} cannot be read: {error.strerror}") from error
            if file_id(path.parent) is None:
                self._absent.add(path.parent)
            return None

    def _read(self, file: BinaryIO, path: Path) -> Library | None:
        identity = _identity(file)
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
        """What a process has loaded, by soname: the very files, replaced or not.

        Raises `UnreadableError` without the right to open them, `VanishedError` if it ended.
        """
        found: dict[str, Library] = {}
        for mapping, own in mapped_objects(maps):
            self.check()
            file = proc.open_mapped(pid, mapping)
            if file is None:
                continue
            with file:
                try:
                    if not is_loaded(own, file):
                        continue
                    library = self._read(file, Path(mapping.path.removesuffix(DELETED)))
                except ElfError:
                    continue  # mapped, and no library: the program's own business
            if library is not None:
                source = proc.path(pid, mapped_name(mapping))
                self._sources.setdefault(library.file, source)
                found.setdefault(library.soname or library.path.name, library)
        return found

    def also_mapped(self, proc: ProcFs, pid: int) -> None:
        """By another process, which may outlive the one that was looked at."""
        self._others[pid] = proc  # it is looked at again when it has been served

    def is_same(self, one: Library, other: Library) -> bool:
        """Whether who has the one has the other."""
        return one.file == other.file

    def open(self, library: Library) -> BinaryIO:
        """The very file; raises `UnreadableError` if it is gone."""
        for path in filter(None, (library.path, self._sources.get(library.file))):
            with suppress(OSError):
                file = open_regular(path)
                if file is not None and _identity(file) == library.file:
                    return file
        for pid, proc in self._others.items():
            with suppress(ProcessError):  # it ended, too
                if file := _open_mapped(proc, pid, library):
                    return file
        raise UnreadableError(f"{library.path} was replaced, and cannot be read any more")

    def symbols(self, library: Library) -> Symbols:
        """What it binds to others, and offers; raises `ElfError` or `UnreadableError`."""
        self.check()
        if library.file not in self._symbols:
            with self.open(library) as file:
                self._symbols[library.file] = read_symbols(ElfFile(file))
        return self._symbols[library.file]

    @cached_property
    def configured(self) -> tuple[Path, ...]:
        """Directories that ldconfig looks into."""
        found: list[str] = []
        main = self.cache.with_name("ld.so.conf")
        todo, seen = [str(main)], set()
        while todo:
            path = todo.pop(0)
            if path in seen:
                continue
            seen.add(path)
            with suppress(OSError):
                directories, includes = parse_conf(Path(path).read_text(errors="replace"))
                found += directories
                for pattern in includes:
                    todo += sorted(glob.glob(str(main.parent / pattern)))
        return tuple(map(Path, found))

    def unlisted(self, name: str) -> Path | None:
        """A directory where the library lies, and only the cache does not know it yet."""
        return next((at for at in self.configured if self.library(at / name)), None)

    @cached_property
    def system(self) -> System:
        """Raises `UnreadableError` if the loader or the cache cannot be read."""
        directories = self._default_directories()
        try:
            data = self.cache.read_bytes() if self.cache.exists() else b""
            hwcaps = hwcaps_directories(Path("/proc/cpuinfo").read_text())
            entries = parse_cache(data) if data else ()
        except (OSError, MalformedError) as error:
            raise UnreadableError(
                f"{self.cache} cannot be read: {error}", hint="run ldconfig"
            ) from error
        cache: dict[str, list[Path]] = {}
        supported = {name.rpartition("/")[2]: rank for rank, name in enumerate(hwcaps)}
        ranked = sorted(entries, key=lambda entry: supported.get(entry.hwcaps, len(supported)))
        for entry in ranked:
            if not entry.hwcaps or entry.hwcaps in supported:
                cache.setdefault(entry.soname, []).append(Path(entry.path))
        lib = str(directories[0]).removeprefix("/usr").removeprefix("/")
        platform = os.uname().machine  # 32-bit programs, which have another one, are not known here
        return System(cache, directories, lib, platform, hwcaps)

    def _default_directories(self) -> tuple[Path, ...]:
        """They are built into the loader; distributions differ."""
        try:
            with self.loader.open("rb") as file:
                elf = ElfFile(file)
                for data in elf.searched((s.offset, s.file_size) for s in elf.loads):
                    if found := _DEFAULT_DIRECTORIES.search(data):
                        names = found[0].decode().split("\0")
                        return tuple(Path(name) for name in names if name)
        except (OSError, ElfError) as error:
            raise UnreadableError(f"the loader {self.loader} cannot be read: {error}") from error
        raise UnreadableError(f"the loader {self.loader} names no default directories")
