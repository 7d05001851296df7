# SPDX-License-Identifier: Apache-2.0
"""A small system in a directory: a loader, libraries, an executable, processes that run it."""

import os
from pathlib import Path
from typing import Any

from unit.elf_images import BASE, PF_R, Image, RawSegment

from holdover.lateloads import LateLoads
from holdover.libraries import Libraries
from holdover.model import Module
from holdover.procfs import ProcFs

__all__ = ["Host", "MACHINE"]

MACHINE = 62  # EM_X86_64
PT_INTERP = 3


class Host:
    """Below `root`; libraries lie in its two default directories unless a test says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directories = (root / "lib", root / "usr/lib")
        for directory in (*self.directories, root / "proc"):
            directory.mkdir(parents=True)
        self.loader = root / "ld-linux-x86-64.so.2"
        listed = "\0".join(f"{directory}/" for directory in self.directories)
        self.loader.write_bytes(bytes(Image(constants=b"\0" + listed.encode())))
        self.executable = self.program("program")
        self.proc = ProcFs(root / "proc")
        self._next = 0x7F0000000000

    @property
    def libraries(self) -> Libraries:
        """Of nobody's cache."""
        return Libraries(MACHINE, self.loader, cache=self.root / "ld.so.cache")

    def write(self, path: str | Path, content: bytes) -> Path:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target

    def program(self, name: str, **image: Any) -> Path:
        """An executable that names the loader."""
        loader = str(self.loader).encode()
        wanted = {"constants": loader, **image}
        place = bytes(Image(**wanted, extra_segments=[_interpreter(0, 0)])).index(loader)
        interpreter = [_interpreter(place, len(loader) + 1)]
        return self.write(f"bin/{name}", bytes(Image(**wanted, extra_segments=interpreter)))

    def library(self, name: str, *needed: str, where: str = "lib", **image: Any) -> Path:
        image = {"soname": name, "needed": needed} | image
        return self.write(f"{where}/{name}", bytes(Image(**image)))

    def module(self, name: str, *needed: str, **image: Any) -> Module:
        path = self.library(f"{name}.so", *needed, where="modules", soname="", **image)
        return Module(name, path, "")

    # -- processes -----------------------------------------------------------------------------

    def process(self, pid: int, *mapped: Path, **env: str) -> int:
        """One that runs the executable and has mapped the files as code."""
        directory = self.proc.root / str(pid)
        (directory / "map_files").mkdir(parents=True)
        (directory / "task").mkdir()
        (directory / "ns").mkdir()
        (directory / "ns/mnt").hardlink_to(self.loader)
        (directory / "root").symlink_to("/")
        (directory / "exe").symlink_to(self.executable)
        listed = (f"{name}={value}\0" for name, value in env.items())
        (directory / "environ").write_text("HOME=/root\0" + "".join(listed))
        lines = [self._map(directory, path) for path in (self.executable, *mapped)]
        (directory / "maps").write_text("".join(lines))
        return pid

    def _map(self, directory: Path, path: Path) -> str:
        start, end = self._next, self._next + 4096
        self._next += 2 * 4096
        os.symlink(path, directory / f"map_files/{start:x}-{end:x}")
        found = path.stat()
        device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
        return f"{start:x}-{end:x} r-xp 00000000 {device} {found.st_ino} {path}\n"

    def late_loads(self, **options: Any) -> LateLoads:
        return LateLoads(self.proc, cache=self.root / "ld.so.cache", **options)


def _interpreter(place: int, size: int) -> RawSegment:
    return RawSegment(PT_INTERP, PF_R, place, BASE + place, size, size)
