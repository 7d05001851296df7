# SPDX-License-Identifier: Apache-2.0
"""What late loads would do in the processes of a small system, and what is held for them."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from unit.elf_images import Image, dlopen_note
from unit.factories import build, process
from unit.hosts import Host

from holdover.errors import MalformedError, RefusedError, UnreadableError
from holdover.foresight import Foresight
from holdover.identity import ProcessId
from holdover.lateloads import LateLoads
from holdover.model import Installed, LateLoad, Module
from holdover.procfs import ProcFs
from holdover.programs import load_programs
from holdover.steps.scan import scan

PID = 4711
LIBC: dict[str, Any] = {"defines": ["GLIBC_2.36"]}
NEWER: dict[str, Any] = {"wants": {"libc.so.6": ["GLIBC_2.38"]}}


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def seen(host: Host, module: Module, *mapped: Path, deep: bool = False, **env: str) -> LateLoad:
    """What a late load of one module would do in a process that has mapped these."""
    late = host.late_loads(deep=deep)
    sight = late.process(host.process(PID, *mapped, **env))
    (found,) = late.of(sight, [module])
    return found


# -- what has to be held ---------------------------------------------------------------------------


def test_closure_of_a_module_is_needed_as_it_lies_on_disk(host: Host) -> None:
    first, second = host.library("librbd.so.1", "libceph.so.2"), host.library("libceph.so.2")
    late = seen(host, host.module("block-rbd", "librbd.so.1"))
    assert (late.problem, late.order) == ("", ("librbd.so.1", "libceph.so.2"))
    assert [(need.name, need.path, need.size) for need in late.needs] == [
        ("librbd.so.1", first, first.stat().st_size),
        ("libceph.so.2", second, second.stat().st_size),
    ]


def test_library_is_needed_as_what_its_links_lead_to(host: Host) -> None:
    real = host.library("libq.so.1.2.3", soname="libq.so.1")
    (host.root / "lib/libq.so.1").symlink_to(real.name)
    (need,) = seen(host, host.module("m", "libq.so.1")).needs
    assert (need.name, need.path) == ("libq.so.1", real)


def test_what_came_with_the_executable_is_held_with_the_rest(host: Host) -> None:
    """One set serves all executables of a source build, whatever each of them starts with."""
    libz = host.library("libz.so.1")
    host.executable = host.program("program", needed=["libz.so.1"])
    late = seen(host, host.module("m", "libz.so.1"), libz)
    assert ([need.name for need in late.needs], late.order) == (["libz.so.1"], ("libz.so.1",))


def test_what_came_with_the_executable_and_was_replaced_is_not_held(host: Host) -> None:
    path, kept = host.library("libz.so.1"), host.root / "kept"
    kept.hardlink_to(path)
    host.executable = host.program("program", needed=["libz.so.1"])
    host.process(PID, kept)
    maps = host.proc.path(PID, "maps")
    maps.write_text(maps.read_text().replace(str(kept), f"{path} (deleted)"))
    path.unlink()
    host.library("libz.so.1")
    late = host.late_loads()
    (found,) = late.of(late.process(PID), [host.module("m", "libz.so.1")])
    assert (found.needs, found.problem) == ((), "")


def test_what_was_loaded_since_is_needed_all_the_same(host: Host) -> None:
    """Another process of the build may not have loaded it."""
    libz = host.library("libz.so.1")
    assert [n.name for n in seen(host, host.module("m", "libz.so.1"), libz).needs] == ["libz.so.1"]


def test_what_libraries_say_that_they_open_by_name_is_needed(host: Host) -> None:
    host.library("libplug.so.1")
    note = dlopen_note([{"soname": ["libplug.so.1", "libgone.so.1"]}])
    late = seen(host, host.module("m", notes=[note]))
    assert ([need.name for need in late.needs], late.problem) == (["libplug.so.1"], "")


@pytest.mark.parametrize("name", ["libc.so.6", "ld-linux-x86-64.so.2", "ld-2.31.so"])
def test_libc_and_the_loader_are_never_held(host: Host, name: str) -> None:
    host.library(name)
    late = seen(host, host.module("m", name))
    assert (late.needs, late.unheld, late.problem) == ((), (), "")


def test_library_that_is_asked_for_by_its_path_is_not_held(host: Host) -> None:
    path = host.library("libq.so.1", where="opt")
    late = seen(host, host.module("m", str(path)))
    assert (late.needs, late.unheld) == ((), ((str(path), "it is asked for by its path"),))


@pytest.mark.parametrize(
    ("place", "mode", "reason"),
    [("lib/libq.so.1", 0o666, "others can write to it"), ("lib", 0o777, "lib: others can write")],
)
def test_library_that_others_could_have_made_is_not_held(
    host: Host, place: str, mode: int, reason: str
) -> None:
    host.library("libq.so.1")
    (host.root / place).chmod(mode)
    late = seen(host, host.module("m", "libq.so.1"))
    assert late.needs == ()
    ((name, why),) = late.unheld
    assert name == "libq.so.1"
    assert reason in why


def with_a_library_of_a_user(host: Host, library_path: str = "") -> LateLoad:
    """It has the soname of what a module needs, is mapped, and needs what nobody else has."""
    host.library("libq.so.1")
    extra = host.library("libextra.so.1", where="home")
    own = host.library("libq.so.1", "libextra.so.1", where="home")
    own.chmod(0o666)
    return seen(host, host.module("m", "libq.so.1"), own, extra, LD_LIBRARY_PATH=library_path)


def test_library_of_a_user_has_no_say_in_what_everybodys_modules_need(host: Host) -> None:
    with pytest.raises(RefusedError, match="its libq.so.1 is not used: others can write to it"):
        with_a_library_of_a_user(host)


def test_library_of_a_user_counts_where_he_looks_for_libraries(host: Host) -> None:
    """What is held for such a process is held for others only if they look there, too."""
    late = with_a_library_of_a_user(host, f"{host.root}/home")
    assert late.order == ("libq.so.1", "libextra.so.1")
    assert [name for name, _ in late.unheld] == ["libq.so.1"]


def test_library_of_a_user_that_no_module_needs_does_not_matter(host: Host) -> None:
    own = host.library("libplugin.so", where="home")
    own.chmod(0o666)
    assert seen(host, host.module("m"), own).problem == ""


# -- the rest of glibc -----------------------------------------------------------------------------

COMPANIONS = ["libm.so.6", "libnss_files.so.2", "libresolv.so.2", "librt.so.1"]


@pytest.fixture
def libc(host: Host) -> Path:
    """With its companions beside it, and a process's executable that needs it."""
    for name in (*COMPANIONS, "libmagic.so.1", "libm.so", "libnss_ldap.so.2"):
        host.library(name)
    host.executable = host.program("program", needed=["libc.so.6", "librt.so.1"])
    return host.library("libc.so.6", **LIBC)


