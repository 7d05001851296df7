# SPDX-License-Identifier: Apache-2.0
"""Which module a process would find, and what a late load of it would do."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.held import HeldFile, Holding, Purpose, Snapshot
from holdover.identity import FileId, ProcessId
from holdover.model import Build, Item, LateLoad, Module, Process, State
from holdover.search import Prospect, directories, first_found, prospects

VIEWS = Path("/usr/lib/holdover/views")
DISK = Path("/usr/lib/qemu")
OWN, OTHER = "qemu_stamp_own", "qemu_stamp_other"
BUILD = Build("qemu", "c0ffee", OWN, "7.2.17", (DISK,))
PROCESS = Process(ProcessId(42, 777), "web01", Path("/usr/bin/kvm"), FileId(1, 2), True, BUILD)


def module(name: str, stamp: str = OWN, directory: Path = DISK) -> Module:
    return Module(name, directory / f"{name}.so", stamp)


def holding(*names: str, identifier: str = "s1") -> Holding:
    files = [f"{name}.so" for name in names] + ["lib/librbd.so.1"]
    held = tuple(HeldFile(path, f"/usr/lib/{path}", 1, 1, "0", "link") for path in files)
    snapshot = Snapshot(identifier, Purpose.HOLD, "qemu", "c0ffee", OWN, "7.2.17", "", held, ())
    return Holding(snapshot, VIEWS / identifier, None)


def item(state: State, snapshot: str = "", process: Process = PROCESS) -> Item:
    return Item(process, state, "because", snapshot=snapshot)


def states(found: tuple[Prospect, ...]) -> dict[str, str]:
    return {prospect.name: prospect.state for prospect in found}


# -- directories -----------------------------------------------------------------------------------


def test_a_process_looks_where_its_build_says() -> None:
    assert directories(PROCESS, VIEWS) == (DISK,)


def test_chosen_directories_come_first_and_in_order() -> None:
    chosen = (Path("/opt/b"), Path("/opt/a"))
    assert directories(replace(PROCESS, chosen=chosen), VIEWS) == (*chosen, DISK)


def test_views_of_the_store_are_left_out() -> None:
    chosen = (VIEWS / "s1", Path("/opt/a"), VIEWS / "s2")
    assert directories(replace(PROCESS, chosen=chosen), VIEWS) == (Path("/opt/a"), DISK)


def test_what_only_looks_like_a_view_stays() -> None:
    chosen = (VIEWS, VIEWS / "s1/lib", Path("/home/views/s1"))
    assert directories(replace(PROCESS, chosen=chosen), VIEWS) == (*chosen, DISK)


# -- first_found -----------------------------------------------------------------------------------


def test_the_first_directory_wins_whatever_the_order_of_the_modules() -> None:
    first, second = module("a", OTHER, Path("/opt")), module("a")
    for modules in ((first, second), (second, first)):
        assert first_found(modules, (Path("/opt"), DISK)) == {"a": first}


def test_a_later_directory_adds_what_the_first_has_not() -> None:
    modules = (module("a", directory=Path("/opt")), module("b"))
    assert first_found(modules, (Path("/opt"), DISK)).keys() == {"a", "b"}


def test_a_module_of_another_build_hides_the_right_one() -> None:
    hiding = module("a", OTHER, Path("/opt"))
    assert first_found([module("a"), hiding], (Path("/opt"), DISK))["a"].stamp == OTHER


def test_other_directories_are_not_searched() -> None:
    assert first_found([module("a", directory=DISK / "sub")], (DISK,)) == {}
    assert first_found([module("a")], ()) == {}


PLACES = [Path("/a"), Path("/b"), Path("/c")]


@given(
    st.lists(st.builds(module, st.sampled_from("xyz"), directory=st.sampled_from(PLACES))),
    st.lists(st.sampled_from(PLACES)).map(tuple),
)
def test_nothing_in_an_earlier_directory_is_passed_over(
    modules: list[Module], where: tuple[Path, ...]
) -> None:
    found = first_found(modules, where)
    for candidate in modules:
        if candidate.path.parent in where:
            chosen = found[candidate.name].path.parent
            assert where.index(chosen) <= where.index(candidate.path.parent)


# -- prospects -------------------------------------------------------------------------------------


def test_a_build_without_stamp_loads_nothing() -> None:
    process = replace(PROCESS, build=replace(BUILD, stamp=None))
    assert prospects(item(State.CURRENT, process=process), [module("a")], [], VIEWS) == ()


def test_prospects_are_sorted_by_name() -> None:
    found = prospects(item(State.CURRENT), [module("b"), module("a"), module("c")], [], VIEWS)
    assert [prospect.name for prospect in found] == ["a", "b", "c"]


def test_a_module_that_is_mapped_is_loaded_whatever_lies_on_disk() -> None:
    process = replace(PROCESS, loaded=frozenset({"a", "gone"}))
    found = prospects(item(State.AT_RISK, process=process), [module("a", OTHER)], [], VIEWS)
    assert states(found) == {"a": "loaded", "gone": "loaded"}


def test_nothing_loads_any_more_in_a_poisoned_process() -> None:
    process = replace(PROCESS, loaded=frozenset({"a"}))
    poisoned = item(State.POISONED, "s1", process=process)
    found = prospects(poisoned, [module("a"), module("b")], [holding()], VIEWS)
    assert states(found)["a"] == "loaded"
    assert {p.state for p in found if p.name != "a"} == {"blocked"}
    assert "failed already" in found[1].reason


def test_without_a_delivery_the_stamp_on_disk_decides() -> None:
    modules = [module("own"), module("other", OTHER), module("none", "")]
    found = prospects(item(State.AT_RISK), modules, [], VIEWS)
    assert states(found) == {"own": "loads", "other": "blocked", "none": "blocked"}
    assert "another build" in found[1].reason


def test_a_protected_process_loads_what_is_held() -> None:
    modules = [module("held", OTHER), module("new", OTHER)]
    found = prospects(item(State.PROTECTED, "s1"), modules, [holding("held", "gone")], VIEWS)
    assert states(found) == {"gone": "loads", "held": "loads", "new": "blocked"}
    assert "without harm" in found[2].reason


def test_a_module_of_the_own_build_that_is_not_held_is_blocked_by_its_decoy() -> None:
    found = prospects(item(State.PROTECTED, "s1"), [module("a")], [holding("b")], VIEWS)
    assert states(found) == {"a": "blocked", "b": "loads"}


def test_a_defused_process_loads_nothing() -> None:
    found = prospects(item(State.DEFUSED, "s1"), [module("a", OTHER)], [holding()], VIEWS)
    assert states(found) == {"a": "blocked"}


def test_a_library_of_the_closure_is_no_module() -> None:
    found = prospects(item(State.PROTECTED, "s1"), [], [holding("a")], VIEWS)
    assert states(found) == {"a": "loads"}


def test_another_snapshot_does_not_count() -> None:
    others = [holding("a", identifier="s2")]
    found = prospects(item(State.PROTECTED, "s1"), [module("b", OTHER)], others, VIEWS)
    assert states(found) == {"b": "blocked"}


def test_a_chosen_directory_is_met_before_the_own_one() -> None:
    process = replace(PROCESS, chosen=(Path("/opt"),))
    modules = [module("a"), module("a", OTHER, Path("/opt"))]
    found = prospects(item(State.AT_RISK, process=process), modules, [], VIEWS)
    assert states(found) == {"a": "blocked"}


@pytest.mark.parametrize("state", [State.AT_RISK, State.UNSUPPORTED])
def test_a_module_that_is_not_on_disk_is_not_said_to_be_of_another_build(state: State) -> None:
    (found,) = prospects(item(state, "s1"), [], [holding("gone")], VIEWS)
    assert found.state == "blocked"
    assert "another build" not in found.reason


@pytest.mark.parametrize("state", [State.CURRENT, State.PROTECTED])
def test_module_of_a_process_that_cannot_be_foreseen_loads_with_a_doubt(state: State) -> None:
    blind = replace(PROCESS, unforeseen="its maps cannot be read")
    on_disk, held = (module("block-rbd"),), (holding("block-rbd"),)
    (found,) = prospects(item(state, "s1", blind), on_disk, held, VIEWS)
    assert found.state == "loads"
    assert found.reason == "what it needs cannot be told: its maps cannot be read"


def test_module_that_would_not_load_is_blocked_with_the_reason() -> None:
    problem = "it needs GLIBC_2.38, the libc.so.6 in the process has only GLIBC_2.36"
    late = LateLoad("block-rbd", DISK / "block-rbd.so", problem)
    guest = replace(PROCESS, late=(late,))
    (found,) = prospects(item(State.CURRENT, process=guest), (module("block-rbd"),), (), VIEWS)
    assert found == Prospect("block-rbd", "blocked", problem)
