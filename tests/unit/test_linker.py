# SPDX-License-Identifier: Apache-2.0
"""The linker model, case by case as ld.so(8) orders the search."""

from pathlib import Path

import pytest
from unit.disk import DEFAULT, PLAIN, Disk

from holdover import linker
from holdover.errors import ElfError
from holdover.identity import FileId
from holdover.linker import Closure, Library, System, breadth_first, closure


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
    seen = closure(module, disk, PLAIN, mapped)
    assert (seen.found, missing(seen)) == ((), ["gone"])


def test_one_file_under_two_names_is_loaded_once(disk: Disk) -> None:
    disk.add("/usr/lib/a", "c", soname="", file=FileId(2, 2))
    disk.add("/usr/lib/b", "c", soname="", file=FileId(2, 2))
    disk.add("/usr/lib/c")
    module = disk.add("/m.so", "a", "b")
    assert [f.name for f in closure(module, disk, PLAIN).found] == ["a", "b", "c"]


def test_soname_of_what_was_loaded_serves_the_next_that_asks_for_it(disk: Disk) -> None:
    disk.add("/usr/lib/a.so", "a.so.1", soname="a.so.1")
    disk.add("/usr/lib/a.so.1")
    assert paths(disk, disk.add("/m.so", "a.so")) == ["/usr/lib/a.so"]


def test_what_is_missing_is_named_once(disk: Disk) -> None:
    disk.add("/usr/lib/a", "gone")
    module = disk.add("/m.so", "a", "gone")
    assert missing(closure(module, disk, PLAIN)) == ["gone"]


def test_object_that_needs_itself_comes_to_an_end(disk: Disk) -> None:
    module = disk.add("/usr/lib/m.so", "m.so", "m.so")
    assert paths(disk, module) == []


@pytest.mark.parametrize("path", ["", "lib", "$LIB"])
def test_relative_path_is_never_searched(disk: Disk, path: str) -> None:
    for name in ("a", "lib/a", "lib64/a"):
        disk.add(name)
    module = disk.add("/m.so", "a", "lib/a", rpath=f":{path}")
    assert missing(closure(module, disk, PLAIN)) == ["a", "lib/a"]


def test_tokens_are_replaced_in_both_spellings(disk: Disk) -> None:
    disk.add("/x/lib64/x86_64/a")
    assert paths(disk, disk.add("/x/m.so", "a", rpath="${ORIGIN}/$LIB/${PLATFORM}")) == [
        "/x/lib64/x86_64/a"
    ]


def test_each_object_says_through_what_it_was_found(disk: Disk) -> None:
    for path in ("/r/a", "/n/b", "/e/c", "/usr/lib/d", "/c/e", "/p/f"):
        disk.add(path)
    disk.add("/usr/lib/n.so", "b", runpath="/n")
    module = disk.add("/m.so", "a", "n.so", "c", "d", "e", "/p/f", rpath="/r")
    system = System({"e": [Path("/c/e")]}, (DEFAULT,), library_path=(Path("/e"),))
    assert {f.name: f.why for f in closure(module, disk, system).found} == {
        "a": "RPATH",
        "n.so": "a default directory",
        "b": "RUNPATH",
        "c": "LD_LIBRARY_PATH",
        "d": "a default directory",
        "e": "ld.so.cache",
        "/p/f": "its path",
    }


def test_rpath_comes_before_library_path_and_runpath_after_it(disk: Disk) -> None:
    for directory in ("/own", "/env"):
        disk.add(f"{directory}/a")
    system = System({}, (DEFAULT,), library_path=(Path("/env"),))
    for own, first in (({"rpath": "/own"}, "/own/a"), ({"runpath": "/own"}, "/env/a")):
        (found,) = closure(disk.add("/m.so", "a", **own), disk, system).found
        assert found.library.path == Path(first)


def test_rpath_of_the_executable_serves_the_module(disk: Disk) -> None:
    disk.add("/x/a")
    module, executable = disk.add("/m.so", "a"), disk.add("/bin/x", rpath="/x")
    assert missing(closure(module, disk, PLAIN)) == ["a"]
    (found,) = closure(module, disk, PLAIN, executable=executable).found
    assert found.library.path == Path("/x/a")


def test_directory_for_the_processor_comes_before_its_own(disk: Disk) -> None:
    for path in ("/usr/lib/a", "/usr/lib/glibc-hwcaps/x86-64-v2/a"):
        disk.add(path)
    system = System({}, (DEFAULT,), hwcaps=("glibc-hwcaps/x86-64-v3", "glibc-hwcaps/x86-64-v2"))
    (found,) = closure(disk.add("/m.so", "a"), disk, system).found
    assert found.library.path == Path("/usr/lib/glibc-hwcaps/x86-64-v2/a")


def test_what_a_library_opens_by_name_is_told_apart_with_all_that_it_needs(disk: Disk) -> None:
    disk.add("/usr/lib/a", "b", named=("plug", "gone"))
    disk.add("/usr/lib/b")
    disk.add("/usr/lib/plug", "c", "b")
    disk.add("/usr/lib/c")
    seen = closure(disk.add("/m.so", "a"), disk, PLAIN)
    assert [entry.name for entry in seen.found] == ["a", "b"]
    assert [entry.name for entry in seen.named] == ["plug", "c"]
    assert seen.missing == ()  # it is asked for only if it is there


# -- orders of symbols -----------------------------------------------------------------------------


