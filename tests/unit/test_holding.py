# SPDX-License-Identifier: Apache-2.0
"""Holding a build with its closure: all of it as it was seen, or nothing."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest
from unit.elf_images import Image
from unit.factories import OTHER_STAMP, STAMP, build, store_below
from unit.hostile import sparse

from holdover.elf import ElfFile
from holdover.errors import (
    DamagedError,
    ElfError,
    HoldoverError,
    StoreError,
    UntrustedError,
    VanishedError,
)
from holdover.held import Holding, Purpose
from holdover.model import Capture, LateLoad, Needed
from holdover.programs import load_programs
from holdover.staging import Staging
from holdover.steps.capture import capture
from holdover.store import Store

PROGRAMS = load_programs()
KNOWN = b"block-rbd\0block-ssh\0accel-hvf"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    before = os.umask(0o022)
    yield store_below(tmp_path / "store")
    os.umask(before)


class Disk:
    """A build on disk: an executable that knows of modules, a directory of them, libraries."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules, self.libraries = root / "modules", root / "libraries"
        self.modules.mkdir()
        self.libraries.mkdir()
        self.executable = root / "qemu-system-x86_64"
        self.executable.write_bytes(bytes(Image(constants=KNOWN)))

    def module(self, name: str, *needs: Needed, stamp: str = STAMP) -> LateLoad:
        path = self.modules / f"{name}.so"
        path.write_bytes(bytes(Image(defined=[stamp], needed=["libc.so.6"])))
        order = tuple(need.name for need in needs)
        return LateLoad(name, path, needs=needs, order=order)

    def library(self, name: str, where: str = "") -> Needed:
        path = self.libraries / where / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(Image(soname=name)) + where.encode())
        return self.needed(name, path)

    def needed(self, name: str, path: Path) -> Needed:
        found = path.stat()
        return Needed(name, path, found.st_size, found.st_mtime_ns)

    def wanted(self, *modules: LateLoad, library_path: str = "") -> Capture:
        of = build(directories=(self.modules,))
        return Capture(
            of, Purpose.HOLD, self.executable, modules, "because", library_path=library_path
        )


@pytest.fixture
def disk(tmp_path: Path, store: Store) -> Disk:
    return Disk(tmp_path)


def held(store: Store, wanted: Capture) -> Holding:
    with store.writing(0):
        taken = capture(store, wanted, PROGRAMS)
    return next(h for h in store.holdings() if h.snapshot.id == taken.id)


def assert_nothing_is_left(store: Store) -> None:
    assert store.holdings() == ()
    assert list((store.objects / "staging").iterdir()) == []
    assert list(store.views.iterdir()) == []


def refused(store: Store, wanted: Capture) -> HoldoverError:
    """The error, after which nothing is left."""
    with pytest.raises(HoldoverError) as caught:
        held(store, wanted)
    assert_nothing_is_left(store)
    return caught.value


# -- what is held ----------------------------------------------------------------------------------


def test_module_is_rewritten_to_find_its_closure_in_the_view(store: Store, disk: Disk) -> None:
    holding = held(store, disk.wanted(disk.module("block-rbd", disk.library("librbd.so.1"))))
    with (holding.view / "block-rbd.so").open("rb") as file:
        elf = ElfFile(file)
        assert (elf.needed, elf.rpath) == (("libc.so.6", "librbd.so.1"), "$ORIGIN/lib")
    assert (holding.view / "lib/librbd.so.1").samefile(disk.libraries / "librbd.so.1")
    assert {file.path: file.how for file in holding.snapshot.files} == {
        "block-rbd.so": "rewritten",
        "lib/librbd.so.1": "link",
    }
    assert (holding.damage, store.damage(holding)) == ("", "")


def test_module_that_needs_nothing_is_linked_as_it_is(store: Store, disk: Disk) -> None:
    late = disk.module("block-ssh")
    holding = held(store, disk.wanted(late))
    assert (holding.view / "block-ssh.so").samefile(late.path)


# -- what else lies in the directory ---------------------------------------------------------------

BESIDE = tuple(replace(p, beside=("bitcode/**/*", "*.bc", "lib/*")) for p in PROGRAMS)


