# SPDX-License-Identifier: Apache-2.0
"""A program whose stamp spans updates, that knows files, and that forks: PostgreSQL as it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.factories import VIEWS, holding, modules, process, scan, snapshot

from holdover.cli.together import one_of_each, together, worst
from holdover.fitting import covers, is_of, joined
from holdover.held import HeldFile, Holding
from holdover.identity import FileId
from holdover.model import Build, Capture, Delivery, Item, LateLoad, Outcome, Process, State
from holdover.steps.plan import Aim, plan
from holdover.steps.verify import loaded_twice

STAMP = "dc05" * 8
WHERE = Path("/usr/lib/postgresql/15/lib")
BUILD = Build(
    "postgresql", "aa", STAMP, "15.18", (WHERE,), exact=False, by_file=True, harmless=True
)
ON_DISK = modules("hstore", "plperl", "plpgsql", stamp=STAMP, directory=WHERE)
THIS, LATER = 1, 2
"""Builds, by the time of their files."""


def late(name: str, build: int = THIS, **changes: Any) -> LateLoad:
    """plperl needs a library that the server has not got from its start."""
    order = ("libperl.so.5.36",) if name == "plperl" else ()
    values = {"order": order, "file": FileId(build, len(name)), "size": 5, "mtime_ns": build}
    return LateLoad(name, WHERE / f"{name}.so", **(values | changes))


def lates(build: int = THIS, **problems: str) -> tuple[LateLoad, ...]:
    return tuple(late(m.name, build, problem=problems.get(m.name, "")) for m in ON_DISK)


def server(pid: int = 4711, **changes: Any) -> Process:
    values: dict[str, Any] = {
        "build": BUILD,
        "name": "15/main",
        "executable": Path("/usr/lib/postgresql/15/bin/postgres"),
        "allowed": (Delivery.VARIABLE,),
        "pointed_by": Delivery.VARIABLE,
        "own": lates(),
        "late": lates(),
    }
    return process(pid, **(values | changes))


def outlived(build: int = LATER, **problems: str) -> Process:
    """One whose executable and modules were replaced by a later build's, of the same stamp."""
    found = lates(build, **problems)
    return server(replaced=True, look_alike=True, own=found, late=found)


def held(*names: str, snapshot_id: str = "postgresql-held") -> Holding:
    """Of the first build, as it is captured: plperl is rewritten."""
    files = [
        HeldFile(f"{name}.so", "", 9 if name == "plperl" else 5, THIS, "0" * 64, how)
        for name in names or ("hstore", "plperl", "plpgsql")
        for how in ("rewritten" if name == "plperl" else "link",)
    ]
    return holding(snapshot(snapshot_id, files, BUILD))


def decided(
    seen: Process, *holdings: Holding, aim: Aim = Aim.PROTECT, ways: tuple[Delivery, ...] = ()
) -> Item:
    ways = ways or tuple(Delivery)[:-1]
    (item,) = plan(scan(seen, modules=ON_DISK), holdings, ways, VIEWS, aim).items
    return item


# -- builds of one stamp ---------------------------------------------------------------------------


def test_a_server_is_captured_before_an_update() -> None:
    item = decided(server())
    assert (item.state, item.deliver) == (State.CURRENT, Delivery.VARIABLE)
    assert isinstance(item.source, Capture)
    assert [late.name for late in item.source.modules] == ["hstore", "plperl", "plpgsql"]


def test_after_it_modules_that_would_not_load_put_it_at_risk() -> None:
    item = decided(outlived(hstore="undefined symbol f"), aim=Aim.LOOK)
    assert item.state is State.AT_RISK
    assert item.reason == "1 of the modules on disk would not load, hstore: undefined symbol f"


def test_then_nothing_on_disk_is_held_for_it() -> None:
    item = decided(outlived(hstore="undefined symbol f"))
    assert (item.deliver, item.source) == (None, "")
    assert "`holdover rescue 4711` gets them back" in item.problem