def order(disk: Disk, module: Library) -> tuple[str, ...]:
    return breadth_first(module, {path.name: at for path, at in disk.objects.items()})


def test_symbols_are_looked_up_breadth_first_also_through_what_is_mapped(disk: Disk) -> None:
    disk.add("/usr/lib/mapped", "deep")
    disk.add("/usr/lib/b", "deeper")
    disk.add("/usr/lib/deep", "b")
    disk.add("/usr/lib/deeper")
    assert order(disk, disk.add("/m.so", "mapped", "b")) == ("mapped", "b", "deep", "deeper")


def test_second_name_of_a_library_is_asked_for_too(disk: Disk) -> None:
    one = disk.add("/usr/lib/a", "alias", "b")
    disk.add("/usr/lib/alias", *one.needed, file=one.file)
    disk.add("/usr/lib/b")
    assert order(disk, disk.add("/m.so", "a")) == ("a", "alias", "b")


def test_what_is_missing_and_the_module_itself_have_no_place_in_the_order(disk: Disk) -> None:
    disk.add("/usr/lib/a", "m.so", "gone", "a")
    assert order(disk, disk.add("/usr/lib/m.so", "a")) == ("a",)


# -- names that make no sense ----------------------------------------------------------------------


def test_circles_come_to_an_end(disk: Disk) -> None:
    for name, after in ("ab", "bc", "ca"):
        disk.add(f"/usr/lib/{name}", after, name)
    assert paths(disk, disk.add("/m.so", "a")) == [f"/usr/lib/{name}" for name in "abc"]


def test_empty_name_stands_for_the_program(disk: Disk) -> None:
    """The loader takes it for the first object that has no name, which is the program."""
    seen = closure(disk.add("/m.so", "", "gone"), disk, PLAIN)
    assert missing(seen) == ["gone"]


@pytest.mark.parametrize("name", [".", "..", "x" * 5000, "a\nb", "\udcff", " "])
def test_name_that_no_library_has_is_missing(disk: Disk, name: str) -> None:
    assert missing(closure(disk.add("/m.so", name), disk, PLAIN)) == [name]


@pytest.mark.parametrize("name", ["../a", "./a", "lib/../a", "a/"])
def test_relative_name_with_a_slash_is_missing(disk: Disk, name: str) -> None:
    for path in ("/usr/lib/../a", "/usr/lib/a", "/a"):
        disk.add(path)
    assert missing(closure(disk.add("/m.so", name), disk, PLAIN)) == [name]


def test_absolute_name_is_its_path_and_nothing_else_is_searched(disk: Disk) -> None:
    disk.add("/usr/lib/opt/a")
    assert missing(closure(disk.add("/m.so", "/opt/a"), disk, PLAIN)) == ["/opt/a"]
    disk.add("/opt/a", soname="a")
    assert paths(disk, disk.add("/m.so", "/opt/a", "a")) == ["/opt/a"]


def test_soname_with_a_slash_is_a_name_like_any_other(disk: Disk) -> None:
    disk.add("/usr/lib/a", soname="../evil")
    disk.add("/usr/lib/b", "../evil")
    seen = closure(disk.add("/m.so", "a", "b"), disk, PLAIN)
    assert ([entry.name for entry in seen.found], missing(seen)) == (["a", "b"], [])


def test_module_without_a_soname_does_not_stand_for_libraries_without_one(disk: Disk) -> None:
    disk.add("/usr/lib/a", "b", soname="")
    disk.add("/usr/lib/b", soname="")
    assert paths(disk, disk.add("/m.so", "a", soname="")) == ["/usr/lib/a", "/usr/lib/b"]


def test_ten_thousand_needed_entries_are_all_looked_for(disk: Disk) -> None:
    names = [f"lib{number}" for number in range(10_000)]
    assert missing(closure(disk.add("/m.so", *names), disk, PLAIN)) == names


def test_more_libraries_than_any_program_has_are_an_error(disk: Disk) -> None:
    names = [f"lib{number}" for number in range(10_000)]
    for name in names:
        disk.add(f"/usr/lib/{name}")
    with pytest.raises(ElfError, match="4096 libraries"):
        closure(disk.add("/m.so", *names), disk, PLAIN)


def test_more_places_than_any_linker_should_look_at_are_an_error(disk: Disk) -> None:
    names = [f"lib{number}" for number in range(1000)]
    path = ":".join(f"/d{number}" for number in range(1000))
    with pytest.raises(ElfError, match="100000 places"):
        closure(disk.add("/m.so", *names, rpath=path), disk, PLAIN)


def test_directory_that_is_named_many_times_is_looked_at_once(disk: Disk) -> None:
    names = [f"lib{number}" for number in range(1000)]
    module = disk.add("/m.so", *names, rpath=":".join(["/d"] * 1000))
    assert missing(closure(module, disk, PLAIN)) == names


def test_long_rpath_is_taken_apart_once() -> None:
    """And not for each library that is needed."""
    needed = tuple(f"lib{number}.so.1" for number in range(300))
    module = Library(Path("/m.so"), FileId(1, 1), needed=needed, rpath="x:" * 1000)
    before = linker._entries.cache_info().misses
    assert len(closure(module, Nothing(), System({}, ())).missing) == len(needed)
    assert linker._entries.cache_info().misses - before == 1


class Nothing:
    def library(self, path: Path) -> Library | None:
        return None
