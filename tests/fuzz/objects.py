# SPDX-License-Identifier: Apache-2.0
"""ELF objects, and the texts that decide which of them is loaded."""

from pathlib import Path

from fuzz.target import KIB, MIB, QEMU, Target, opened, text_of, written
from holdover.builds import module_stamp, read_build, read_module_names, read_module_stamp
from holdover.dlopened import declared_names, suggested_names
from holdover.elf import ElfFile
from holdover.errors import ElfError, MalformedError, OtherMachineError, UnreadableError
from holdover.hashtables import HashedSymbols
from holdover.hwcaps import hwcaps_directories
from holdover.ldcache import parse_cache
from holdover.ldconf import parse_conf
from holdover.libraries import Libraries, read_library
from holdover.linker import Library, System, breadth_first, closure
from holdover.loaded import _anatomy
from holdover.rewrite import RPATH, rewrite
from holdover.symbols import read_symbols
from holdover.versions import version_names

__all__ = ["TARGETS"]

_PATH = Path("/usr/lib/x/module.so")
_SYSTEM = System({}, (Path("/lib"), Path("/usr/lib")), hwcaps=("glibc-hwcaps/x86-64-v3",))
_LARGEST_CLAIM = 40
"""The power of two bytes that a sparse file may claim to have."""


def _elf(data: bytes) -> None:
    with opened(data) as file:
        elf = ElfFile(file)
        elf.dynamic, elf.loads, elf.interpreter, elf.build_id, elf.notes  # noqa: B018
        elf.soname, elf.rpath, elf.runpath, elf.needed  # noqa: B018


def _library(data: bytes) -> None:
    with opened(data) as file:
        read_library(file, _PATH)


def _symbols(data: bytes) -> None:
    with opened(data) as file:
        elf = ElfFile(file)
        table = HashedSymbols(elf)
        table.find("__environ")
        list(table.defined_names())
        version_names(elf)
        read_symbols(elf)


def _dlopened(data: bytes) -> None:
    with opened(data) as file:
        elf = ElfFile(file)
        suggested_names(elf, frozenset(["dlopen"]))
        declared_names(elf)


def _build(data: bytes) -> None:
    with opened(data) as file:
        read_build(file, QEMU)
        read_module_names(file, QEMU)
        module_stamp(written("module", "block-x.so", data), QEMU)
        read_module_stamp(file, QEMU)


def _anatomy_of(data: bytes) -> None:
    with opened(data) as file:
        _anatomy(file)


def _rewritten(data: bytes) -> None:
    """What is written can be read, and says what it should."""
    with opened(data) as file:
        made = rewrite(file, RPATH, ["libone.so.1", "libtwo.so.2"])
    with opened(made) as file:
        elf = ElfFile(file)
        if elf.rpath != RPATH or not {"libone.so.1", "libtwo.so.2"} <= set(elf.needed):
            raise AssertionError("a rewritten module does not say what was written")


def _loader(data: bytes) -> None:
    """The one that an executable names."""
    with opened(data) as file:
        loader = Path(f"/proc/self/fd/{file.fileno()}")
        Libraries(62, loader)._default_directories()


def _sparse(data: bytes) -> None:
    """The first byte is the size that is claimed, as a power of two."""
    size = 1 << data[0] % _LARGEST_CLAIM if data else 0
    readers = (
        lambda file: read_library(file, _PATH),
        lambda file: read_symbols(ElfFile(file)),
        lambda file: suggested_names(ElfFile(file), frozenset(["dlopen"])),
        lambda file: read_build(file, QEMU),
        lambda file: read_module_names(file, QEMU),
    )
    for read in readers:
        with opened(data[1:], size) as file:
            try:
                read(file)
            except ElfError:
                continue


class _NoFiles:
    def library(self, path: Path) -> Library | None:
        return None


def _linker(data: bytes) -> None:
    with opened(data) as file:
        library, _ = read_library(file, _PATH)
    closure(library, _NoFiles(), _SYSTEM, executable=library)
    breadth_first(library, {name: library for name in library.needed})


def _ldconf(data: bytes) -> None:
    directories, _ = parse_conf(data.decode("utf-8", "replace"))
    files = Libraries(62, Path("/none"))
    files.__dict__["configured"] = tuple(map(Path, directories[:50]))
    files.unlisted("libnone.so.1")


_ELF = (ElfError,)  # OtherMachineError is one
_ANY_FILE = "any file; 256 MiB of one place in it"
TARGETS = {
    "elf": Target(_elf, _ELF, _ANY_FILE),
    "elf-library": Target(_library, _ELF, _ANY_FILE),
    "elf-symbols": Target(_symbols, _ELF, _ANY_FILE),
    "elf-dlopened": Target(_dlopened, _ELF, _ANY_FILE),
    "elf-build": Target(_build, _ELF, _ANY_FILE),
    "elf-anatomy": Target(_anatomy_of, _ELF, _ANY_FILE),
    "elf-rewrite": Target(_rewritten, (*_ELF, OtherMachineError), "256 MiB", fixed=48 * MIB),
    "elf-loader": Target(_loader, (UnreadableError,), _ANY_FILE),
    "elf-sparse": Target(_sparse, accepted=_ANY_FILE, fixed=320 * MIB, swells=False),
    "linker": Target(_linker, _ELF, _ANY_FILE),
    "ld.so.cache": Target(lambda data: parse_cache(data), (MalformedError,), "64 MiB"),
    "ld.so.conf": Target(_ldconf, _ELF, "root's own file", longest=1 * KIB),
    "cpuinfo": Target(lambda d: hwcaps_directories(text_of(d)), (), "the kernel's own text"),
}
