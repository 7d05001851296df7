# SPDX-License-Identifier: Apache-2.0
"""Delivery by environment to programs that are not laid out as a distribution's QEMU is.

Each is delivered to, and works; or it is refused with the reason, and nothing was written.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab.outcomes import Record
from system.native import SOURCE, Native, build
from system.scratch import VARIABLE, running, until

from holdover.elf import ElfFile
from holdover.environ import Layout
from holdover.errors import ElfError, HoldoverError, UnsupportedError
from holdover.memory import Memory
from holdover.procfs import ProcFs
from holdover.run import run
from holdover.steps.deliver import environment

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
]

VIEWS = ("/run/views/aaaaaaaaaaaaaaaa", "/run/views/bbbbbbbbbbbbbbbb")
PAGE = 4096
MANY = {f"OWN_{number}": "0" for number in range(30)}
ENOUGH = 1000  # bytes for two environments with that many variables
PRELOADED = SOURCE.with_name("preloaded.c")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


Builder = Callable[..., Path]


@pytest.fixture
def built(directory: Path) -> Builder:
    """Skips the test where the compiler cannot do that."""

    def make(*options: str, compiler: str = "gcc") -> Path:
        try:
            return build(directory, *options, compiler=compiler)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            pytest.skip(f"cannot be built here: {' '.join(options)}: {error}")

    return make


def works(target: Native) -> str:
    """It is delivered to, its memory stays its own, and it is released; what came of it."""
    for view in VIEWS:
        target.deliver(view)
        assert target.getenv() == view
        assert target.getenv("EDITOR") == "vi"
    target.start("malloc", 1)
    target.deliver(VIEWS[0])
    assert target.ask("set AFTERWARDS 1") == 0
    target.deliver(VIEWS[1])
    counts = target.stop_threads()
    assert (counts.wrong, target.getenv(), target.getenv("AFTERWARDS")) == (0, VIEWS[1], "1")
    target.release()
    assert (target.getenv(), target.getenv("AFTERWARDS")) == (None, "1")
    return "delivered: getenv says so, allocates, sets, is released"


def refuses(target: Native, error: type[HoldoverError], match: str) -> str:
    """Nothing was written; what is said."""
    before = target.writable_memory()
    with pytest.raises(error, match=match) as refused:
        target.deliver(VIEWS[0])
    assert target.writable_memory() == before
    assert target.ask("set AFTERWARDS 1") == 0
    return refused.value.message


# -- linked in other ways --------------------------------------------------------------------------

LINKED = {
    "PIE, `environ` as a COPY in it": (),
    "PIE, `environ` in libc": ("-DFOREIGN_ENVIRON",),
    "PIE, bound at once (`-z now`)": ("-DFOREIGN_ENVIRON", "-Wl,-z,now"),
    "PIE, bound late (`-z lazy`)": ("-DFOREIGN_ENVIRON", "-Wl,-z,lazy"),
    "no PIE, `environ` as a COPY in it": ("-no-pie", "-fno-pie"),
    "no PIE, `environ` in libc": ("-no-pie", "-fno-pie", "-DFOREIGN_ENVIRON"),
    "a program's own `environ` and `__environ`": ("-DOWN_ENVIRON",),
    "no RELRO": ("-Wl,-z,norelro",),
    "code and data in one segment (`-z noseparate-code`)": ("-Wl,-z,noseparate-code",),
    "segments aligned to 16 KiB": ("-Wl,-z,max-page-size=0x4000,-z,common-page-size=0x4000",),
    "segments aligned to 64 KiB": ("-Wl,-z,max-page-size=0x10000,-z,common-page-size=0x10000",),
    "segments aligned to 2 MiB": ("-Wl,-z,max-page-size=0x200000,-z,common-page-size=0x200000",),
    "a .bss of 256 MiB": ("-DPAD=0x10000000",),
    "SysV hash table alone": ("-Wl,--hash-style=sysv",),
    "packed relative relocations": ("-Wl,-z,pack-relative-relocs",),
    "executable stack": ("-Wl,-z,execstack",),
    "linked by gold": ("-fuse-ld=gold",),
}


@pytest.mark.parametrize("how", LINKED)
def test_dynamic_executable_is_delivered_to(built: Builder, how: str, record: Record) -> None:
    with Native(built(*LINKED[how])) as target:
        record(how, works(target), "")


@pytest.mark.parametrize("options", [(), ("-no-pie", "-fno-pie")], ids=["PIE", "no PIE"])
def test_heap_right_behind_bss_is_not_written_to(
    built: Builder, options: tuple[str, ...], record: Record
) -> None:
    if run("setarch", "-R", "true", check=False).returncode != 0:
        pytest.skip("addresses are always randomized here")
    executable = built(*options)
    with Native(executable, "setarch", "-R") as target:
        maps = target.proc.maps(target.pid)
        heap = next(mapping for mapping in maps if mapping.path == "[heap]")
        assert heap.start in {mapping.end for mapping in maps}
        kind = "no PIE" if options else "PIE"
        record(f"heap right behind .bss (not randomized), {kind}", works(target), "")


STATIC = {
    "static": ("gcc", "-static"),
    "static PIE": ("gcc", "-static-pie"),
    "musl": ("musl-gcc",),
    "musl, static": ("musl-gcc", "-static"),
}


@pytest.mark.parametrize("how", STATIC)
def test_executable_without_glibc_is_refused(built: Builder, how: str, record: Record) -> None:
    compiler, *options = STATIC[how]
    with Native(built(*options, compiler=compiler)) as target:
        record(how, "refused", refuses(target, UnsupportedError, "no glibc"))


# -- no room ---------------------------------------------------------------------------------------


def end_of_bss(executable: Path) -> int:
    with executable.open("rb") as file:
        last = max((s for s in ElfFile(file).loads if s.writable), key=lambda s: s.address)
    return last.address + last.memory_size


@pytest.fixture
def filled(built: Builder, directory: Path) -> tuple[str, ...]:
    """Options that make .bss end with a page: objects that are linked last end it."""
    source = directory / "filled.s"
    source.write_text(f".bss\n.skip {-end_of_bss(built()) % PAGE}\n.section .note.GNU-stack\n")
    return (str(source),)


def tails(target: Native) -> list[tuple[int, int]]:
    return list(Layout(target.proc, target.pid, target.proc.maps(target.pid)).tails())


def test_bss_that_ends_with_a_page_leaves_libraries_only(
    built: Builder, filled: tuple[str, ...], record: Record
) -> None:
    with Native(built(*filled), **MANY) as target:
        assert end_of_bss(built(*filled)) % PAGE == 0
        sizes = [end - start for start, end in tails(target)]
        if max(sizes, default=0) < ENOUGH:
            said = refuses(target, UnsupportedError, "no room")
            record(".bss ends with a page, little room behind libc's", "refused", said)
        else:
            record(".bss ends with a page, room behind libc's", works(target), "")


def test_room_in_a_library_that_the_executable_needs_is_used(
    built: Builder, filled: tuple[str, ...], directory: Path, record: Record
) -> None:
    source = directory / "room.c"
    source.write_text("int room[1100];\n")  # within one page, the file's own bytes follow it
    library = build_library(source, directory / "libroom.so", "-Wl,-soname,libroom.so")
    needing = ("-Wl,--no-as-needed", str(library), f"-Wl,-rpath,{directory}")
    with Native(built(*filled, *needing), **MANY) as target:
        assert max(end - start for start, end in tails(target)) > ENOUGH
        record(".bss ends with a page, room behind that of a library", works(target), "")


def test_no_room_anywhere_is_refused(built: Builder, record: Record) -> None:
    with Native(built()) as target:
        for start, end in tails(target):
            target.ask(f"fill {start} {end - start}")
        said = refuses(target, UnsupportedError, "no room")
        record("bytes behind every .bss are in use", "refused", said)


# -- what others bring along -----------------------------------------------------------------------


def build_library(source: Path, made: Path, *options: str) -> Path:
    command = ["gcc", "-shared", "-fPIC", str(source), "-o", str(made), *options]
    subprocess.run(command, check=True, capture_output=True)
    return made


PRELOADS = {
    "environ": (("-DWITH_ENVIRON",), "libc's environ was replaced"),
    "getenv": (("-DWITH_GETENV",), "libc's getenv was replaced"),
    "setenv": (("-DWITH_SETENV",), ""),
    "nothing of libc's": ((), ""),
}


@pytest.mark.parametrize("binding", ["now", "lazy"])
@pytest.mark.parametrize("what", PRELOADS)
def test_library_that_replaces_what_counts_is_refused(
    built: Builder, directory: Path, what: str, binding: str, record: Record
) -> None:
    """Delivered, the value would be where nobody looks."""
    options, match = PRELOADS[what]
    library = build_library(PRELOADED, directory / f"{what.split()[0]}.so", *options)
    executable = built("-DFOREIGN_ENVIRON", f"-Wl,-z,{binding}")
    with Native(executable, LD_PRELOAD=str(library)) as target:
        met = f"LD_PRELOAD of a library with its own {what}, bound {binding}"
        if match:
            record(met, "refused", refuses(target, UnsupportedError, match))
            return
        target.deliver(VIEWS[0])
        assert target.getenv() == VIEWS[0]
        record(met, "delivered", "")


def test_program_with_its_own_getenv_is_refused(built: Builder, record: Record) -> None:
    with Native(built("-DOWN_GETENV", "-rdynamic")) as target:
        said = refuses(target, UnsupportedError, "libc's getenv was replaced")
        record("a program with its own getenv, as shells have", "refused", said)


def test_second_libc_is_refused(built: Builder, record: Record) -> None:
    with Native(built()) as target:
        if not target.ask("libc"):
            pytest.skip("no dlmopen")
        said = refuses(target, UnsupportedError, "more than one glibc")
        record("a second libc (dlmopen)", "refused", said)


def test_libc_of_another_place_is_delivered_to(
    built: Builder, directory: Path, record: Record
) -> None:
    """As a container image or a store of packages brings it along."""
    other = directory / "lib"
    other.mkdir()
    with Native(built()) as target:
        for mapping in target.proc.maps(target.pid):
            if ".so" in mapping.path:
                shutil.copy(mapping.path, other)
    loader = next(path for path in other.iterdir() if path.name.startswith("ld"))
    executable = built(f"-Wl,--dynamic-linker={loader}", f"-Wl,-rpath,{other}")
    with Native(executable) as target:
        assert any(str(other) in mapping.path for mapping in target.proc.maps(target.pid))
        record("libc and loader of another place than the system's", works(target), "")


def test_program_started_through_the_loader_is_refused(built: Builder, record: Record) -> None:
    executable = built()
    with executable.open("rb") as file:
        loader = ElfFile(file).interpreter
    with Native(executable, loader) as target:
        said = refuses(target, UnsupportedError, "through the dynamic loader")
        record("a program started as `ld.so PROGRAM`", "refused", said)


# -- moved to other pages --------------------------------------------------------------------------


def own_mapping(target: Native, permissions: str) -> tuple[int, int]:
    file = target.proc.file_of(target.pid, "exe")
    maps = target.proc.maps(target.pid)
    found = next(m for m in maps if m.file == file and m.permissions == permissions)
    return found.start, found.end - found.start


def test_code_moved_to_other_pages_is_refused(built: Builder, record: Record) -> None:
    """As libraries do that put it on huge pages."""
    with Native(built()) as target:
        start, size = own_mapping(target, "r-xp")
        assert target.ask(f"code {start} {size}") is True
        said = refuses(target, UnsupportedError, "where its executable is loaded")
        record("code moved to anonymous pages (huge pages for code)", "refused", said)


def test_zeros_of_bss_moved_to_other_pages_are_used(built: Builder, record: Record) -> None:
    with Native(built("-DPAD=0x400000")) as target:
        start, _ = tails(target)[0]  # the executable's come first
        assert target.ask(f"data {start // PAGE * PAGE} {PAGE}") is True
        record("the last page of .bss moved to another", works(target), "")


# -- other machines --------------------------------------------------------------------------------

I386 = """
void _start(void) { for (;;) __asm__ volatile("int $0x80" : : "a"(29)); } /* pause */
"""


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command) as process:
        try:
            yield process
        finally:
            process.kill()


def memory_of(pid: int) -> dict[int, bytes]:
    with Memory(ProcFs(), pid) as memory:
        return {
            m.start: memory.read(m.start, m.end - m.start)
            for m in ProcFs().maps(pid)
            if m.readable_and_writable
        }


def test_executable_of_32_bits_is_refused(directory: Path, record: Record) -> None:
    source, made = directory / "i386.c", directory / "i386"
    source.write_text(I386)
    options = ("-m32", "-nostdlib", "-static", "-fno-pic", "-no-pie")
    built = run("gcc", *options, str(source), "-o", str(made), check=False)
    if built.returncode != 0 or run("timeout", "0.1", str(made), check=False).returncode != 124:
        pytest.skip("no programs of 32 bits here")
    with started(str(made)) as process:
        until(lambda: ProcFs().stat(process.pid).state == "S")
        before = memory_of(process.pid)
        with pytest.raises(ElfError, match="64-bit") as refused:
            environment.deliver(ProcFs(), running(process.pid), VARIABLE, Path(VIEWS[0]))
        assert memory_of(process.pid) == before
        assert process.poll() is None
    record("an executable of 32 bits (i386)", "refused", refused.value.message)


def aarch64_executable() -> bytes:
    """It calls ppoll(2) without anything to wait for."""
    code = struct.pack("<7I", *(0xD2800000 | n for n in range(5)), 0xD2800928, 0xD4000001)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 183, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    size = 64 + 56 + len(code)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, size, size, 0x10000)
    return header + segment + code


def test_executable_of_another_architecture_is_qemu_user(directory: Path, record: Record) -> None:
    """The process is the emulator: what is delivered, it gets itself, and the program does not."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("no qemu-user")
    made = directory / "aarch64"
    made.write_bytes(aarch64_executable())
    made.chmod(0o755)
    with started(emulator, str(made)) as process:
        until(lambda: ProcFs().stat(process.pid).state == "S")
        try:
            environment.deliver(ProcFs(), running(process.pid), VARIABLE, Path(VIEWS[0]))
            outcome, said = "delivered to the emulator, which is what runs there", ""
        except HoldoverError as error:
            outcome, said = "refused", error.message
        assert process.poll() is None
    record("an executable of another architecture, run by qemu-user", outcome, said)