def beside(store: Store, wanted: Capture) -> Holding:
    with store.writing(0):
        snapshot = capture(store, wanted, BESIDE)
    return next(h for h in store.holdings() if h.snapshot.id == snapshot.id)


def test_what_the_program_reads_beside_its_modules_is_linked_where_it_was(
    store: Store, disk: Disk
) -> None:
    for name in ("types.bc", "bitcode/a/b.bc", "lib/not-ours.so", "notes.txt"):
        (disk.modules / name).parent.mkdir(parents=True, exist_ok=True)
        (disk.modules / name).write_text(name)
    holding = beside(store, disk.wanted(disk.module("block-rbd")))
    assert set(holding.snapshot.beside) == {"types.bc", "bitcode/a/b.bc"}
    assert holding.snapshot.modules == {"block-rbd"}
    for name in holding.snapshot.beside:
        assert (holding.view / name).samefile(disk.modules / name)
    assert (holding.damage, store.damage(holding)) == ("", "")


def test_what_is_taken_over_brings_along_what_lay_beside_it(store: Store, disk: Disk) -> None:
    (disk.modules / "types.bc").write_text("of the first build")
    first = beside(store, disk.wanted(disk.module("block-rbd")))
    (disk.modules / "types.bc").unlink()
    (disk.modules / "types.bc").write_text("of the next one")
    kept = LateLoad("block-rbd", first.view / "block-rbd.so")
    second = beside(store, disk.wanted(kept, disk.module("block-ssh")))
    assert (second.view / "types.bc").samefile(first.view / "types.bc")


def test_no_decoys_are_needed_where_the_search_ends_in_the_view(store: Store, disk: Disk) -> None:
    programs = tuple(replace(p, modules=None) for p in PROGRAMS)
    with store.writing(0):
        taken = capture(store, disk.wanted(disk.module("block-rbd")), programs)
    assert taken.decoys == ()


def test_every_other_name_is_a_decoy(store: Store, disk: Disk) -> None:
    (disk.modules / "ui-gtk.so").touch()
    holding = held(store, disk.wanted(disk.module("block-rbd")))
    others = {"accel-hvf", "block-ssh", *load_programs()[1].asked}
    assert set(holding.snapshot.decoys) == others


def test_alias_of_a_module_is_held_as_what_it_leads_to(store: Store, disk: Disk) -> None:
    late = disk.module("block-rbd")
    alias = disk.modules / "block-alias.so"
    alias.symlink_to("block-rbd.so")
    holding = held(store, disk.wanted(replace(late, name="block-alias", path=alias)))
    assert (holding.view / "block-alias.so").samefile(late.path)


def test_library_of_several_modules_is_held_once(store: Store, disk: Disk) -> None:
    need = disk.library("librbd.so.1")
    holding = held(store, disk.wanted(disk.module("block-rbd", need), disk.module("b", need)))
    assert list(holding.snapshot.libraries) == ["librbd.so.1"]


def test_second_library_of_a_name_is_not_held_and_named_with_the_reason(
    store: Store, disk: Disk
) -> None:
    first, second = disk.library("libq.so.1"), disk.library("libq.so.1", "other")
    wanted = disk.wanted(disk.module("block-a", first), disk.module("block-b", second))
    holding = held(store, wanted)
    assert (holding.view / "lib/libq.so.1").samefile(first.path)
    ((name, reason),) = holding.snapshot.unheld
    assert name == "libq.so.1"
    assert str(second.path) in reason
    assert str(first.path) in reason


def test_module_from_another_view_comes_with_its_libraries(store: Store, disk: Disk) -> None:
    old = held(store, disk.wanted(disk.module("block-rbd", disk.library("librbd.so.1"))))
    for path in (*disk.modules.iterdir(), *disk.libraries.iterdir()):
        path.unlink()
    kept = LateLoad("block-rbd", old.view / "block-rbd.so")
    holding = held(store, disk.wanted(kept, disk.module("block-ssh")))
    assert holding.snapshot.id != old.snapshot.id
    for name in ("block-rbd.so", "lib/librbd.so.1"):
        assert (holding.view / name).samefile(old.view / name)
    first = {file.path: file.origin for file in old.snapshot.files}
    now = {file.path: file.origin for file in holding.snapshot.files}
    assert now.items() >= first.items()  # where the system had it, and not the earlier snapshot


