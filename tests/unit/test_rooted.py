# SPDX-License-Identifier: Apache-2.0
"""Libraries of another system, unpacked below a directory: found there, or not at all."""

from pathlib import Path

import pytest
from unit.elf_images import Image, build_id_note
from unit.hosts import Host

from holdover.model import Module
from holdover.rooted import RootedLibraries

PID = 7
HERE, OTHER = build_id_note(b"here" * 5), build_id_note(b"other" * 4)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "host")


class Old:
    """An old system below `root`, as it would be unpacked for a process of `host`."""

    def __init__(self, host: Host, root: Path) -> None:
        self.root = root
        self.lib = root / host.directories[0].relative_to("/")
        self.lib.mkdir(parents=True)

    def library(self, name: str, *needed: str, **image: object) -> Path:
        return self.write(name, bytes(Image(soname=name, needed=needed, **image)))  # type: ignore[arg-type]

    def module(self, name: str, *needed: str, **image: object) -> Module:
        content = bytes(Image(needed=needed, **image))  # type: ignore[arg-type]
        return Module(name, self.write(f"{name}.so", content), "")

    def write(self, name: str, content: bytes) -> Path:
        path = self.lib / name
        path.write_bytes(content)
        return path


@pytest.fixture
def old(host: Host, tmp_path: Path) -> Old:
    return Old(host, tmp_path / "old")


def rooted(host: Host, old: Old) -> RootedLibraries:
    return RootedLibraries(host.libraries, old.root)


def needs(host: Host, old: Old, module: Module, *mapped: Path) -> tuple[str, dict[str, Path]]:
    """What is in the way of a late load, and the libraries that it needs, by name."""
    late = host.late_loads()
    sight = late.beside(late.process(host.process(PID, *mapped)), old.root)
    (load,) = late.of(sight, [module], old.root)
    return load.problem, {need.name: need.path for need in load.needs}


def test_name_of_the_old_system_leads_below_its_root(host: Host, old: Old) -> None:
    inside = old.library("libq.so.1")
    here = host.library("libq.so.1")
    found = rooted(host, old).library(here)
    assert found is not None
    assert found.path == inside


def test_what_the_old_system_has_not_is_not_taken_from_this_one(host: Host, old: Old) -> None:
    assert rooted(host, old).library(host.library("libq.so.1")) is None


def test_path_with_more_slashes_leads_below_its_root_too(host: Host, old: Old) -> None:
    inside, here = old.library("libq.so.1"), host.library("libq.so.1")
    found = rooted(host, old).library(Path(f"/{here}"))
    assert found is not None
    assert found.path == inside


def test_absolute_link_out_of_the_root_leads_nowhere(host: Host, old: Old) -> None:
    here = host.library("libq.so.1")
    (old.lib / "libq.so.1").symlink_to(here)
    assert rooted(host, old).library(here) is None


def test_module_needs_what_lies_beside_it(host: Host, old: Old) -> None:
    host.library("libq.so.1", "libgone.so.1")
    beside = old.library("libq.so.1", "libr.so.1")
    further = old.library("libr.so.1")
    problem, found = needs(host, old, old.module("m", "libq.so.1"))
    assert problem == ""
    assert found == {"libq.so.1": beside, "libr.so.1": further}


def test_what_is_missing_there_is_named(host: Host, old: Old) -> None:
    host.library("libq.so.1")
    problem, _ = needs(host, old, old.module("m", "libq.so.1"))
    assert problem == "it needs libq.so.1, which is not to be found"


def test_what_the_process_has_mapped_wins(host: Host, old: Old) -> None:
    """Versions that it does not offer are missing, whatever the old system's would offer."""
    mapped = host.library("libq.so.1", defines=["Q_1"])
    host.executable = host.program("program", needed=["libq.so.1"])
    old.library("libq.so.1", defines=["Q_1", "Q_2"])
    module = old.module("m", "libq.so.1", wants={"libq.so.1": ["Q_2"]})
    problem, _ = needs(host, old, module, mapped)
    assert problem == "it needs Q_2, the libq.so.1 in the process has only Q_1"


@pytest.mark.parametrize(("note", "held"), [(HERE, True), (OTHER, False)])
def test_rest_of_a_libc_is_held_only_if_it_is_of_the_very_libc(
    host: Host, old: Old, note: bytes, held: bool
) -> None:
    mapped = host.library("libc.so.6", notes=[HERE])
    host.executable = host.program("program", needed=["libc.so.6"])
    old.library("libc.so.6", notes=[note])
    old.library("libresolv.so.2")
    _, found = needs(host, old, old.module("m", "libc.so.6"), mapped)
    assert ("libresolv.so.2" in found) == held


def test_two_without_build_id_are_not_the_same(host: Host, old: Old) -> None:
    files = rooted(host, old)
    one, other = files.library(old.library("libq.so.1")), files.library(old.library("libr.so.1"))
    assert one is not None
    assert other is not None
    assert files.is_same(one, one)
    assert not files.is_same(one, other)