def test_companions_of_the_libc_in_the_process_are_needed(host: Host, libc: Path) -> None:
    late = seen(host, host.module("m"), libc)
    assert [need.name for need in late.needs] == COMPANIONS


def test_companions_of_another_libc_are_not_needed(host: Host, libc: Path) -> None:
    old = host.library("libc.so.6", where="gone", **LIBC)
    assert seen(host, host.module("m"), old).needs == ()


def test_process_without_glibc_has_no_companions(host: Host) -> None:
    host.library("libm.so.6")
    assert seen(host, host.module("m")).needs == ()


# -- what would go wrong ---------------------------------------------------------------------------


def test_module_that_needs_a_newer_libc_than_the_process_has_would_fail(
    host: Host, libc: Path
) -> None:
    host.library("librbd.so.1", "libc.so.6", **NEWER)
    assert seen(host, host.module("m", "librbd.so.1"), libc).problem == (
        "librbd.so.1 needs GLIBC_2.38, the libc.so.6 in the process has only GLIBC_2.36"
    )


def test_library_that_only_the_cache_does_not_know_is_said_to_be_there(host: Host) -> None:
    host.library("libq.so.1", where="opt")
    host.write("ld.so.conf", f"{host.root}/opt\n".encode())
    assert seen(host, host.module("m", "libq.so.1")).problem == (
        f"it needs libq.so.1, which is not to be found; it lies in {host.root}/opt: run ldconfig"
    )


def test_module_for_another_machine_is_said_to_be_one(host: Host) -> None:
    module = host.module("m")
    content = module.path.read_bytes()
    module.path.write_bytes(content[:18] + b"\xb7\0" + content[20:])
    assert seen(host, module).problem == "it is not for this machine"


def test_module_that_is_damaged_is_said_to_be(host: Host) -> None:
    module = host.module("m")
    module.path.write_bytes(module.path.read_bytes()[:100])
    assert seen(host, module).problem.startswith(f"{module.path} is damaged: truncated")


def test_symbols_are_looked_up_only_if_that_is_asked_for(host: Host) -> None:
    module = host.module("m", undefined=["gone"], relocated=["gone"])
    assert seen(host, module).problem == ""


def test_symbol_that_the_executable_should_have_makes_it_a_module_of_another_one(
    host: Host,
) -> None:
    module = host.module("m", undefined=["cpu_arm"], relocated=["cpu_arm"])
    late = seen(host, module, deep=True)
    assert late.problem == "it needs cpu_arm, which this executable has not"
    assert late.other


