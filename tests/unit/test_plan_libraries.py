# SPDX-License-Identifier: Apache-2.0
"""What is decided once a module needs libraries: whom a change concerns, and what fits whom."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from unit.factories import (
    DIRECTORY,
    EXECUTABLE,
    OTHER_BUILD_ID,
    VIEWS,
    build,
    held_file,
    holding,
    modules,
    process,
    scan,
    snapshot,
)

from holdover.held import HeldFile, Holding
from holdover.model import (
    Capture,
    Delivery,
    Installed,
    Item,
    LateLoad,
    Needed,
    Plan,
    Process,
    State,
)
from holdover.steps.plan import Aim, always, files_of, plan

BOTH = (Delivery.ENVIRONMENT, Delivery.MOUNT)
OWN = modules("block-rbd", "block-ssh")
LIBRBD = Needed("librbd.so.1", Path("/usr/lib/librbd.so.1.17"), 100, 7)
LIBSSH = Needed("libssh.so.4", Path("/usr/lib/libssh.so.4.9"), 50, 8)
TOO_OLD = "it needs GLIBC_2.38, the libc.so.6 in the process has only GLIBC_2.36"


def late(
    name: str = "block-rbd", *needs: Needed, problem: str = "", other: bool = False
) -> LateLoad:
    order = tuple(need.name for need in needs)
    return LateLoad(name, DIRECTORY / f"{name}.so", problem, other, needs, order)


RBD, SSH = late("block-rbd", LIBRBD), late("block-ssh", LIBSSH)
GUEST = process(own=(RBD, SSH), late=(RBD, SSH))


def library(need: Needed) -> HeldFile:
    return HeldFile(f"lib/{need.name}", str(need.path), need.size, need.mtime_ns, "0" * 64, "link")


def held(*needs: Needed, names: tuple[str, ...] = ("block-rbd", "block-ssh")) -> Holding:
    files = [*(held_file(name) for name in names), *map(library, needs)]
    return holding(snapshot("qemu-held", files))


FULL = held(LIBRBD, LIBSSH)


def planned(
    *processes: Process,
    holdings: tuple[Holding, ...] = (),
    aim: Aim = Aim.PROTECT,
    touches: Callable[[Path], bool] = always,
    installed: tuple[Installed, ...] = (),
) -> Plan:
    seen = scan(*processes, modules=OWN, installed=installed)
    return plan(seen, holdings, BOTH, VIEWS, aim, touches)


def decided(
    guest: Process,
    *holdings: Holding,
    aim: Aim = Aim.PROTECT,
    touches: Callable[[Path], bool] = always,
) -> Item:
    (item,) = planned(guest, holdings=holdings, aim=aim, touches=touches).items
    return item


def captured(item: Item) -> dict[str, Path]:
    assert isinstance(item.source, Capture)
    return {late.name: late.path for late in item.source.modules}


# -- whom a change concerns ------------------------------------------------------------------------


@pytest.mark.parametrize("path", [LIBRBD.path, LIBSSH.path, EXECUTABLE, DIRECTORY])
def test_change_of_a_library_that_a_module_needs_concerns_the_process(path: Path) -> None:
    item = decided(GUEST, touches=lambda touched: touched == path)
    assert item.deliver is Delivery.ENVIRONMENT
    assert isinstance(item.source, Capture)


@pytest.mark.parametrize("path", ["/usr/lib/librbd.so.1", "/usr/lib", "/usr/lib/libz.so.1"])
def test_change_of_another_library_concerns_nobody(path: str) -> None:
    item = decided(GUEST, touches=lambda touched: touched == Path(path))
    assert (item.deliver, item.problem) == (None, "")


def test_files_of_a_process_are_told_once_each() -> None:
    files = list(files_of(replace(GUEST, own=(RBD, SSH, late("block-x", LIBRBD)))))
    assert sorted(files) == sorted([EXECUTABLE, DIRECTORY, LIBRBD.path, LIBSSH.path])


def test_change_of_a_library_alone_is_no_reason_to_hold_an_installed_build() -> None:
    there = Installed(EXECUTABLE, build(), own=(RBD,))
    made = planned(installed=(there,), touches=lambda path: path == LIBRBD.path)
    assert made.captures == ()


# -- what fits whom --------------------------------------------------------------------------------


def test_processes_of_one_build_that_need_different_files_get_captures_of_their_own() -> None:
    first = process(1, own=(RBD,), late=(RBD,))
    second = process(2, own=(late("block-rbd", LIBRBD, LIBSSH),), late=(RBD,))
    one, other = (item.source for item in planned(first, second).items)
    assert isinstance(one, Capture)
    assert isinstance(other, Capture)
    assert [need.name for need in one.modules[0].needs] == ["librbd.so.1"]
    assert [need.name for need in other.modules[0].needs] == ["librbd.so.1", "libssh.so.4"]


def test_snapshot_with_all_that_would_be_loaded_fits() -> None:
    assert decided(GUEST, FULL).source == "qemu-held"


@pytest.mark.parametrize(
    "part",
    [
        held(LIBRBD),
        held(LIBRBD, replace(LIBSSH, size=51)),
        held(LIBRBD, replace(LIBSSH, mtime_ns=9)),
        held(LIBRBD, LIBSSH, names=("block-rbd",)),
    ],
    ids=["library missing", "other size", "other time", "module missing"],
)
def test_snapshot_that_lacks_what_would_be_loaded_does_not_fit(part: Holding) -> None:
    assert captured(decided(GUEST, part)) == {late.name: late.path for late in (RBD, SSH)}


def test_snapshot_may_lack_what_would_not_load_anyway() -> None:
    guest = replace(GUEST, own=(RBD, replace(SSH, problem=TOO_OLD)))
    part = held(LIBRBD, names=("block-rbd",))
    refuses = replace(part, snapshot=replace(part.snapshot, decoys=("block-ssh",)))
    assert decided(guest, refuses).source == "qemu-held"


def test_snapshot_that_fits_comes_before_a_fuller_one_that_does_not() -> None:
    fuller = held(LIBRBD, replace(LIBSSH, size=51), names=("block-rbd", "block-ssh", "block-x"))
    fuller = replace(fuller, snapshot=replace(fuller.snapshot, id="qemu-fuller"))
    assert decided(GUEST, fuller, FULL).source == "qemu-held"


def test_module_that_fails_on_disk_is_taken_from_the_snapshot_that_has_it() -> None:
    guest = process(own=(replace(RBD, problem=TOO_OLD), SSH), late=(RBD, SSH))
    part = held(LIBRBD, names=("block-rbd",))
    assert captured(decided(guest, part)) == {
        "block-rbd": part.view / "block-rbd.so",
        "block-ssh": SSH.path,
    }


def test_module_that_would_not_load_is_not_captured_and_named_with_the_reason() -> None:
    guest = process(own=(RBD, replace(SSH, problem=TOO_OLD)), late=(RBD,))
    source = decided(guest).source
    assert isinstance(source, Capture)
    assert [late.name for late in source.modules] == ["block-rbd"]
    assert source.unheld == (("block-ssh", TOO_OLD),)


def test_library_that_must_not_be_held_is_named_with_the_reason() -> None:
    lone = replace(RBD, unheld=(("libmine.so.1", "others can write to it"),))
    source = decided(process(own=(lone,), late=(lone,))).source
    assert isinstance(source, Capture)
    assert source.unheld == (("libmine.so.1", "others can write to it"),)


def test_modules_that_would_not_load_are_none_that_were_installed_since() -> None:
    more = (RBD, SSH, late("block-new", problem=TOO_OLD))
    guest = process(chosen=(FULL.view,), own=more, late=(RBD, SSH))
    assert decided(guest, FULL).deliver is None
    assert captured(decided(replace(guest, own=(*more, late("block-newer"))), FULL)).keys() == {
        *("block-rbd", "block-ssh", "block-newer"),
    }


# -- another library path --------------------------------------------------------------------------


def with_path(held: Holding, path: str) -> Holding:
    return replace(held, snapshot=replace(held.snapshot, library_path=path))


def test_snapshot_of_the_same_library_path_is_shared() -> None:
    guest = replace(GUEST, library_path="/opt/lib")
    assert decided(guest, with_path(FULL, "/opt/lib")).source == "qemu-held"


@pytest.mark.parametrize(("taken", "own"), [("", "/opt/lib"), ("/opt/lib", ""), ("/a", "/b")])
def test_snapshot_of_another_library_path_is_not_shared(taken: str, own: str) -> None:
    source = decided(replace(GUEST, library_path=own), with_path(FULL, taken)).source
    assert isinstance(source, Capture)
    assert source.library_path == own


def test_sibling_of_another_library_path_serves_nobody() -> None:
    guest = process(replaced=True, build=build(OTHER_BUILD_ID), library_path="/opt/lib")
    seen = scan(guest, modules=())
    (item,) = plan(seen, (FULL,), BOTH, VIEWS, Aim.CATCH_UP).items
    assert (item.deliver, item.state) == (None, State.AT_RISK)
    assert item.problem


# -- what is true ----------------------------------------------------------------------------------


def failing(problem: str = TOO_OLD, **more: bool) -> tuple[LateLoad, LateLoad]:
    return (RBD, late("block-ssh", problem=problem, **more))


@pytest.mark.parametrize("chosen", [(), (FULL.view,)], ids=["on disk", "held"])
def test_process_whose_own_modules_would_not_load_is_at_risk(chosen: tuple[Path, ...]) -> None:
    item = decided(replace(GUEST, late=failing(), chosen=chosen), FULL, aim=Aim.LOOK)
    assert item.state is State.AT_RISK
    assert item.reason == f"1 of its own modules would not load, block-ssh: {TOO_OLD}"


def test_module_of_another_executable_does_not_count() -> None:
    item = decided(replace(GUEST, late=failing(other=True)), aim=Aim.LOOK)
    assert item.state is State.CURRENT


def test_module_that_is_loaded_already_does_not_count() -> None:
    guest = replace(GUEST, late=failing(), loaded=frozenset({"block-ssh"}))
    assert decided(guest, aim=Aim.LOOK).state is State.CURRENT


def test_process_at_risk_for_its_libraries_is_cured_by_a_snapshot_that_has_them() -> None:
    guest = replace(GUEST, own=failing(), late=failing())
    item = decided(guest, FULL, aim=Aim.CATCH_UP)
    assert (item.state, item.deliver, item.source) == (
        *(State.AT_RISK, Delivery.ENVIRONMENT, "qemu-held"),
    )


# -- what cannot be told ---------------------------------------------------------------------------

BLIND = process(unforeseen="its maps cannot be read")


def test_process_that_cannot_be_foreseen_is_not_guessed_at() -> None:
    (item,) = plan(replace(scan(), processes=(BLIND,)), (), BOTH, VIEWS, Aim.PROTECT).items
    assert (item.deliver, item.source) == (None, "")
    assert item.problem == "what it needs cannot be told: its maps cannot be read"


def test_process_that_cannot_be_foreseen_says_so_in_its_state() -> None:
    seen = replace(scan(modules=OWN), processes=(BLIND,))
    (item,) = plan(seen, (), BOTH, VIEWS, Aim.LOOK).items
    assert item.state is State.CURRENT
    assert item.reason.endswith("whether they would load cannot be told: its maps cannot be read")


def test_any_change_may_concern_a_process_that_cannot_be_foreseen() -> None:
    def decided_for(guest: Process) -> Item:
        seen = replace(scan(), processes=(guest,))
        return plan(seen, (), BOTH, VIEWS, Aim.PROTECT, lambda _: False).items[0]

    assert decided_for(BLIND).problem
    assert not decided_for(GUEST).problem


def test_process_that_cannot_be_foreseen_gets_what_is_held_for_its_build() -> None:
    seen = replace(scan(), processes=(BLIND,))
    (item,) = plan(seen, (FULL,), BOTH, VIEWS, Aim.PROTECT).items
    assert (item.deliver, item.source) == (Delivery.ENVIRONMENT, "qemu-held")


def test_installed_build_that_cannot_be_foreseen_is_a_problem_and_not_held_without_modules() -> (
    None
):
    there = Installed(EXECUTABLE, build(), unforeseen="ld.so.cache cannot be read")
    made = plan(replace(scan(), installed=(there,)), (), BOTH, VIEWS, Aim.PROTECT)
    assert made.captures == ()
    (problem,) = made.problems
    assert problem.startswith(f"{EXECUTABLE} is not held")
    assert problem.endswith("ld.so.cache cannot be read")


@pytest.mark.parametrize("order", [1, -1])
def test_executable_that_can_be_foreseen_serves_the_others_of_its_source_build(order: int) -> None:
    blind = Installed(EXECUTABLE, build(), unforeseen="it is gone")
    other = Installed(Path("/usr/bin/qemu-nbd"), build(OTHER_BUILD_ID), own=(RBD,))
    seen = replace(scan(), installed=(blind, other)[::order])
    made = plan(seen, (), BOTH, VIEWS, Aim.PROTECT)
    assert ([wanted.executable for wanted in made.captures], made.problems) == ([other.path], ())
