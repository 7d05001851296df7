# SPDX-License-Identifier: Apache-2.0
"""Would a module load, and if not, why? In the words that a user reads."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.disk import PLAIN, Disk

from holdover.errors import ElfError
from holdover.forecast import Forecast, World, forecast, start_up, unresolved
from holdover.linker import Library
from holdover.symbols import Symbols, Wanted

OLD, NEW = frozenset({"GLIBC_2.2.5", "GLIBC_2.4", "GLIBC_2.36"}), frozenset({"GLIBC_2.38"})
WANTS_NEW = (("libc.so.6", "GLIBC_2.38"),)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def world(disk: Disk, *late: Library, start: tuple[Library, ...] = ()) -> World:
    """A process that came with `start` and has loaded `late` since."""
    executable = disk.add("/usr/bin/program", *(library.soname for library in start))
    common = {library.soname: library for library in start}
    return World(executable, common, common | {library.soname: library for library in late})


def seen(disk: Disk, module: Library, *late: Library, start: tuple[Library, ...] = ()) -> Forecast:
    return forecast(module, disk, PLAIN, world(disk, *late, start=start))


def old_libc(disk: Disk) -> Library:
    """The one in the process; a newer one lies on disk by now."""
    disk.add("/usr/lib/libc.so.6", defines=NEW)
    return disk.add("/gone/libc.so.6", defines=OLD)


# -- what would load -------------------------------------------------------------------------------


def test_module_whose_libraries_are_all_there_would_load(disk: Disk) -> None:
    disk.add("/usr/lib/librbd.so.1")
    there = seen(disk, disk.add("/m.so", "librbd.so.1"))
    assert (there.problem, there.problems, there.order) == ("", (), ("librbd.so.1",))


def test_closure_leaves_out_what_came_with_the_executable_and_not_what_was_loaded_since(
    disk: Disk,
) -> None:
    """Another process of the build may not have loaded it."""
    libc, librbd = disk.add("/usr/lib/libc.so.6"), disk.add("/usr/lib/librbd.so.1")
    there = seen(disk, disk.add("/m.so", "libc.so.6", "librbd.so.1"), librbd, start=(libc,))
    assert [entry.name for entry in there.closure.found] == ["librbd.so.1"]
    assert there.order == ("libc.so.6", "librbd.so.1")


def test_order_is_breadth_first_also_through_what_is_mapped(disk: Disk) -> None:
    mapped = disk.add("/gone/liba", "libdeep")
    disk.add("/usr/lib/libb", "libdeeper")
    for name in ("libdeep", "libdeeper"):
        disk.add(f"/usr/lib/{name}")
    deep = disk.objects[Path("/usr/lib/libdeep")]
    there = seen(disk, disk.add("/m.so", "liba", "libb"), start=(mapped, deep))
    assert there.order == ("liba", "libb", "libdeep", "libdeeper")


# -- what is missing -------------------------------------------------------------------------------


def test_missing_library_is_named_with_the_one_that_needs_it(disk: Disk) -> None:
    disk.add("/usr/lib/librbd.so.1", "libceph.so.2")
    there = seen(disk, disk.add("/m.so", "librbd.so.1", "libgone.so.1"))
    assert there.problems == (
        "it needs libgone.so.1, which is not to be found",
        "librbd.so.1 needs libceph.so.2, which is not to be found",
    )


def test_library_without_a_soname_is_called_by_its_file(disk: Disk) -> None:
    disk.add("/usr/lib/librbd.so.1", "gone", soname="")
    there = seen(disk, disk.add("/m.so", "librbd.so.1"))
    assert there.problem == "librbd.so.1 needs gone, which is not to be found"


def test_what_the_process_has_loaded_since_is_not_missing(disk: Disk) -> None:
    late = disk.add("/gone/libceph.so.2")
    assert seen(disk, disk.add("/m.so", "libceph.so.2"), late).problem == ""


def test_what_only_a_file_needs_that_will_not_be_loaded_is_not_missing(disk: Disk) -> None:
    """The process has another librbd already, which does without."""
    disk.add("/usr/lib/librbd.so.1", "libceph.so.2")
    late = disk.add("/gone/librbd.so.1")
    assert seen(disk, disk.add("/m.so", "librbd.so.1"), late).problem == ""


def test_damaged_file_is_the_problem() -> None:
    class Damaged(Disk):
        def library(self, path: Path) -> Library | None:
            raise ElfError(f"{path} is damaged: truncated")

    disk = Damaged()
    there = seen(disk, disk.add("/m.so", "libceph.so.2"))
    assert there.problem == "/usr/lib/libceph.so.2 is damaged: truncated"
    assert there.closure.found == ()


# -- what is too old -------------------------------------------------------------------------------


def test_version_that_the_process_has_not_got_is_said_to_be_too_new_for_it(disk: Disk) -> None:
    libc = old_libc(disk)
    module = disk.add("/m.so", "libc.so.6", requires=WANTS_NEW)
    assert seen(disk, module, start=(libc,)).problem == (
        "it needs GLIBC_2.38, the libc.so.6 in the process has only GLIBC_2.36"
    )


def test_version_that_a_library_of_the_module_needs_names_that_library(disk: Disk) -> None:
    libc = old_libc(disk)
    disk.add("/usr/lib/librbd.so.1", "libc.so.6", requires=WANTS_NEW)
    assert seen(disk, disk.add("/m.so", "librbd.so.1"), start=(libc,)).problem == (
        "librbd.so.1 needs GLIBC_2.38, the libc.so.6 in the process has only GLIBC_2.36"
    )


def test_version_that_the_file_on_disk_has_not_got_is_said_of_the_disk(disk: Disk) -> None:
    disk.add("/usr/lib/libssh.so.4", defines=frozenset({"LIBSSH_4_9_0", "libssh.so.4"}))
    module = disk.add("/m.so", "libssh.so.4", requires=(("libssh.so.4", "LIBSSH_4_10_0"),))
    assert seen(disk, module).problem == (
        "it needs LIBSSH_4_10_0, the libssh.so.4 on disk has no such version"
    )


def test_mapped_library_wins_over_the_disk_however_old_it_is(disk: Disk) -> None:
    disk.add("/usr/lib/libssh.so.4", defines=frozenset({"SSH_2"}))
    late = disk.add("/gone/libssh.so.4", defines=frozenset({"SSH_1"}))
    module = disk.add("/m.so", "libssh.so.4", requires=(("libssh.so.4", "SSH_2"),))
    assert seen(disk, module).problem == ""
    assert seen(disk, module, late).problem == (
        "it needs SSH_2, the libssh.so.4 in the process has only SSH_1"
    )


def test_file_on_disk_that_will_not_be_loaded_may_need_what_it_likes(disk: Disk) -> None:
    libc = old_libc(disk)
    disk.add("/usr/lib/librbd.so.1", requires=WANTS_NEW)
    late = disk.add("/gone/librbd.so.1")
    assert seen(disk, disk.add("/m.so", "librbd.so.1"), late, start=(libc,)).problem == ""


@pytest.mark.parametrize("soname", ["", "m.so"])
def test_library_without_a_soname_is_looked_at_too(disk: Disk, soname: str) -> None:
    libc = old_libc(disk)
    disk.add("/usr/lib/libx.so", soname="", requires=WANTS_NEW)
    module = disk.add("/m.so", "libx.so", soname=soname)
    assert seen(disk, module, start=(libc,)).problem.startswith("libx.so needs GLIBC_2.38")


def test_library_is_found_by_its_soname_for_who_wants_a_version_of_it(disk: Disk) -> None:
    disk.add("/usr/lib/libx.so", soname="libx.so.1", defines=frozenset({"X_1"}))
    disk.add("/usr/lib/liby.so", "libx.so.1", requires=(("libx.so.1", "X_2"),))
    there = seen(disk, disk.add("/m.so", "libx.so", "liby.so"))
    assert there.problem == "liby.so needs X_2, the libx.so.1 on disk has only X_1"


def test_object_that_knows_no_versions_is_accepted(disk: Disk) -> None:
    disk.add("/usr/lib/libssh.so.4")
    module = disk.add("/m.so", "libssh.so.4", requires=(("libssh.so.4", "SSH_2"),))
    assert seen(disk, module).problem == ""


def test_version_of_a_file_that_is_not_there_is_not_asked_for(disk: Disk) -> None:
    module = disk.add("/m.so", requires=(("libssh.so.4", "SSH_2"),))
    assert seen(disk, module).problem == ""


@pytest.mark.parametrize(
    ("version", "offered", "answer"),
    [
        ("Q_1.10", {"Q_1.9", "Q_1.2"}, "only Q_1.9"),
        ("Q_3", {"Q_1", "Q_PRIVATE", "R_9"}, "only Q_1"),
        ("Q_3", {"R_1"}, "no such version"),
        ("plain", {"Q_1"}, "no such version"),
        ("Q_3", {"Q_" + "9" * 5000, "Q_1"}, "only Q_9"),
    ],
)
def test_best_version_of_the_same_kind_is_named(
    disk: Disk, version: str, offered: set[str], answer: str
) -> None:
    disk.add("/usr/lib/q", defines=frozenset(offered))
    problem = seen(disk, disk.add("/m.so", "q", requires=(("q", version),))).problem
    assert problem.startswith(f"it needs {version}, the q on disk has {answer}")


@given(st.text(), st.frozensets(st.text(), min_size=1))
def test_any_names_of_versions_are_compared(version: str, offered: frozenset[str]) -> None:
    disk = Disk()
    disk.add("/usr/lib/q", defines=offered)
    module = disk.add("/m.so", "q", requires=(("q", version),))
    assert (seen(disk, module).problem == "") == (version in offered)


# -- what came with the executable -----------------------------------------------------------------


def test_what_the_executable_needs_directly_or_not_came_with_it(disk: Disk) -> None:
    mapped = {
        name: disk.add(f"/usr/lib/{name}", *needed)
        for name, needed in {"a": ("b",), "b": ("a", "gone"), "late": ("a",)}.items()
    }
    assert set(start_up(disk.add("/usr/bin/program", "a"), mapped)) == {"a", "b"}


# -- symbols ---------------------------------------------------------------------------------------


class Binding:
    """What each object wants and offers, by its soname."""

    def __init__(self, **symbols: tuple[list[str], list[str]]) -> None:
        self.symbols: Mapping[str, Symbols] = {
            name: Symbols(tuple(Wanted(w, "") for w in wanted), frozenset(offered))
            for name, (wanted, offered) in symbols.items()
        }

    def __call__(self, library: Library) -> Symbols:
        return self.symbols.get(library.soname, Symbols((), frozenset()))


def lacking(
    disk: Disk, module: Library, around: World, binding: Binding, *siblings: Library
) -> list[tuple[str, str]]:
    there = forecast(module, disk, PLAIN, around)
    missing = unresolved(module, there, around, binding, siblings)
    return [(library.soname, symbol.name) for library, symbol in missing]


def test_symbol_that_nothing_defines_is_named_with_who_wants_it(disk: Disk) -> None:
    disk.add("/usr/lib/a")
    binding = Binding(module=(["one", "two"], []), a=(["three"], ["one"]))
    module = disk.add("/m.so", "a", soname="module")
    assert lacking(disk, module, world(disk), binding) == [("module", "two"), ("a", "three")]


def test_symbols_of_the_executable_and_of_what_came_with_it_serve_everybody(disk: Disk) -> None:
    libc = disk.add("/usr/lib/libc")
    binding = Binding(module=(["one", "two"], []), program=([], ["one"]), libc=([], ["two"]))
    module = disk.add("/m.so", soname="module")
    assert lacking(disk, module, world(disk, start=(libc,)), binding) == []


def test_what_another_late_load_brought_serves_only_who_needs_it(disk: Disk) -> None:
    late = disk.add("/usr/lib/late")
    binding = Binding(module=(["one"], []), late=([], ["one"]))
    without, having = disk.add("/m.so", soname="module"), disk.add("/n.so", "late", soname="module")
    assert lacking(disk, without, world(disk, late), binding) == [("module", "one")]
    assert lacking(disk, having, world(disk, late), binding) == []


def test_sibling_that_is_loaded_before_serves_too(disk: Disk) -> None:
    sibling = disk.add("/ui-opengl.so", soname="sibling")
    binding = Binding(module=(["one"], []), sibling=([], ["one"]))
    module = disk.add("/m.so", soname="module")
    assert lacking(disk, module, world(disk), binding) == [("module", "one")]
    assert lacking(disk, module, world(disk), binding, sibling) == []


def test_what_is_loaded_already_lacks_nothing(disk: Disk) -> None:
    late = disk.add("/usr/lib/late")
    binding = Binding(late=(["one"], []))
    assert lacking(disk, disk.add("/m.so", "late"), world(disk, late), binding) == []


def test_file_on_disk_that_will_not_be_loaded_serves_nobody(disk: Disk) -> None:
    new, old = disk.add("/usr/lib/late"), disk.add("/gone/late")
    module = disk.add("/m.so", "late")
    offers = {new.file: ["new"], old.file: ["old"]}

    def symbols(library: Library) -> Symbols:
        wanted = (Wanted("new", ""),) if library is module else ()
        return Symbols(wanted, frozenset(offers.get(library.file, ())))

    for late, lacks in (((), []), ((old,), ["new"])):
        around = world(disk, *late)
        there = forecast(module, disk, PLAIN, around)
        found = [symbol.name for _, symbol in unresolved(module, there, around, symbols)]
        assert found == lacks