def test_same_files_for_another_library_path_are_another_snapshot(store: Store, disk: Disk) -> None:
    late = disk.module("block-rbd")
    first, second = (held(store, disk.wanted(late, library_path=path)) for path in ("", "/opt/lib"))
    assert (first.snapshot.library_path, second.snapshot.library_path) == ("", "/opt/lib")
    assert len(store.holdings()) == 2


def test_name_that_is_not_utf_8_is_held_too(store: Store, disk: Disk) -> None:
    need = disk.library("lib\udcffq.so")
    holding = held(store, disk.wanted(disk.module("block-rbd", need)))
    assert list(holding.snapshot.libraries) == ["lib\udcffq.so"]


# -- what changed meanwhile ------------------------------------------------------------------------


@pytest.fixture
def seen(disk: Disk) -> Capture:
    """Two modules and a library of one of them, as a scan saw them."""
    need = disk.library("librbd.so.1")
    return disk.wanted(disk.module("block-ssh"), disk.module("block-rbd", need))


def test_library_that_vanished_is_an_error_that_names_it(
    store: Store, disk: Disk, seen: Capture
) -> None:
    (disk.libraries / "librbd.so.1").unlink()
    error = refused(store, seen)
    assert type(error) is StoreError
    assert "librbd.so.1" in error.message


def test_library_that_was_replaced_is_damage(store: Store, disk: Disk, seen: Capture) -> None:
    path = disk.libraries / "librbd.so.1"
    path.unlink()
    path.write_bytes(bytes(Image(soname="librbd.so.1", needed=["libnew.so"])))
    error = refused(store, seen)
    assert type(error) is DamagedError
    assert error.message == f"{path} was replaced while it was being captured"


def test_library_of_the_same_size_is_told_by_its_time(
    store: Store, disk: Disk, seen: Capture
) -> None:
    os.utime(disk.libraries / "librbd.so.1", ns=(1, 1))
    assert type(refused(store, seen)) is DamagedError


@pytest.mark.parametrize("name", ["block-rbd", "block-ssh"], ids=["rewritten", "linked"])
def test_module_that_vanished_is_an_error(
    store: Store, disk: Disk, seen: Capture, name: str
) -> None:
    (disk.modules / f"{name}.so").unlink()
    assert f"{name}.so" in refused(store, seen).message


@pytest.mark.parametrize("name", ["block-rbd", "block-ssh"], ids=["rewritten", "linked"])
def test_module_that_was_replaced_by_one_of_another_build_is_damage(
    store: Store, disk: Disk, seen: Capture, name: str
) -> None:
    disk.module(name, stamp=OTHER_STAMP)
    assert type(refused(store, seen)) is DamagedError


def test_executable_that_is_gone_needs_nothing_any_more(
    store: Store, disk: Disk, seen: Capture
) -> None:
    disk.executable.unlink()
    assert type(refused(store, seen)) is VanishedError


def test_library_that_became_a_directory_is_an_error(
    store: Store, disk: Disk, seen: Capture
) -> None:
    (disk.libraries / "librbd.so.1").unlink()
    (disk.libraries / "librbd.so.1").mkdir()
    assert isinstance(refused(store, seen), StoreError)


def test_damaged_module_is_an_error(store: Store, disk: Disk, seen: Capture) -> None:
    (disk.modules / "block-rbd.so").write_bytes(b"\x7fELF\2\1\1 and no more")
    assert type(refused(store, seen)) is ElfError


def test_module_that_claims_terabytes_is_not_read_whole(
    store: Store, disk: Disk, seen: Capture
) -> None:
    path = disk.modules / "block-rbd.so"
    sparse(path, path.read_bytes(), 2**42)
    assert type(refused(store, seen)) is ElfError


# -- what is never held ----------------------------------------------------------------------------


def set_id(path: Path) -> None:
    path.chmod(0o4755)