def test_symbol_that_a_library_lacks_is_no_sign_of_another_executable(host: Host) -> None:
    host.library("r", soname="", undefined=["gone"], relocated=["gone"])
    late = seen(host, host.module("m", "r"), deep=True)
    assert (late.problem, late.other) == ("r needs gone, which nothing has", False)


def test_symbols_of_a_file_that_is_younger_are_looked_up(host: Host) -> None:
    """Where a stamp spans builds: it may be a later one's."""
    module, late = host.module("m", undefined=["f"], relocated=["f"]), host.late_loads()
    age = module.path.stat().st_mtime_ns
    (older,) = late.of(late.process(host.process(1)), [module], doubtful=age)
    assert older.problem == ""
    late = host.late_loads()
    (younger,) = late.of(late.process(1), [module], doubtful=age - 1)
    assert (younger.problem, younger.other) == ("undefined symbol f", False)


# -- who looks -------------------------------------------------------------------------------------


def test_processes_that_run_the_same_files_share_what_was_seen(host: Host) -> None:
    libz, late = host.library("libz.so.1"), host.late_loads()
    first, second, third = (
        late.process(host.process(pid, *mapped)) for pid, mapped in enumerate(([libz], [libz], []))
    )
    assert first is second
    assert first is not third


def test_process_that_ends_takes_nothing_from_those_that_share_what_was_seen(host: Host) -> None:
    libz, kept, late = host.library("libz.so.1"), host.root / "kept", host.late_loads(deep=True)
    kept.hardlink_to(libz)
    for pid in (1, 2):
        maps = host.proc.path(host.process(pid, kept), "maps")
        maps.write_text(maps.read_text().replace(str(kept), f"{libz} (deleted)"))
    libz.unlink()
    sight, same = late.process(1), late.process(2)
    assert sight is same
    shutil.rmtree(host.proc.root / "1")
    (found,) = late.of(sight, [host.module("m", "libz.so.1")])
    assert found.problem == ""


def test_another_library_path_is_another_sight(host: Host) -> None:
    late = host.late_loads()
    sights = [
        late.process(host.process(1)),
        late.process(host.process(2, LD_LIBRARY_PATH="/opt/lib")),
        late.process(host.process(3, LD_LIBRARY_PATH="/opt/lib")),
    ]
    assert sights[0] is not sights[1]
    assert sights[1] is sights[2]


def test_library_path_is_searched_as_the_process_was_started_with_it(host: Host) -> None:
    host.library("libq.so.1")
    own = host.library("libq.so.1", where="own")
    path = f"relative;:{host.root}/gone;{host.root}/own"
    (need,) = seen(host, host.module("m", "libq.so.1"), LD_LIBRARY_PATH=path).needs
    assert need.path == own


def test_library_path_of_hundreds_of_directories_is_malformed(host: Host) -> None:
    many = ":".join(f"/{number}" for number in range(1000))
    host.process(PID, LD_LIBRARY_PATH=many)
    with pytest.raises(MalformedError, match="names 1000 directories"):
        host.late_loads().process(PID)


def test_executable_that_names_no_loader_is_malformed(host: Host) -> None:
    host.executable = host.write("bin/static", bytes(Image(needed=["libc.so.6"])))
    host.process(PID)
    with pytest.raises(MalformedError, match="names no loader"):
        host.late_loads().process(PID)


def test_process_that_is_started_now_has_what_its_executable_needs(host: Host, libc: Path) -> None:
    late = host.late_loads()
    host.library("librbd.so.1", "libc.so.6", "libm.so.6")
    (found,) = late.of(late.installed(host.executable), [host.module("m", "librbd.so.1")])
    assert found.problem == ""
    assert [n.name for n in found.needs] == ["librbd.so.1", *COMPANIONS]


# -- the way ---------------------------------------------------------------------------------------


def test_way_of_the_linker_names_each_library_and_what_led_to_it(host: Host) -> None:
    libz, libq = host.library("libz.so.1"), host.library("libq.so.1", "libz.so.1")
    late = host.late_loads()
    sight = late.process(host.process(PID, libz))
    (found,) = late.of(sight, [host.module("m", "libq.so.1")])
    steps, by_name = late.way(sight, found)
    assert [(step.name, step.path, step.why) for step in steps] == [
        ("libq.so.1", libq, "a default directory"),
        ("libz.so.1", libz, "mapped already"),
    ]
    assert by_name == ()


