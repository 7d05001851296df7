# SPDX-License-Identifier: Apache-2.0
"""The linker's view of one process: what it has mapped, and what it would find for the rest."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from holdover.errors import ElfError, RefusedError
from holdover.forecast import Forecast, World, forecast
from holdover.libraries import Libraries
from holdover.linker import Found, Library, System
from holdover.model import Module

__all__ = ["Sight"]

_LIBC = "libc.so.6"
# use GLIBC_PRIVATE, so they must be of the libc in the process
_COMPANION = re.compile(
    r"lib(?:anl|dl|m|mvec|nsl|nss_(?:compat|dns|files|hesiod)|pthread|resolv|rt|util)\.so\.\d+"
)
_RESOLVERS = ("libnss_files.so.2", "libnss_dns.so.2")
_RESOLVERS_ARE_IN_LIBC = "GLIBC_2.34"


class Sight:
    """The linker's view of one process, or of one that would be started now."""

    def __init__(
        self, files: Libraries, system: System, world: World, root: Path = Path("/")
    ) -> None:
        """`root` is the process's own: what is mounted there may be mounted otherwise."""
        self.files = files
        self.root = root
        self.system = system
        self.world = world
        self._forecasts: dict[Path, tuple[Library, Forecast] | None] = {}
        self._noexec: dict[Path, bool] = {}

    def forecast(self, path: Path) -> tuple[Library, Forecast] | None:
        """For the module at `path`; None if there is no such object for this machine.

        Raises `ElfError` for one that is damaged.
        """
        if path not in self._forecasts:
            module = self.files.library(path)
            self._forecasts[path] = (
                (module, forecast(module, self.files, self.system, self.world)) if module else None
            )
        return self._forecasts[path]

    def started_with(self, seen: Forecast) -> Iterator[Found]:
        """What the module needs of what the process has from its start, if it still lies on disk.

        It is mapped, so this process needs it not; but held with the rest, one set serves all
        executables of a source build, whatever each of them starts with.
        """
        for name in seen.order:
            library = self.world.start_up.get(name)
            there = library and self.files.library(library.path)
            if library and there and self.files.is_same(there, library):
                yield Found(name, there)

    def noexec(self, paths: Iterable[Path]) -> str:
        """Why the first of them that cannot be mapped as code cannot, or ""."""
        for path in paths:
            directory = path.parent
            if directory not in self._noexec:
                with suppress(OSError):  # not to be seen from it: that is said elsewhere
                    flags = os.statvfs(f"{self.root}{directory}").f_flag
                    self._noexec[directory] = bool(flags & os.ST_NOEXEC)
            if self._noexec.get(directory):
                return f"{directory} is mounted noexec"
        return ""

    @cached_property
    def companions(self) -> tuple[Found, ...]:
        """The rest of the process's glibc, if it still lies beside it."""
        start_up, files = self.world.start_up, self.files
        libc = start_up.get(_LIBC)
        there = files.library(libc.path) if libc else None
        if libc is None or there is None or not self.files.is_same(there, libc):
            return ()
        beside = there.path.parent
        names = [name for name in files.names_in(beside) if _COMPANION.fullmatch(name)]
        libraries = ((name, files.library(beside / name)) for name in names)
        return tuple(Found(name, library) for name, library in libraries if library)

    @cached_property
    def resolvers(self) -> tuple[str, ...]:
        """What an old libc opens itself, by name, when a host name is looked up for the first time.

        It would not look beside our modules, and find the next release's. So these come along with
        the first module that is loaded late: behind all that it needs, where they bind nothing.
        """
        libc = self.world.start_up.get(_LIBC)
        if libc is None or _RESOLVERS_ARE_IN_LIBC in libc.defines:
            return ()
        return tuple(found.name for found in self.companions if found.name in _RESOLVERS)

    def check_trust(self, seen: Forecast) -> None:
        """Raises `RefusedError` if a user's library has a say in what the module needs.

        What is mapped wins by its soname, and what it needs becomes part of the order: held like
        that, everybody's module would need it. In LD_LIBRARY_PATH it may: that is part of what a
        snapshot is for.
        """
        for name in seen.order:
            library = self.world.mapped.get(name)
            if library is None or not library.distrust:
                continue
            there = library.path.parent in self.system.library_path and self.files.library(
                library.path
            )
            if not there or there.file != library.file:
                raise RefusedError(f"its {name} is not used: {library.distrust}")

    def surroundings(self, modules: Iterable[Module]) -> Iterator[Library]:
        """The modules, and all that comes with them."""
        for module in modules:
            try:
                there = self.forecast(module.path)
            except ElfError:
                continue  # said where it is that module's turn
            if there is not None:
                yield there[0]
                yield from (entry.library for entry in there[1].closure.found)