def writable_by_others(path: Path) -> None:
    path.chmod(0o666)


def capable(path: Path) -> None:
    setcap = shutil.which("setcap", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if not setcap or subprocess.run([setcap, "cap_net_raw+ep", path], check=False).returncode:
        pytest.skip("no file can be given capabilities here")


@pytest.mark.parametrize(
    ("change", "kind"),
    [(set_id, StoreError), (capable, StoreError), (writable_by_others, UntrustedError)],
)
@pytest.mark.parametrize("name", ["modules/block-rbd.so", "libraries/librbd.so.1"])
def test_file_that_must_not_be_held_is_refused(
    store: Store,
    disk: Disk,
    seen: Capture,
    name: str,
    change: Callable[[Path], None],
    kind: type[HoldoverError],
) -> None:
    change(disk.root / name)
    assert type(refused(store, seen)) is kind
    assert (disk.root / name).stat().st_nlink == 1


NAMES = ["", ".", "..", "../x", "a/b", "/etc/passwd", "lib/../../x", "a\0b", "lib/x", "x" * 300]


@pytest.mark.parametrize("name", NAMES)
def test_library_whose_name_would_leave_the_view_is_refused(
    store: Store, disk: Disk, name: str
) -> None:
    need = replace(disk.library("libq.so.1"), name=name)
    assert type(refused(store, disk.wanted(disk.module("block-rbd", need)))) is StoreError
    assert need.path.stat().st_nlink == 1


def linked(staging: Staging, name: str, path: Path) -> None:
    staging.hold(name, path)


def rewritten(staging: Staging, name: str, path: Path) -> None:
    staging.hold_changed(name, path, lambda file: file.read())


@pytest.mark.parametrize("hold", [linked, rewritten])
@pytest.mark.parametrize("name", ["", ".", "..", "../x.so", "lib/../x.so", "a\0.so", "a/b.so"])
def test_file_whose_name_would_leave_the_view_is_refused(
    store: Store, disk: Disk, name: str, hold: Callable[[Staging, str, Path], None]
) -> None:
    path = disk.module("block-rbd").path
    with store.writing(0), store.staging() as staging:
        with pytest.raises(StoreError, match="cannot be the name"):
            hold(staging, name, path)
        assert list(staging.directory.iterdir()) == []


def test_file_that_is_replaced_while_it_is_rewritten_does_not_pass_on_its_rights(
    store: Store, disk: Disk
) -> None:
    path = disk.module("block-rbd").path

    def replace_it(file: BinaryIO) -> bytes:
        path.unlink()
        path.write_bytes(b"a program that was installed under this name")
        path.chmod(0o4755)
        return file.read()

    with store.writing(0):
        with pytest.raises(StoreError, match="set-id"), store.staging() as staging:
            staging.hold_changed("block-rbd.so", path, replace_it)
        assert_nothing_is_left(store)


# -- what was got back from elsewhere --------------------------------------------------------------


def test_rescued_files_say_where_they_came_from_and_count_as_written(
    disk: Disk, store: Store
) -> None:
    library = replace(disk.library("libq.so.1"), origin="libq1_1_amd64.deb (archive)")
    module = replace(disk.module("block-rbd", library), origin="qemu_1_amd64.deb (archive)")
    with store.writing(0):
        taken = capture(store, disk.wanted(module), PROGRAMS)
    files = {file.path: file for file in taken.files}
    assert files["block-rbd.so"].origin == "qemu_1_amd64.deb (archive)"
    assert files["lib/libq.so.1"].origin == "libq1_1_amd64.deb (archive)"
    assert files["lib/libq.so.1"].how == "rescued"
    assert library.path.stat().st_nlink == 2
    assert taken.bytes_written == sum(file.size for file in taken.files)


def test_rescued_files_count_for_the_budget(disk: Disk, store: Store) -> None:
    library = replace(disk.library("libq.so.1"), origin="libq1_1_amd64.deb (archive)")
    small = replace(store, budget=library.size - 1)
    with small.writing(0), pytest.raises(StoreError, match="more would be written"):
        capture(small, disk.wanted(disk.module("block-rbd", library)), PROGRAMS)