def test_way_names_what_of_this_system_is_opened_by_name(host: Host) -> None:
    host.library("libplug.so.1")
    opener: dict[str, Any] = {"undefined": ["dlopen"], "relocated": ["dlopen"]}
    host.library("libq.so.1", constants=b"\0libplug.so.1\0libgone.so.1\0", **opener)
    host.library("libr.so.1", **opener)
    late = host.late_loads()
    sight = late.process(host.process(PID))
    (found,) = late.of(sight, [host.module("m", "libq.so.1", "libr.so.1")])
    assert late.way(sight, found)[1] == (
        ("libplug.so.1", "libq.so.1"),
        ("", "libr.so.1"),
    )


# -- patience --------------------------------------------------------------------------------------


def ticks() -> Iterator[float]:
    """A clock that is a second further on each time that it is looked at."""
    now = 0.0
    while True:
        yield now
        now += 1


def impatient(host: Host, seconds: float) -> LateLoads:
    clock = ticks()
    return host.late_loads(patience=seconds, clock=lambda: next(clock))


def test_user_whose_processes_take_too_long_is_left_and_stays_so(host: Host) -> None:
    libraries = [host.library(f"lib{number}.so") for number in range(20)]
    late = impatient(host, 10)
    host.process(1, *libraries)
    host.process(2)
    for pid in (1, 2):
        with pytest.raises(UnreadableError, match="too long"), late.on_behalf_of(pid):
            late.process(pid)


def test_patience_is_long_enough_for_who_asks_for_little(host: Host) -> None:
    late = impatient(host, 1000)
    for pid in (1, 2):
        host.process(pid)
        with late.on_behalf_of(pid):
            late.process(pid)


def test_hundreds_of_honest_guests_of_one_user_use_up_nothing(host: Host) -> None:
    clock = (number / 1000 for number in count())
    late = host.late_loads(patience=0.05, clock=lambda: next(clock))
    for pid in range(1, 301):
        host.process(pid)
        with late.on_behalf_of(pid):
            late.process(pid)


def test_patience_of_one_is_not_used_up_by_another(host: Host) -> None:
    class Owned(ProcFs):
        def owner(self, pid: int) -> int:
            return {1: 1000, 2: 1000, 3: 1001}[pid]

    host.proc = Owned(host.proc.root)
    late = impatient(host, 20)
    libraries = [host.library(f"lib{number}.so") for number in range(10)]
    outcomes = []
    for pid in (1, 2, 3):
        host.process(pid, *libraries, LD_LIBRARY_PATH=f"/{pid}")
        try:
            with late.on_behalf_of(pid):
                late.process(pid)
            outcomes.append("seen")
        except UnreadableError:
            outcomes.append("left")
    assert outcomes == ["seen", "left", "seen"]


def test_user_who_has_had_his_share_is_not_looked_at_any_more(host: Host) -> None:
    """To read what a process has mapped takes a second if it has mapped 60,000 parts of files."""
    host.executable = host.program("qemu-system-x86_64")
    host.process(PID)
    (host.proc.root / "self").symlink_to(str(PID))
    late = impatient(host, 0)
    seen = scan(host.proc, load_programs(), host.root / "views", late=late)
    (left,) = seen.unreadable
    assert (left.pid, left.program, seen.processes) == (PID, "qemu", ())
    assert "too long to look at" in left.reason


def test_nobody_is_hurried_when_nobody_is_waited_for(host: Host) -> None:
    late = impatient(host, 0)
    host.process(PID)
    assert late.process(PID).world.executable.path == host.executable


# -- as the scan takes it --------------------------------------------------------------------------


def foresight(host: Host, late: LateLoads, *modules: Module) -> Foresight:
    return Foresight(late, host.root / "views", modules)


def test_process_that_cannot_be_foreseen_says_why_and_keeps_its_library_path(host: Host) -> None:
    host.loader.write_bytes(b"damaged")
    host.process(PID, LD_LIBRARY_PATH="/opt/lib")
    guest = process(id=ProcessId(PID, 1), build=build(directories=(host.root / "modules",)))
    late = host.late_loads()
    seen, sight = late.see(guest, host.proc.maps(PID))
    found = foresight(host, late, host.module("m")).process(seen, sight)
    assert "cannot be read" in found.unforeseen
    assert (found.own, found.late, found.library_path) == ((), (), "/opt/lib")


@pytest.mark.parametrize("damage", [b"damaged", b""])
def test_installed_build_that_cannot_be_foreseen_says_why(host: Host, damage: bytes) -> None:
    host.loader.write_bytes(damage)
    there = Installed(host.executable, build(directories=(host.root / "modules",)))
    found = foresight(host, host.late_loads(), host.module("m")).installed(there)
    assert found.own == ()
    assert "cannot be read" in found.unforeseen


def test_installed_build_that_went_a_moment_ago_is_not_the_end(host: Host) -> None:
    host.executable.unlink()
    found = foresight(host, host.late_loads()).installed(Installed(host.executable, build()))
    assert found.unforeseen
