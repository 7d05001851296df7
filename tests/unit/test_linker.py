# SPDX-License-Identifier: Apache-2.0
"""The linker model, case by case as ld.so(8) orders the search."""

from pathlib import Path
from typing import Any

import pytest

from holdover.linker import Closure, Library, System, closure
from holdover.model import FileId

DEFAULT = Path("/usr/lib")


class Disk:
    """Objects by path; each has an inode of its own unless it is a link to another."""

    def __init__(self) -> None:
        self.objects: dict[Path, Library] = {}

    def add(self, path: str, *needed: str, **more: Any) -> Library:
        soname = more.pop("soname", Path(path).name)
        file = more.pop("file", FileId(1, len(self.objects) + 1))
        library = Library(Path(path), file, soname, needed, **more)
        self.objects[Path(path)] = library
        return library

    def library(self, path: Path) -> Library | None:
        return self.objects.get(path)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def paths(disk: Disk, module: Library, **cache: str) -> list[str]:
    named = {name.replace("_", "."): [Path(path)] for name, path in cache.items()}
    found = closure(module, disk, System(named, (DEFAULT,))).found
    return [str(entry.library.path) for entry in found]


def missing(seen: Closure) -> list[str]:
    return [entry.name for entry in seen.missing]


def test_names_are_followed_breadth_first(disk: Disk) -> None:
    disk.add("/usr/lib/a", "c")
    disk.add("/usr/lib/b", "d")
    disk.add("/usr/lib/c")
    disk.add("/usr/lib/d", "a")  # and round again
    module = disk.add("/m.so", "a", "b")
    assert paths(disk, module) == [f"/usr/lib/{name}" for name in "abcd"]


def test_cache_comes_before_the_default_directories(disk: Disk) -> None:
    for path in ("/usr/lib/a", "/opt/a"):
        disk.add(path)
    module = disk.add("/m.so", "a")
    assert paths(disk, module) == ["/usr/lib/a"]
    assert paths(disk, module, a="/opt/a") == ["/opt/a"]


def test_stale_entry_of_the_cache_is_passed_over(disk: Disk) -> None:
    disk.add("/usr/lib/a")
    assert paths(disk, disk.add("/m.so", "a"), a="/gone/a") == ["/usr/lib/a"]


@pytest.mark.parametrize("path", ["rpath", "runpath"])
def test_own_path_comes_before_the_cache(disk: Disk, path: str) -> None:
    for directory in ("/usr/lib", "/m/lib"):
        disk.add(f"{directory}/a")
    module = disk.add("/m/m.so", "a", **{path: "/none:$ORIGIN/lib"})
    assert paths(disk, module, a="/usr/lib/a") == ["/m/lib/a"]


def test_rpath_serves_what_is_loaded_for_it_and_runpath_does_not(disk: Disk) -> None:
    disk.add("/m/a", "b")
    for directory in ("/usr/lib", "/m"):
        disk.add(f"{directory}/b")
    assert paths(disk, disk.add("/m.so", "a", rpath="/m")) == ["/m/a", "/m/b"]
    assert paths(disk, disk.add("/n.so", "a", runpath="/m")) == ["/m/a", "/usr/lib/b"]


def test_runpath_of_a_library_switches_off_every_rpath_for_it(disk: Disk) -> None:
    disk.add("/m/a", "b", runpath="/none")
    for directory in ("/usr/lib", "/m"):
        disk.add(f"{directory}/b")
    assert paths(disk, disk.add("/m.so", "a", rpath="/m")) == ["/m/a", "/usr/lib/b"]


def test_what_is_mapped_wins_by_its_soname(disk: Disk) -> None:
    disk.add("/usr/lib/a")
    module = disk.add("/m.so", "a", "gone")
    mapped = {"a": disk.add("/old/a")}
    seen = closure(module, disk, System({}, (DEFAULT,)), mapped)
    assert (seen.found, missing(seen)) == ((), ["gone"])


def test_one_file_under_two_names_is_loaded_once(disk: Disk) -> None:
    disk.add("/usr/lib/a", "c", soname="", file=FileId(2, 2))
    disk.add("/usr/lib/b", "c", soname="", file=FileId(2, 2))
    disk.add("/usr/lib/c")
    module = disk.add("/m.so", "a", "b")
    assert [f.name for f in closure(module, disk, System({}, (DEFAULT,))).found] == ["a", "b", "c"]


def test_soname_of_what_was_loaded_serves_the_next_that_asks_for_it(disk: Disk) -> None:
    disk.add("/usr/lib/a.so", "a.so.1", soname="a.so.1")
    disk.add("/usr/lib/a.so.1")
    assert paths(disk, disk.add("/m.so", "a.so")) == ["/usr/lib/a.so"]


def test_what_is_missing_is_named_once(disk: Disk) -> None:
    disk.add("/usr/lib/a", "gone")
    module = disk.add("/m.so", "a", "gone")
    assert missing(closure(module, disk, System({}, (DEFAULT,)))) == ["gone"]


def test_object_that_needs_itself_comes_to_an_end(disk: Disk) -> None:
    module = disk.add("/usr/lib/m.so", "m.so", "m.so")
    assert paths(disk, module) == []


@pytest.mark.parametrize("path", ["", "lib", "$LIB"])
def test_relative_path_is_never_searched(disk: Disk, path: str) -> None:
    for name in ("a", "lib/a", "lib64/a"):
        disk.add(name)
    module = disk.add("/m.so", "a", "lib/a", rpath=f":{path}")
    assert missing(closure(module, disk, System({}, (DEFAULT,)))) == ["a", "lib/a"]


def test_tokens_are_replaced_in_both_spellings(disk: Disk) -> None:
    disk.add("/x/lib64/x86_64/a")
    assert paths(disk, disk.add("/x/m.so", "a", rpath="${ORIGIN}/$LIB/${PLATFORM}")) == [
        "/x/lib64/x86_64/a"
    ]