def test_but_what_was_held_before_is_delivered() -> None:
    for aim in (Aim.PROTECT, Aim.CATCH_UP):
        item = decided(outlived(hstore="undefined symbol f"), held(), aim=aim)
        assert (item.deliver, item.source) == (Delivery.VARIABLE, "postgresql-held")


def test_one_that_would_load_all_of_a_later_build_is_told_and_gets_its_own() -> None:
    item = decided(outlived(), held(), aim=Aim.CATCH_UP)
    assert (item.state, item.source) == (State.CURRENT, "postgresql-held")
    assert item.reason.startswith("its executable was replaced by a later build")
    assert decided(outlived(), aim=Aim.CATCH_UP).deliver is None


def test_a_snapshot_of_a_later_build_is_of_no_use_to_it() -> None:
    later = replace(held(), snapshot=replace(held().snapshot, build_id="bb"))
    item = decided(outlived(hstore="undefined symbol f"), later)
    assert item.deliver is None
    gone = replace(outlived(), own=(), late=())
    assert plan(scan(gone), (later,), (Delivery.VARIABLE,), VIEWS, Aim.PROTECT).items[0].problem


def test_what_was_got_back_is_delivered() -> None:
    seen = outlived(hstore="undefined symbol f")
    got = tuple(replace(late, problem="", origin="the archive") for late in seen.own)
    item = decided(replace(seen, own=got, look_alike=False), aim=Aim.CATCH_UP)
    assert isinstance(item.source, Capture)


def test_nothing_is_refused_for_a_server_that_a_failure_does_not_harm() -> None:
    item = decided(outlived(hstore="undefined symbol f"), aim=Aim.DEFUSE)
    assert (item.deliver, item.problem) == (None, "")


# -- what is replaced while the server is what lies on disk ----------------------------------------


def protected(**changes: Any) -> Process:
    return server(chosen=(held().view,), **changes)


def test_a_protected_server_stays_as_it_is() -> None:
    assert decided(protected(), held(), aim=Aim.CATCH_UP).deliver is None


def test_an_extension_that_is_replaced_reaches_a_server_that_is_current() -> None:
    new = tuple(late(m.name, LATER if m.name == "hstore" else THIS) for m in ON_DISK)
    item = decided(protected(own=new), held(), aim=Aim.CATCH_UP)
    assert isinstance(item.source, Capture)
    found = {late.name: late.path for late in item.source.modules}
    assert found["hstore"] == WHERE / "hstore.so"


def test_but_not_a_session_that_has_loaded_the_old_one() -> None:
    new = tuple(late(m.name, LATER if m.name == "hstore" else THIS) for m in ON_DISK)
    files = (("hstore", FileId(THIS, len("hstore"))),)
    session = protected(own=new, loaded=frozenset({"hstore"}), loaded_files=files)
    assert decided(session, held(), aim=Aim.CATCH_UP).deliver is None


def test_nor_one_whose_own_executable_was_replaced() -> None:
    seen = protected(replaced=True, look_alike=True, own=lates(LATER))
    assert decided(seen, held(), aim=Aim.CATCH_UP).deliver is None


def test_a_new_extension_reaches_both() -> None:
    more = (*lates(LATER), late("vector", LATER))
    for replaced in (False, True):
        seen = protected(replaced=replaced, look_alike=replaced, own=more)
        item = decided(seen, held(), aim=Aim.CATCH_UP)
        assert isinstance(item.source, Capture)
        found = {late.name: late.path for late in item.source.modules}
        assert found["vector"] == WHERE / "vector.so"
        assert (found["plpgsql"].parent == WHERE) is not replaced


# -- by the file -----------------------------------------------------------------------------------


def test_what_is_loaded_from_elsewhere_is_taken_from_what_is_held() -> None:
    loaded = [("hstore", FileId(7, 7))]
    found = {late.name: late for late in joined(lates(), held(), own_first=True, loaded=loaded)}
    assert found["hstore"].path == held().view / "hstore.so"
    assert found["plpgsql"].path == WHERE / "plpgsql.so"


