# SPDX-License-Identifier: Apache-2.0
"""Whose mounts give a mapped file a name that counts, with real namespaces."""

import errno
import mmap
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest
from unit.elf_images import Image
from unit.factories import STAMP, build, process

from holdover.mounted import is_named_by_root, mounts_of_root
from holdover.procfs import ProcFs
from holdover.programs import load_programs
from holdover.steps.holders import modules_on_this_machine

PROC = ProcFs()
USERS, ROOTS = ("--user", "--map-root-user", "--mount"), ("--mount",)
QEMU = next(p for p in load_programs() if p.name == "qemu")


@contextmanager
def namespace(script: str, *options: str, program: str | Path = "cat") -> Iterator[int]:
    """A process in namespaces of its own, in which the script has run; it lives to the end."""
    words = ("unshare", *options, "sh", "-c", f"{script}\nexec {program}")
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        with suppress(BrokenPipeError):
            os.write(other.stdin.fileno(), b"ready\n")
        if other.stdout.readline() != b"ready\n":
            pytest.skip(f"no such namespaces here: {other.communicate()[1]!r}")
        yield other.pid  # it ends when its stdin is closed, at the end of the block


@contextmanager
def mapped(path: str | Path) -> Iterator[int]:
    """The file, mapped by ourselves; its descriptor."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ):
        yield file.fileno()


def found(place: Path, *, look_alike: bool = False) -> set[str]:
    """Modules that we have mapped; skips where that cannot be looked at."""
    try:
        os.open(next(PROC.path(os.getpid(), "map_files").iterdir()), os.O_PATH)
    except OSError as error:
        pytest.skip(f"what is mapped cannot be opened here: {error}")
    mine = process(os.getpid(), look_alike=look_alike)
    return {module.name for module in modules_on_this_machine(PROC, [mine], QEMU, build(), place)}


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    directory = tmp_path / "modules"
    directory.mkdir()
    for name in ("block-rbd", "block-curl"):
        (directory / f"{name}.so").write_bytes(bytes(Image(defined=[STAMP, name])))
    return directory


def test_root_mounts_in_our_namespace_and_in_those_of_our_user_namespace() -> None:
    ours = mounts_of_root(PROC, os.getpid())
    assert PROC.read(os.getpid(), "mountinfo").split(None, 1)[0] in map(str, ours)
    with namespace("", *ROOTS) as pid:
        its = {int(line.split()[0]) for line in PROC.read(pid, "mountinfo").splitlines()}
        assert its - ours
        assert mounts_of_root(PROC, pid) >= its | ours


def test_user_mounts_in_a_user_namespace() -> None:
    with namespace("", *USERS) as pid:
        assert mounts_of_root(PROC, pid) == mounts_of_root(PROC, os.getpid())


def test_user_may_run_a_program_by_another_name(tmp_path: Path) -> None:
    name = tmp_path / "name"
    name.touch()
    with namespace("", *ROOTS) as pid:
        assert is_named_by_root(PROC, pid, "exe")
    with namespace(f"mount --bind /bin/cat {name}", *USERS, program=name) as pid:
        assert PROC.link(pid, "exe") == str(name)
        assert not is_named_by_root(PROC, pid, "exe")


def test_module_that_is_mapped_is_found_by_its_name(modules: Path, tmp_path: Path) -> None:
    with mapped(modules / "block-rbd.so"):
        assert found(tmp_path / "place") == {"block-rbd"}


def test_module_of_a_build_with_the_same_stamp_is_not_its_own(
    modules: Path, tmp_path: Path
) -> None:
    with mapped(modules / "block-rbd.so"), mapped(modules / "block-curl.so"):
        (modules / "block-curl.so").unlink()  # an upgrade has replaced it since
        assert found(tmp_path / "place", look_alike=True) == {"block-curl"}


def test_name_that_a_user_has_given_it_is_not_believed(modules: Path, tmp_path: Path) -> None:
    rbd, curl = modules / "block-rbd.so", modules / "block-curl.so"
    with namespace(f"mount --bind {rbd} {curl}", *USERS) as pid, mapped(f"/proc/{pid}/root{curl}"):
        lines = PROC.maps(os.getpid())
        assert [m.path for m in lines if m.path.startswith(f"{modules}")] == [str(curl)]
        assert found(tmp_path / "place") == set()


def test_process_that_ended_and_a_copy_that_fails_keep_nobody_from_the_rest(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: BinaryIO, target: BinaryIO) -> None:
        target.write(content := source.read())
        if b"block-rbd" in content:
            raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr("shutil.copyfileobj", copy)
    with mapped(modules / "block-rbd.so"), mapped(modules / "block-curl.so"):
        assert found(tmp_path / "place") == {"block-curl"}
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["block-curl.so"]
