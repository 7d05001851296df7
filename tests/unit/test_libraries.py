# SPDX-License-Identifier: Apache-2.0
"""The libraries of a system: what the loader would open, pass over, or stop at."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.elf_images import PF_R, PF_X, Image, dlopen_note
from unit.hostile import patched, sparse
from unit.hosts import MACHINE, Host
from unit.real import libraries as real_libraries
from unit.test_ldcache import cache

from holdover.errors import ElfError, UnreadableError, VanishedError
from holdover.libraries import Libraries, read_library
from holdover.linker import closure
from holdover.run import run
from holdover.symbols import Wanted

E_MACHINE = 18


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def found(host: Host, *needed: str, **image: object) -> list[str]:
    """Paths of all that a module needs."""
    files = host.libraries
    module = files.library(host.module("module", *needed, **image).path)
    assert module is not None
    seen = closure(module, files, files.system)
    return [str(f.library.path.relative_to(host.root)) for f in seen.found]


# -- what is read of a library ---------------------------------------------------------------------


def test_library_is_all_that_the_linker_reads_of_it(host: Host) -> None:
    path = host.library(
        *("libq.so.1", "libc.so.6"),
        runpath="$ORIGIN",
        wants={"libc.so.6": ["GLIBC_2.36", "?GLIBC_2.38"]},
        defines=["Q_1"],
        notes=[dlopen_note([{"soname": ["libz.so.1"]}])],
    )
    library = host.libraries.library(path)
    assert library is not None
    assert (library.path, library.soname, library.needed) == (path, "libq.so.1", ("libc.so.6",))
    assert (library.rpath, library.runpath) == ("", "$ORIGIN")
    assert library.requires == (("libc.so.6", "GLIBC_2.36"),)
    assert library.defines == {"libq.so.1", "Q_1"}
    assert library.named == ("libz.so.1",)
    status = path.stat()
    assert (library.file.device, library.file.inode) == (status.st_dev, status.st_ino)
    assert (library.size, library.mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_notes_that_make_no_sense_stop_nobody_as_the_loader_does_not_read_them(
    host: Host,
) -> None:
    library = host.libraries.library(host.library("libq.so.1", notes=[dlopen_note(b"[")]))
    assert library is not None
    assert library.named == ()


def test_file_under_two_names_is_read_once_and_has_two_origins(host: Host) -> None:
    first = host.library("libq.so.1")
    second = host.root / "usr/lib/libq.so.1"
    second.hardlink_to(first)
    files = host.libraries
    (one, other) = (files.library(path) for path in (first, second))
    assert one is not None
    assert other is not None
    assert one.file == other.file
    assert (one.path, other.path) == (first, second)


def test_file_is_read_once(host: Host) -> None:
    path, files = host.library("libq.so.1"), host.libraries
    before = files.library(path)
    path.unlink()
    assert files.library(path) is before


# -- what is passed over ---------------------------------------------------------------------------


def test_what_is_not_there_is_looked_for_in_the_next_directory(host: Host) -> None:
    host.library("libq.so.1", where="usr/lib")
    assert found(host, "libq.so.1") == ["usr/lib/libq.so.1"]


def other_machine(path: Path) -> None:
    path.write_bytes(patched(path.read_bytes(), E_MACHINE, b"\xb7\0"))


def half_the_bits(path: Path) -> None:
    path.write_bytes(patched(path.read_bytes(), 4, b"\1"))


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("/no/such/file")


def below_a_file(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd/libq.so.1")


@pytest.mark.parametrize("change", [other_machine, half_the_bits, dangling, below_a_file])
def test_file_that_the_loader_passes_over_is_passed_over(
    host: Host, change: Callable[[Path], None]
) -> None:
    change(host.library("libq.so.1"))
    host.library("libq.so.1", where="usr/lib")
    assert found(host, "libq.so.1") == ["usr/lib/libq.so.1"]


@pytest.mark.parametrize("directory", ["gone", "file", "x" * 300])
def test_directory_that_is_none_is_passed_over(host: Host, directory: str) -> None:
    host.write("file", b"")
    host.library("libq.so.1")
    path = f"{host.root}/{directory}:{host.root}/{directory}/deeper"
    assert found(host, "libq.so.1", rpath=path) == ["lib/libq.so.1"]


def test_name_that_is_too_long_for_any_file_is_not_there(host: Host) -> None:
    assert found(host, "x" * 300) == []


# -- what stops the linker -------------------------------------------------------------------------


def is_text(path: Path) -> None:
    path.write_text("GROUP ( libq.so.1 )\n" * 10)


def is_empty(path: Path) -> None:
    path.write_bytes(b"")


def is_cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def is_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def is_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def is_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/null")


def is_circle(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def is_object_file(path: Path) -> None:
    path.write_bytes(bytes(Image(type=1)))


def is_static(path: Path) -> None:
    path.write_bytes(bytes(Image(dynamic=False)))


def claims_terabytes(path: Path) -> None:
    sparse(path, path.read_bytes()[:64], 2**42)


STOPS = [is_text, is_empty, is_cut_off, is_directory, is_pipe, is_device, is_circle]
STOPS += [is_object_file, is_static, claims_terabytes]


@pytest.mark.parametrize("change", STOPS)
def test_file_that_the_loader_stops_at_is_an_error_that_names_it(
    host: Host, change: Callable[[Path], None]
) -> None:
    path = host.library("libq.so.1")
    change(path)
    host.library("libq.so.1", where="usr/lib")
    with pytest.raises(ElfError, match=re.escape(str(path))):
        found(host, "libq.so.1")


def test_file_that_is_no_library_is_an_error_each_time(host: Host) -> None:
    path, files = host.library("libq.so.1"), host.libraries
    is_text(path)
    for _ in range(2):
        with pytest.raises(ElfError, match="is damaged: not an ELF file"):
            files.library(path)


@pytest.mark.parametrize("name", [".", ".."])
def test_name_of_a_directory_stops_the_linker(host: Host, name: str) -> None:
    with pytest.raises(ElfError, match="no regular file"):
        found(host, name)


def test_who_may_not_read_further_is_stopped_before_each_file(host: Host) -> None:
    path = host.library("libq.so.1")

    def give_up() -> None:
        raise UnreadableError("it takes too long")

    files = Libraries(MACHINE, host.loader, check=give_up)
    with pytest.raises(UnreadableError, match="too long"):
        files.library(path)
    with pytest.raises(UnreadableError, match="too long"):
        mapped(host, files, path)


# -- the system ------------------------------------------------------------------------------------


def test_default_directories_are_those_of_the_loader(host: Host) -> None:
    assert host.libraries.system.directories == host.directories


def test_loader_of_this_system_searches_the_directories_that_it_says() -> None:
    loader = next(path for path in real_libraries() if path.name.startswith("ld-"))
    told = run(loader, "--help", check=False).stdout
    searched = re.findall(r"^  (/\S+) \(system search path\)$", told, re.MULTILINE)
    if not searched:
        pytest.skip("this loader does not say where it looks")
    assert list(map(str, Libraries(MACHINE, loader).system.directories)) == searched


@pytest.mark.parametrize("content", [None, b"", b"#!/bin/sh\n", bytes(Image(constants=b"/one/"))])
def test_loader_that_tells_nothing_is_unreadable(host: Host, content: bytes | None) -> None:
    host.loader.unlink()
    if content is not None:
        host.loader.write_bytes(content)
    with pytest.raises(UnreadableError, match=re.escape(str(host.loader))):
        _ = host.libraries.system


@pytest.mark.parametrize(
    ("directory", "lib"),
    [("/usr/lib/x86_64-linux-gnu/", "lib/x86_64-linux-gnu"), ("/lib64/", "lib64")],
)
def test_token_for_the_library_directory_is_told_from_the_first(
    host: Host, directory: str, lib: str
) -> None:
    host.loader.write_bytes(bytes(Image(constants=f"{directory}\0/usr/lib/".encode())))
    assert host.libraries.system.lib == lib


def test_token_for_the_platform_is_what_the_loader_of_this_system_says() -> None:
    loader = next(path for path in real_libraries() if path.name.startswith("ld-"))
    told = run(loader, "--list-diagnostics", check=False).stdout
    platform = re.search(r'^dl_platform="(.+)"$', told, re.MULTILINE)
    if platform is None or platform[1] in ("haswell", "xeon_phi"):
        pytest.skip("this loader does not say, or has a name of its own for this processor")
    assert Libraries(MACHINE, loader).system.platform == platform[1]


def test_system_without_a_cache_has_an_empty_one(host: Host) -> None:
    assert host.libraries.system.cache == {}


def test_cache_is_read_the_entries_for_this_processor_first(host: Host) -> None:
    entries = [
        ("libz.so.1", "/lib/libz.so.1", 0),
        ("libz.so.1", "/lib/no-such-level/libz.so.1", 1 << 62),
        ("liba.so.1", "/lib/liba.so.1", 0),
    ]
    host.write("ld.so.cache", cache(entries, ["no-such-level"]))
    assert host.libraries.system.cache == {
        "libz.so.1": [Path("/lib/libz.so.1")],
        "liba.so.1": [Path("/lib/liba.so.1")],
    }


def test_damaged_cache_is_unreadable_and_can_be_made_anew(host: Host) -> None:
    host.write("ld.so.cache", b"no cache")
    with pytest.raises(UnreadableError) as caught:
        _ = host.libraries.system
    assert caught.value.hint == "run ldconfig"


# -- what only ldconfig knows ----------------------------------------------------------------------


def test_library_in_a_configured_directory_is_found_though_the_cache_does_not_know_it(
    host: Host,
) -> None:
    host.library("libq.so.1", where="opt")
    host.write("ld.so.conf", b"include conf.d/*.conf\n")
    host.write("conf.d/a.conf", f"{host.root}/empty\n{host.root}/opt\n".encode())
    assert host.libraries.unlisted("libq.so.1") == host.root / "opt"
    assert host.libraries.unlisted("libr.so.1") is None


def test_files_that_include_each_other_are_read_once(host: Host) -> None:
    host.write("ld.so.conf", b"include ld.so.conf other.conf\n")
    host.write("other.conf", b"include ld.so.conf\n")
    assert host.libraries.unlisted("libq.so.1") is None


# -- what a process has mapped ---------------------------------------------------------------------

PID = 4711


def mapped(host: Host, files: Libraries, *paths: Path) -> dict[str, Path]:
    host.process(PID, *paths)
    found = files.mapped(host.proc, PID, host.proc.maps(PID)[1:])  # without the executable
    return {name: library.path for name, library in found.items()}


def test_mapped_libraries_are_known_by_their_sonames_or_else_their_files(host: Host) -> None:
    first, second = host.library("libq.so.1.2", soname="libq.so.1"), host.library("r", soname="")
    assert mapped(host, host.libraries, first, second) == {"libq.so.1": first, "r": second}


def test_first_of_two_with_a_soname_counts(host: Host) -> None:
    first, second = (host.library(name, soname="libq.so.1") for name in "ab")
    assert mapped(host, host.libraries, first, second) == {"libq.so.1": first}


@pytest.mark.parametrize("change", [*STOPS[:3], *STOPS[4:6], other_machine, claims_terabytes])
def test_what_is_mapped_as_code_and_is_no_library_is_the_programs_own_business(
    host: Host, change: Callable[[Path], None]
) -> None:
    wrong, right = host.library("wrong"), host.library("right")
    change(wrong)
    assert mapped(host, host.libraries, wrong, right) == {"right": right}


def mapped_as_data(host: Host, name: str, flags: int = PF_R) -> set[str]:
    host.process(PID, host.library(name, flags=flags))
    maps = host.proc.path(PID, "maps")
    maps.write_text(maps.read_text().replace("r-xp", "r--p"))
    return set(host.libraries.mapped(host.proc, PID, host.proc.maps(PID)))


def test_library_with_code_that_is_mapped_as_data_is_not_loaded(host: Host) -> None:
    assert mapped_as_data(host, "libq.so.1", PF_R | PF_X) == set()


def test_library_that_holds_nothing_but_data_is_loaded_all_the_same(host: Host) -> None:
    """As libicudata does."""
    assert mapped_as_data(host, "libq.so.1") == {"libq.so.1"}


def test_data_without_the_name_of_a_library_is_not_even_opened(host: Host) -> None:
    assert mapped_as_data(host, "index.sorted") == set()


def test_process_that_ended_meanwhile_has_vanished(host: Host) -> None:
    path = host.library("libq.so.1")
    host.process(PID, path)
    maps = host.proc.maps(PID)
    for entry in host.proc.path(PID, "map_files").iterdir():
        entry.unlink()
    with pytest.raises(VanishedError):
        host.libraries.mapped(host.proc, PID, maps)


def test_mapped_library_that_was_replaced_on_disk_is_read_through_the_process(host: Host) -> None:
    old, kept = host.library("libq.so.1", defined=["old"]), host.root / "kept"
    kept.hardlink_to(old)
    files = host.libraries
    host.process(PID, kept)
    maps = host.proc.path(PID, "maps")
    maps.write_text(maps.read_text().replace(str(kept), f"{old} (deleted)"))
    old.unlink()
    host.library("libq.so.1", defined=["new"])
    (library,) = (
        at
        for name, at in files.mapped(host.proc, PID, host.proc.maps(PID)).items()
        if name[0] == "l"
    )
    assert library.path == old
    assert files.symbols(library).offers(Wanted("old", ""))
    with files.open(library) as file:
        assert os.fstat(file.fileno()).st_ino == library.file.inode


def test_library_that_is_gone_everywhere_cannot_be_opened(host: Host) -> None:
    path, files = host.library("libq.so.1"), host.libraries
    library = files.library(path)
    assert library is not None
    path.unlink()
    with pytest.raises(UnreadableError, match="cannot be read any more"):
        files.open(library)


def test_names_in_a_directory_are_sorted_and_none_if_it_is_not_there(host: Host) -> None:
    for name in "ba":
        host.library(name)
    assert host.libraries.names_in(host.root / "lib") == ("a", "b")
    assert host.libraries.names_in(host.root / "gone") == ()


@pytest.mark.parametrize("path", real_libraries(), ids=lambda path: path.name)
def test_real_library_is_read_as_one_of_this_machine(path: Path) -> None:
    with path.open("rb") as file:
        library, machine = read_library(file, path)
    assert machine == int.from_bytes(path.read_bytes()[E_MACHINE:20], "little")
    assert all(file in library.needed for file, _ in library.requires)


def test_loader_of_nothing_but_slashes_names_no_directories(tmp_path: Path) -> None:
    """It would take hours to look for the end of a name from each of them."""
    path = tmp_path / "ld.so"
    path.write_bytes(bytes(Image(constants=b"/" * 500_000)))
    with pytest.raises(UnreadableError, match="names no default directories"):
        Libraries(62, path).system  # noqa: B018