@pytest.mark.parametrize(
    ("how", "size", "time", "order", "same"),
    [
        ("link", 5, THIS, (), True),
        ("link", 5, LATER, (), False),
        ("link", 6, THIS, (), False),
        ("rewritten", 9, THIS, ("libperl.so",), True),
        ("rewritten", 5, THIS, (), False),
        ("link", 5, THIS, ("libperl.so",), False),
    ],
)
def test_a_held_file_is_told_by_time_size_and_whether_it_was_changed(
    how: str, size: int, time: int, order: tuple[str, ...], same: bool
) -> None:
    file = HeldFile("plperl.so", "", size, time, "0" * 64, how)
    assert is_of(file, late("plperl", order=order)) is same


def test_a_session_that_has_loaded_a_module_needs_the_very_file() -> None:
    """It needs nothing more for it, so that it is linked, and another snapshot."""
    own = (late("hstore"), late("plperl", order=()), late("plpgsql"))
    assert covers(held().snapshot, lates(), same_files=True)
    assert not covers(held().snapshot, own, same_files=True)
    assert covers(held().snapshot, own)


def test_a_module_that_would_be_loaded_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hstore.so").touch()
    there = (tmp_path / "hstore.so").stat()
    view = replace(held(), view=tmp_path)
    same = server(loaded_files=(("hstore", FileId(there.st_dev, there.st_ino)),))
    assert not loaded_twice(same, view)
    other = server(loaded_files=(("hstore", FileId(1, 1)),))
    assert "from another file" in loaded_twice(other, view)
    assert "is not held" in loaded_twice(server(loaded_files=(("x", FileId(1, 1)),)), view)


def test_other_deliveries_are_not_for_such_a_program() -> None:
    seen = server(no_variable="the store is hidden", no_environment="", no_mount="")
    item = decided(seen)
    assert (item.deliver, item.problem) == (None, "variable: the store is hidden")


# -- together --------------------------------------------------------------------------------------


def items(*states: State) -> list[Item]:
    """A server in the first state, and what it forked."""
    forked = (server(4712 + n, part_of=4711) for n in range(len(states) - 1))
    return [
        Item(p, state, f"it is {state}")
        for p, state in zip((server(), *forked), states, strict=True)
    ]


def test_what_a_process_forked_is_told_with_it() -> None:
    alone = Item(process(1), State.CURRENT, "fine")
    groups = together([alone, *items(State.CURRENT, State.CURRENT)], lambda item: item.process)
    assert [len(group.all) for group in groups] == [1, 2]
    assert groups[1].counted("fine", 2) == "fine (2 processes)"
    assert groups[1].counted("fine", 1) == "fine (1 of 2 processes)"
    assert groups[0].counted("fine", 1) == "fine"


def test_the_worst_of_them_is_told() -> None:
    (group,) = together(
        items(State.PROTECTED, State.CURRENT, State.AT_RISK), lambda item: item.process
    )
    assert worst(group, lambda item: item.state).state is State.AT_RISK
    assert list(group.kinds(lambda item: item.state).values()) == [1, 1, 1]


def test_whoever_lost_the_process_that_forked_it_is_told_alone() -> None:
    orphan = Item(server(5, part_of=4), State.CURRENT, "fine")
    (group,) = together([orphan], lambda item: item.process)
    assert group.first is orphan


def test_what_became_of_them_is_told_once_for_each_kind() -> None:
    forked = [server(4712 + n, part_of=4711) for n in range(3)]
    done = [
        Outcome(server(), State.PROTECTED, "held", changed=True),
        *(Outcome(process, State.PROTECTED, "held", changed=True) for process in forked[:2]),
        Outcome(forked[2], State.CURRENT, "it has loaded x", failed=True),
    ]
    told = [(o.process.id.pid, o.failed, o.reason) for o in one_of_each(done)]
    assert told == [
        (4711, False, "held (3 of 4 processes)"),
        (4714, True, "it has loaded x (1 of 4 processes)"),
    ]
