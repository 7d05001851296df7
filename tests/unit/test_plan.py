# SPDX-License-Identifier: Apache-2.0
"""What is true of a process, what is done about it, and why."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.factories import (
    BUILD_ID,
    DIRECTORY,
    EXECUTABLE,
    OTHER_BUILD_ID,
    OTHER_STAMP,
    VIEWS,
    build,
    held_file,
    holding,
    modules,
    other_build,
    process,
    scan,
    snapshot,
)

from holdover.held import Holding, Purpose
from holdover.identity import FileId
from holdover.model import (
    Capture,
    Delivery,
    Installed,
    Item,
    Module,
    Plan,
    Process,
    Scan,
    State,
    Unreadable,
)
from holdover.places import place_name
from holdover.steps.deliver.run import in_the_way
from holdover.steps.plan import Aim, plan, without, without_programs

BOTH = (Delivery.ENVIRONMENT, Delivery.MOUNT)
ADMIN = Path("/opt/modules")
OWN = modules("block-curl", "block-rbd")
WRONG = modules("block-curl", "block-rbd", stamp=OTHER_STAMP)
HELD = holding(snapshot("qemu-held", [held_file("block-curl"), held_file("block-rbd")]))
OTHERS = holding(snapshot("qemu-other", [held_file("block-curl")], other_build()), inode=901)
DEFUSED = holding(snapshot("qemu-decoys", purpose=Purpose.DEFUSE), inode=902)
UNPROVEN = replace(HELD, rehearsal_failure="block-rbd fails: no librbd")
DAMAGED = replace(HELD, damage="block-rbd.so is gone")

REPLACED = process(replaced=True)
LOOK_ALIKE = process(replaced=True, look_alike=True)
POINTED = process(replaced=True, chosen=(HELD.view,))
COVERED = process(replaced=True, covered_by=HELD.view_file)
DISARMED = process(replaced=True, chosen=(DEFUSED.view,))
MISLED = process(chosen=(OTHERS.view,))
FOREVER = process(replaced=True, unsupported="it has changed its root directory")
STATIC = process(build=build(stamp=None))
POISONED = process(replaced=True, poisoned_by="block-curl")
MUTE = "its stderr is /dev/null"
UNHEARD = f"; whether a load failed already cannot be known: {MUTE}"


def planned(
    seen: Scan, *holdings: Holding, aim: Aim = Aim.LOOK, deliveries: tuple[Delivery, ...] = BOTH
) -> Plan:
    return plan(seen, holdings, deliveries, VIEWS, aim)


def decided(
    guest: Process,
    on_disk: tuple[Module, ...],
    *holdings: Holding,
    aim: Aim = Aim.PROTECT,
    deliveries: tuple[Delivery, ...] = BOTH,
) -> Item:
    seen = scan(guest, modules=on_disk)
    (item,) = planned(seen, *holdings, aim=aim, deliveries=deliveries).items
    return item


def captured(item: Item) -> dict[str, Path]:
    assert isinstance(item.source, Capture)
    return {late.name: late.path for late in item.source.modules}


# -- what is true ------------------------------------------------------------------------------

STATES = {
    "no stamp": (STATIC, WRONG, State.CURRENT, "loads no modules"),
    "its own modules": (process(), OWN, State.CURRENT, "are its own"),
    "no modules": (process(), (), State.CURRENT, "no modules are installed"),
    "same stamp": (LOOK_ALIKE, OWN, State.CURRENT, "same stamp"),
    "same build again": (REPLACED, OWN, State.CURRENT, "are its own"),
    "other build": (REPLACED, WRONG, State.AT_RISK, "2 of 2 modules"),
    "some of other build": (process(), OWN[:1] + WRONG[1:], State.AT_RISK, "1 of 2 .*block-rbd"),
    "modules gone": (REPLACED, (), State.AT_RISK, "gone from disk"),
    "loaded already": (
        process(loaded=frozenset({"block-rbd"})),
        OWN[:1] + WRONG[1:],
        State.CURRENT,
        "are its own",
    ),
    "carries no stamp": (process(), modules("block-rbd", stamp=""), State.AT_RISK, "1 of 1"),
    "environment": (POINTED, WRONG, State.PROTECTED, "2 modules of its build are held"),
    "mount": (COVERED, WRONG, State.PROTECTED, "2 modules of its build are held"),
    "decoys": (DISARMED, WRONG, State.DEFUSED, "refused"),
    "view of other build": (MISLED, OWN, State.AT_RISK, "qemu-other, which is of another build"),
    "unsupported": (FOREVER, WRONG, State.UNSUPPORTED, "root directory"),
    "poisoned": (POISONED, WRONG, State.POISONED, "failed to load block-curl.*kills it: attach no"),
    "poisoned, files back": (POISONED, OWN, State.POISONED, "attach nothing to it"),
    "poisoned, pointed": (
        replace(POISONED, chosen=(HELD.view,)),
        WRONG,
        State.POISONED,
        "attach nothing to it",
    ),
    "poisoned, defused": (
        replace(POISONED, chosen=(DEFUSED.view,)),
        WRONG,
        State.POISONED,
        "attach nothing to it",
    ),
    "unknown view": (
        process(chosen=(VIEWS / "gone",)),
        OWN,
        State.AT_RISK,
        "pointed at .*gone, which the store does not know",
    ),
    "admin's directory": (process(chosen=(ADMIN,)), OWN, State.CURRENT, "are its own"),
    "admin's directory first": (
        process(chosen=(ADMIN,)),
        OWN + modules("block-rbd", stamp=OTHER_STAMP, directory=ADMIN),
        State.AT_RISK,
        "1 of 2",
    ),
    "admin's directory cures": (
        process(chosen=(ADMIN,)),
        WRONG + modules("block-curl", "block-rbd", directory=ADMIN),
        State.CURRENT,
        "are its own",
    ),
    "elsewhere": (
        process(),
        OWN + modules("block-ssh", stamp=OTHER_STAMP, directory=ADMIN),
        State.CURRENT,
        "are its own",
    ),
}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("aim", Aim)
def test_state_and_reason_are_true_whatever_is_wanted(aim: Aim, name: str) -> None:
    guest, on_disk, state, reason = STATES[name]
    item = decided(guest, on_disk, HELD, OTHERS, DEFUSED, aim=aim)
    assert item.state is state
    assert re.search(reason, item.reason)


@pytest.mark.parametrize(
    ("guest", "delivery", "held"),
    [
        (POINTED, Delivery.ENVIRONMENT, "qemu-held"),
        (COVERED, Delivery.MOUNT, "qemu-held"),
        (DISARMED, Delivery.ENVIRONMENT, "qemu-decoys"),
        (MISLED, Delivery.ENVIRONMENT, "qemu-other"),
        (replace(COVERED, chosen=(DEFUSED.view,)), Delivery.ENVIRONMENT, "qemu-decoys"),
        (process(), None, ""),
        (replace(POINTED, chosen=(ADMIN, HELD.view)), None, ""),
    ],
    ids=["environment", "mount", "decoys", "other", "both", "none", "second"],
)
def test_delivery_that_counts_is_the_one_the_process_finds_first(
    guest: Process, delivery: Delivery | None, held: str
) -> None:
    item = decided(guest, WRONG, HELD, OTHERS, DEFUSED, aim=Aim.LOOK)
    assert (item.delivery, item.snapshot) == (delivery, held)


def test_mount_does_not_protect_a_process_that_looks_into_another_directory_first() -> None:
    wrong = modules("block-rbd", stamp=OTHER_STAMP, directory=ADMIN)
    item = decided(replace(COVERED, chosen=(ADMIN,)), wrong, HELD, aim=Aim.LOOK)
    assert item.state is State.AT_RISK


@pytest.mark.parametrize("guest", [POINTED, COVERED], ids=["environment", "mount"])
def test_damaged_snapshot_protects_nobody(guest: Process) -> None:
    item = decided(guest, WRONG, DAMAGED, aim=Aim.LOOK)
    assert item.state is State.AT_RISK
    assert item.reason == "its snapshot qemu-held is damaged: block-rbd.so is gone"


@pytest.mark.parametrize("guest", [POINTED, COVERED], ids=["environment", "mount"])
def test_snapshot_that_failed_its_rehearsal_is_a_risk(guest: Process) -> None:
    item = decided(guest, WRONG, UNPROVEN, aim=Aim.LOOK)
    assert item.state is State.AT_RISK
    assert item.reason == "rehearsal: block-rbd fails: no librbd"


@pytest.mark.parametrize(
    ("guest", "on_disk", "said"),
    [
        (REPLACED, WRONG, True),
        (REPLACED, OWN, True),
        (process(), OWN[:1] + WRONG[1:], True),
        (DISARMED, WRONG, True),
        (POINTED, WRONG, False),
        (process(), OWN, False),
        (process(), (), False),
    ],
    ids=["at risk", "files back", "mixed", "defused", "protected", "current", "no modules"],
)
def test_that_a_log_cannot_be_read_is_said_where_it_matters(
    guest: Process, on_disk: tuple[Module, ...], said: bool
) -> None:
    heard = decided(guest, on_disk, HELD, DEFUSED, aim=Aim.LOOK)
    unheard = decided(replace(guest, unheard=MUTE), on_disk, HELD, DEFUSED, aim=Aim.LOOK)
    assert unheard.reason == heard.reason + (UNHEARD if said else "")
    assert unheard.state is heard.state


def test_doubt_keeps_nobody_from_being_protected() -> None:
    doubtful = replace(REPLACED, unheard="its log tells that block-curl failed, perhaps earlier")
    assert decided(doubtful, OWN).deliver is Delivery.ENVIRONMENT


def test_what_a_poisoned_process_is_pointed_at_is_known() -> None:
    item = decided(replace(POISONED, chosen=(HELD.view,)), WRONG, HELD, aim=Aim.LOOK)
    assert (item.delivery, item.snapshot) == (Delivery.ENVIRONMENT, "qemu-held")


# -- what is done ------------------------------------------------------------------------------

KINDS = {
    "current": (process(), OWN),
    "static": (STATIC, WRONG),
    "unsupported": (FOREVER, WRONG),
    "protected": (POINTED, WRONG),
    "covered": (COVERED, WRONG),
    "at risk": (REPLACED, WRONG),
    "defused": (DISARMED, WRONG),
    "misled": (MISLED, OWN),
    "poisoned": (POISONED, WRONG),
    "poisoned, files back": (POISONED, OWN),
}
SERVED = {
    Aim.LOOK: set[str](),
    Aim.PROTECT: {"current", "at risk", "defused", "misled"},
    Aim.CATCH_UP: {"at risk", "defused", "misled"},
    Aim.DEFUSE: {"at risk", "misled"},
}


@pytest.mark.parametrize("aim", Aim)
@pytest.mark.parametrize("kind", KINDS)
def test_each_aim_serves_these_and_leaves_the_others_alone(aim: Aim, kind: str) -> None:
    item = decided(*KINDS[kind], HELD, OTHERS, DEFUSED, aim=aim)
    assert kind == "unsupported" or item.problem == ""
    assert (item.deliver is not None) == (kind in SERVED[aim])
    assert (item.source != "") == (kind in SERVED[aim])


@pytest.mark.parametrize("aim", [Aim.PROTECT, Aim.CATCH_UP])
def test_snapshot_that_failed_its_rehearsal_is_not_delivered_once_more(aim: Aim) -> None:
    item = decided(POINTED, WRONG, UNPROVEN, aim=aim)
    assert (item.deliver, item.source) == (None, "")
    assert item.problem == "if that can be mended, `holdover rehearse 4711` afterwards"


@pytest.mark.parametrize("guest", [POINTED, process()], ids=["pointed at it", "not yet"])
def test_what_is_on_disk_may_be_better_than_a_snapshot_that_failed(guest: Process) -> None:
    assert captured(decided(guest, OWN, UNPROVEN)) == {m.name: m.path for m in OWN}


def test_snapshot_that_failed_its_rehearsal_is_better_than_none() -> None:
    assert decided(REPLACED, WRONG, UNPROVEN).source == "qemu-held"


def test_process_whose_snapshot_failed_its_rehearsal_can_be_defused() -> None:
    item = decided(POINTED, WRONG, UNPROVEN, aim=Aim.DEFUSE)
    assert isinstance(item.source, Capture)
    assert item.source.purpose is Purpose.DEFUSE


def test_snapshot_of_its_own_build_is_delivered() -> None:
    item = decided(REPLACED, WRONG, OTHERS, DEFUSED, HELD)
    assert (item.deliver, item.source) == (Delivery.ENVIRONMENT, "qemu-held")


def test_own_modules_on_disk_are_captured_from_the_running_executable() -> None:
    item = decided(process(4712), OWN)
    assert captured(item) == {m.name: m.path for m in OWN}
    assert isinstance(item.source, Capture)
    assert (item.source.executable, item.source.purpose) == (Path("/proc/4712/exe"), Purpose.HOLD)
    assert item.source.reason == "needed by guest4712 (4712)"


def test_process_without_a_name_is_called_by_its_executable() -> None:
    item = decided(process(name=""), OWN)
    assert isinstance(item.source, Capture)
    assert item.source.reason == "needed by qemu-system-x86_64 (4711)"


def test_only_modules_of_its_build_are_captured() -> None:
    assert captured(decided(process(), OWN[:1] + WRONG[1:])) == {"block-curl": OWN[0].path}


def test_module_in_the_directory_that_counts_is_captured() -> None:
    admins = modules("block-rbd", directory=ADMIN)
    guest = process(chosen=(ADMIN,))
    assert captured(decided(guest, OWN + admins))["block-rbd"] == admins[0].path


def test_modules_that_were_replaced_already_are_told_with_what_is_held() -> None:
    """A change of packages that nobody announced is under way: what is still there is held."""
    there = modules("block-rbd") + modules("block-curl", "ui-gtk", stamp=OTHER_STAMP)
    item = decided(process(loaded=frozenset({"ui-gtk"})), there)
    assert item.state is State.AT_RISK
    assert list(captured(item)) == ["block-rbd"]
    assert isinstance(item.source, Capture)
    assert item.source.unheld == (("block-curl", "it was replaced before it could be held"),)


def test_snapshot_that_lacks_a_module_is_completed_from_the_disk_and_itself() -> None:
    part = holding(snapshot("qemu-part", [held_file("block-ssh")]))
    found = captured(decided(process(), OWN, part))
    held = {"block-ssh": part.view / "block-ssh.so"}
    assert found == {m.name: m.path for m in OWN} | held


def test_fullest_snapshot_of_the_build_is_chosen() -> None:
    held = [held_file("block-rbd")]
    part = holding(snapshot("qemu-part", held, decoys=("block-curl",)), inode=903)
    assert decided(REPLACED, WRONG, part, HELD).source == "qemu-held"
    assert decided(REPLACED, WRONG, HELD, part).source == "qemu-held"


def test_damaged_snapshot_is_not_chosen() -> None:
    held = [held_file("block-rbd")]
    part = holding(snapshot("qemu-part", held, decoys=("block-curl",)), inode=903)
    assert decided(REPLACED, WRONG, DAMAGED, part).source == "qemu-part"
    assert decided(REPLACED, WRONG, DAMAGED).problem != ""
    assert captured(decided(process(), OWN, DAMAGED)) == {m.name: m.path for m in OWN}


def test_name_that_a_later_build_brings_is_refused_from_then_on() -> None:
    """The view knows nothing of it: the search would go on, and find the other build's."""
    later = WRONG + modules("block-later", stamp=OTHER_STAMP)
    for aim in (Aim.PROTECT, Aim.CATCH_UP):
        item = decided(POINTED, later, HELD, aim=aim)
        assert item.state is State.PROTECTED
        assert {path.parent for path in captured(item).values()} == {HELD.view}
        assert decided(POINTED, WRONG, HELD, aim=aim).deliver is None
    knows = replace(HELD.snapshot, id="qemu-knows", decoys=("block-later",))
    assert decided(REPLACED, later, holding(knows)).source == "qemu-knows"


def test_decoys_and_snapshots_of_other_builds_are_not_chosen() -> None:
    item = decided(REPLACED, WRONG, DEFUSED, OTHERS)
    assert "replaced before it was protected" in item.problem
    assert "holdover rescue 4711" in item.problem
    assert (item.deliver, item.source) == (None, "")


def test_process_whose_modules_are_all_of_another_build_is_not_held_by_nothing() -> None:
    item = decided(process(), WRONG)
    assert item.problem
    assert item.deliver is None


def test_defused_process_stays_as_it_is_until_its_files_turn_up() -> None:
    for aim in (Aim.PROTECT, Aim.CATCH_UP):
        item = decided(DISARMED, WRONG, DEFUSED, aim=aim)
        assert (item.state, item.deliver, item.problem) == (State.DEFUSED, None, "")
        item = decided(DISARMED, WRONG, DEFUSED, HELD, aim=aim)
        assert (item.deliver, item.source) == (Delivery.ENVIRONMENT, "qemu-held")


def test_to_defuse_is_to_capture_decoys_only() -> None:
    item = decided(REPLACED, WRONG, aim=Aim.DEFUSE)
    assert captured(item) == {}
    assert isinstance(item.source, Capture)
    assert item.source.purpose is Purpose.DEFUSE


def test_replaced_executable_with_the_same_stamp_is_not_guessed_at() -> None:
    seen = scan(LOOK_ALIKE, modules=OWN)
    (item,) = planned(seen, aim=Aim.PROTECT).items
    assert (item.state, item.deliver) == (State.CURRENT, None)
    assert "cannot be told" in item.problem


def test_same_build_installed_again_is_no_stranger() -> None:
    seen = scan(REPLACED, modules=OWN, installed=(Installed(EXECUTABLE, build()),))
    (item,) = planned(seen, aim=Aim.PROTECT).items
    assert captured(item) == {m.name: m.path for m in OWN}


def test_replaced_executable_whose_modules_are_still_there_is_served_from_them() -> None:
    after = Installed(EXECUTABLE, other_build())
    seen = scan(REPLACED, modules=OWN[:1] + WRONG[1:], installed=(after,))
    (item,) = planned(seen, aim=Aim.CATCH_UP).items
    assert captured(item) == {"block-curl": OWN[0].path}


# -- how it is done ----------------------------------------------------------------------------

NO_ENVIRONMENT = "no unused bytes"
NO_MOUNT = "it lives in the host's mount namespace"


@pytest.mark.parametrize(
    ("obstacles", "deliveries", "chosen"),
    [
        ({}, BOTH, Delivery.ENVIRONMENT),
        ({}, BOTH[::-1], Delivery.MOUNT),
        ({"no_environment": NO_ENVIRONMENT}, BOTH, Delivery.MOUNT),
        ({"no_mount": NO_MOUNT}, BOTH[::-1], Delivery.ENVIRONMENT),
        ({"no_mount": NO_MOUNT}, BOTH, Delivery.ENVIRONMENT),
        ({}, (Delivery.MOUNT,), Delivery.MOUNT),
        ({}, (Delivery.ENVIRONMENT,), Delivery.ENVIRONMENT),
    ],
)
def test_first_delivery_that_is_allowed_and_possible_is_chosen(
    obstacles: dict[str, Any], deliveries: tuple[Delivery, ...], chosen: Delivery
) -> None:
    item = decided(process(**obstacles), OWN, deliveries=deliveries)
    assert (item.deliver, item.problem) == (chosen, "")


def test_process_that_no_delivery_reaches_is_a_problem_with_both_reasons() -> None:
    guest = process(no_environment=NO_ENVIRONMENT, no_mount=NO_MOUNT)
    item = decided(guest, OWN)
    assert (item.deliver, item.source) == (None, "")
    assert item.problem == f"environment: {NO_ENVIRONMENT}; mount: {NO_MOUNT}"


def test_delivery_that_is_not_allowed_is_no_way_out() -> None:
    guest = process(no_environment=NO_ENVIRONMENT)
    item = decided(guest, OWN, deliveries=(Delivery.ENVIRONMENT,))
    assert (item.deliver, item.problem) == (None, f"environment: {NO_ENVIRONMENT}")


def test_process_that_needs_something_and_is_allowed_nothing_is_a_problem() -> None:
    item = decided(REPLACED, WRONG, HELD, deliveries=())
    assert (item.deliver, item.source) == (None, "")
    assert item.problem


# -- by the directory in which it looks last -----------------------------------------------------

LASTLY = (*BOTH, Delivery.FALLBACK)
LAST = (Delivery.FALLBACK,)
GOES_ON = replace(build(), fallback=Path("/run/qemu/5.2"))


def going_on(**changes: Any) -> Process:
    """A process of a build with a fallback directory, whose modules lie on disk."""
    return process(**({"build": GOES_ON} | changes))


def outrun(**changes: Any) -> Process:
    return going_on(replaced=True, **changes)


def test_fallback_directory_is_the_last_choice() -> None:
    obstacles = {"no_environment": NO_ENVIRONMENT, "no_mount": NO_MOUNT}
    assert decided(going_on(), OWN, deliveries=LASTLY).deliver is Delivery.ENVIRONMENT
    assert decided(going_on(**obstacles), OWN, deliveries=LASTLY).deliver is Delivery.FALLBACK


@pytest.mark.parametrize(
    ("guest", "reason"),
    [
        (going_on(no_fallback="no such thing"), "no such thing"),
        (going_on(library_path="/opt/lib"), "LD_LIBRARY_PATH"),
    ],
)
def test_fallback_directory_that_is_no_use_is_not_chosen(guest: Process, reason: str) -> None:
    item = decided(guest, OWN, deliveries=LAST)
    assert item.deliver is None
    assert reason in item.problem


def test_fallback_directory_cannot_defuse() -> None:
    item = decided(outrun(), WRONG, deliveries=LAST, aim=Aim.DEFUSE)
    assert (item.deliver, item.problem) == (
        None,
        "fallback-dir: what is found last refuses nothing",
    )


@pytest.mark.parametrize("loaded", [frozenset[str](), frozenset({"block-curl", "block-rbd"})])
def test_process_that_finds_its_modules_last_is_protected(loaded: frozenset[str]) -> None:
    item = decided(outrun(fallback=HELD.view, loaded=loaded), WRONG, HELD, deliveries=LAST)
    assert (item.state, item.delivery, item.snapshot) == (
        *(State.PROTECTED, Delivery.FALLBACK, "qemu-held"),
    )
    assert item.deliver is None


def test_another_executable_of_the_build_is_served_by_the_same() -> None:
    guest = outrun(build=replace(GOES_ON, build_id=OTHER_BUILD_ID), fallback=HELD.view)
    assert decided(guest, WRONG, HELD, aim=Aim.LOOK).state is State.PROTECTED


@pytest.mark.parametrize(
    ("view", "held"),
    [(OTHERS.view, OTHERS), (DAMAGED.view, DAMAGED), (UNPROVEN.view, UNPROVEN)],
    ids=["other build", "damaged", "failed its rehearsal"],
)
def test_what_is_found_last_has_to_be_sound_and_its_own(view: Path, held: Holding) -> None:
    assert decided(outrun(fallback=view), WRONG, held, aim=Aim.LOOK).state is State.AT_RISK


def test_fallback_directory_that_leads_to_nothing_known_is_no_protection() -> None:
    item = decided(outrun(fallback=VIEWS / "gone"), WRONG, aim=Aim.LOOK)
    assert (item.state, item.delivery) == (State.AT_RISK, None)


def test_promise_is_told_while_the_modules_on_disk_are_its_own() -> None:
    item = decided(going_on(promised="qemu-held"), OWN, HELD, deliveries=LAST)
    assert (item.state, item.delivery, item.snapshot) == (
        *(State.CURRENT, Delivery.FALLBACK, "qemu-held"),
    )
    assert "comes into play when they are replaced" in item.reason
    assert item.deliver is None


@pytest.mark.parametrize(
    ("guest", "held", "deliveries"),
    [
        (going_on(promised="qemu-held", fallback=HELD.view), HELD, LAST),
        (going_on(promised="qemu-held"), DAMAGED, LAST),
        (going_on(promised="qemu-other"), OTHERS, LAST),
        (going_on(promised="qemu-gone"), HELD, LAST),
        (going_on(promised="qemu-held"), HELD, LASTLY),
    ],
    ids=["links are there", "damaged", "less than there is", "gone", "better is possible"],
)
def test_promise_that_is_not_kept_is_made_good(
    guest: Process, held: Holding, deliveries: tuple[Delivery, ...]
) -> None:
    assert decided(guest, OWN, held, deliveries=deliveries).deliver is deliveries[0]


def test_promise_is_kept_when_the_modules_were_replaced() -> None:
    guest = outrun(promised="qemu-held")
    item = decided(guest, WRONG, HELD, deliveries=LAST, aim=Aim.CATCH_UP)
    assert (item.state, item.deliver, item.source) == (
        *(State.AT_RISK, Delivery.FALLBACK, "qemu-held"),
    )


def test_names_that_a_later_build_brings_need_no_decoys_behind_them() -> None:
    more = (*WRONG, *modules("block-new", stamp=OTHER_STAMP))
    item = decided(outrun(fallback=HELD.view), more, HELD, deliveries=LAST)
    assert (item.state, item.deliver) == (State.PROTECTED, None)


# -- for whom it is done -----------------------------------------------------------------------


@pytest.mark.parametrize("touched", [EXECUTABLE, DIRECTORY])
def test_change_of_the_executable_or_its_directory_concerns_a_process(touched: Path) -> None:
    seen = scan(process(), modules=OWN)
    (item,) = plan(seen, (), BOTH, VIEWS, Aim.PROTECT, lambda path: path == touched).items
    assert item.deliver is Delivery.ENVIRONMENT


def test_change_of_something_else_concerns_nobody() -> None:
    installed = (Installed(EXECUTABLE, build()),)
    seen = scan(process(1), REPLACED, modules=OWN, installed=installed)
    made = plan(seen, (), BOTH, VIEWS, Aim.PROTECT, lambda _: False)
    assert [(item.deliver, item.problem) for item in made.items] == [(None, ""), (None, "")]
    assert made.captures == ()


def test_after_a_change_it_does_not_matter_what_was_touched() -> None:
    seen = scan(REPLACED, modules=WRONG)
    (item,) = plan(seen, (HELD,), BOTH, VIEWS, Aim.CATCH_UP, lambda _: False).items
    assert item.source == "qemu-held"


def test_installed_build_is_captured_before_it_is_replaced_even_if_it_does_not_run() -> None:
    seen = scan(modules=OWN, installed=(Installed(EXECUTABLE, build()),))
    (capture,) = planned(seen, aim=Aim.PROTECT).captures
    assert (capture.executable, capture.purpose) == (EXECUTABLE, Purpose.HOLD)
    assert {m.name: m.path for m in capture.modules} == {m.name: m.path for m in OWN}
    assert capture.reason == "installed, and about to be replaced"


@pytest.mark.parametrize("aim", [Aim.LOOK, Aim.CATCH_UP, Aim.DEFUSE])
def test_installed_build_is_captured_only_before_a_change(aim: Aim) -> None:
    seen = scan(modules=OWN, installed=(Installed(EXECUTABLE, build()),))
    assert planned(seen, aim=aim).captures == ()


def test_installed_build_is_held_for_the_transaction_also_if_it_is_held_for_a_guest() -> None:
    seen = scan(modules=OWN, installed=(Installed(EXECUTABLE, build()),))
    assert len(planned(seen, HELD, aim=Aim.PROTECT).captures) == 1
    assert len(planned(seen, DAMAGED, OTHERS, DEFUSED, aim=Aim.PROTECT).captures) == 1


def test_executables_of_one_source_build_are_held_once() -> None:
    others = (build(f"{number:040x}") for number in range(3))
    installed = tuple(Installed(EXECUTABLE, other) for other in others)
    assert len(planned(scan(modules=OWN, installed=installed), aim=Aim.PROTECT).captures) == 1


def test_newcomer_is_served_from_what_another_executable_of_its_source_build_holds() -> None:
    item = decided(replace(REPLACED, build=build(OTHER_BUILD_ID)), WRONG, HELD, aim=Aim.CATCH_UP)
    assert isinstance(item.source, Capture)
    assert [late.path.parent for late in item.source.modules] == [HELD.view] * 2


def test_modules_installed_after_a_guest_was_protected_are_added_to_its_view() -> None:
    more = OWN + modules("block-new")
    for aim in (Aim.PROTECT, Aim.CATCH_UP):
        item = decided(POINTED, more, HELD, aim=aim)
        assert isinstance(item.source, Capture)
        assert "block-new" in captured(item)
        assert decided(POINTED, OWN, HELD, aim=aim).deliver is None


def test_several_builds_at_once_each_get_their_own() -> None:
    second = process(2, build=other_build(), executable=Path("/opt/bin/qemu-system-x86_64"))
    newer = process(3, build=build("cc" * 20, "qemu_stamp_" + "c" * 40))
    seen = scan(REPLACED, second, newer, modules=WRONG)
    first, other, third = planned(seen, HELD, OTHERS, aim=Aim.PROTECT).items
    assert first.source == "qemu-held"
    assert captured(other)["block-curl"] == WRONG[0].path
    assert third.state is State.AT_RISK


def test_processes_of_one_build_share_a_snapshot() -> None:
    seen = scan(process(1), process(2), modules=OWN)
    first, second = planned(seen, HELD, aim=Aim.PROTECT).items
    assert first.source == second.source == "qemu-held"


# -- whatever there is -------------------------------------------------------------------------

NAMES = st.sampled_from(["block-curl", "block-rbd", "block-ssh"])
STAMPS = st.sampled_from(["", OTHER_STAMP, OWN[0].stamp])
BUILDS = st.sampled_from(
    [build(), other_build(), build(stamp=None), build(OTHER_BUILD_ID), build(directories=())]
)
PATHS = st.sampled_from([ADMIN, HELD.view, OTHERS.view, DEFUSED.view, VIEWS / "gone"])
WHY_NOT = st.sampled_from(["", "because"])
FILES = st.none() | st.builds(FileId, st.just(1), st.integers(900, 903))
HOLDINGS = st.builds(
    lambda held, damage, file: replace(held, damage=damage, view_file=file),
    st.sampled_from([HELD, OTHERS, DEFUSED]),
    st.sampled_from(["", "block-rbd.so is gone"]),
    FILES,
)
PROCESSES = st.builds(
    process,
    pid=st.integers(1, 3),
    build=BUILDS,
    replaced=st.booleans(),
    chosen=st.lists(PATHS, max_size=2).map(tuple),
    covered_by=FILES,
    loaded=st.frozensets(NAMES),
    unsupported=WHY_NOT,
    no_environment=WHY_NOT,
    no_mount=WHY_NOT,
    name=st.sampled_from(["", "guest"]),
)
MODULES = st.builds(
    lambda name, stamp, where: Module(name, where / f"{name}.so", stamp),
    NAMES,
    STAMPS,
    st.sampled_from([DIRECTORY, ADMIN]),
)
SCANS = st.builds(
    Scan,
    st.lists(PROCESSES, max_size=3).map(tuple),
    st.lists(MODULES, max_size=4).map(tuple),
    st.lists(st.builds(Installed, st.just(EXECUTABLE), BUILDS), max_size=2).map(tuple),
)
DELIVERIES = st.sampled_from([BOTH, BOTH[::-1], BOTH[:1], BOTH[1:]])


@given(SCANS, st.lists(HOLDINGS, max_size=3), DELIVERIES, st.sampled_from(Aim), st.booleans())
def test_plan_always_has_an_answer_and_a_reason(
    seen: Scan,
    holdings: list[Holding],
    deliveries: tuple[Delivery, ...],
    aim: Aim,
    touched: bool,
) -> None:
    made = plan(seen, tuple(holdings), deliveries, VIEWS, aim, lambda _: touched)
    assert [item.process for item in made.items] == list(seen.processes)
    for item in made.items:
        assert item.reason
        assert not (item.problem and item.deliver)
        assert (item.deliver is None) == (item.source == "")
        assert item.deliver is None or item.deliver in deliveries
        if item.state is State.UNSUPPORTED or aim is Aim.LOOK:
            assert item.deliver is None
        if (
            item.state is State.PROTECTED
        ):  # there may be names on disk that its view knows nothing of
            assert item.deliver is None or isinstance(item.source, Capture)
        assert item.state is not State.CURRENT or item.deliver is None or aim is Aim.PROTECT
        if isinstance(item.source, str) and item.source:
            fitting = [h.snapshot for h in holdings if not h.damage]
            held = next(found for found in fitting if found.id == item.source)
            assert held.build_id == item.process.build.build_id
    assert aim is Aim.PROTECT or made.captures == ()


@given(SCANS, st.lists(HOLDINGS, max_size=3), DELIVERIES)
def test_plan_is_the_same_for_the_same_facts(
    seen: Scan, holdings: list[Holding], deliveries: tuple[Delivery, ...]
) -> None:
    first = planned(seen, *holdings, aim=Aim.PROTECT, deliveries=deliveries)
    assert planned(seen, *holdings, aim=Aim.PROTECT, deliveries=deliveries) == first


# -- programs that are to be left alone ------------------------------------------------------------

LOST = (Unreadable(5, "its memory cannot be read", "qemu"), Unreadable(6, "its executable cannot"))


def left_alone(*disabled: str) -> Plan:
    """Of what would be wrong with a guest, an installed build, and processes that were not seen."""
    installed = (Installed(EXECUTABLE, build(), unforeseen="no cache"),)
    seen = scan(REPLACED, modules=WRONG, installed=installed, unreadable=LOST)
    return without(planned(without_programs(seen, disabled), aim=Aim.PROTECT), disabled)


def test_nothing_is_wrong_with_a_program_that_is_left_alone() -> None:
    decided = left_alone("qemu")
    (item,) = decided.items
    assert (item.state, item.problem, item.deliver) == (State.AT_RISK, "", None)
    assert item.reason.endswith("it is left alone, as programs.disabled asks for")
    assert (decided.captures, decided.problems, decided.unreadable) == ((), (), LOST[1:])


def test_what_is_wrong_with_the_others_is_told() -> None:
    decided = left_alone("postgresql")
    assert decided.items[0].problem
    assert (len(decided.problems), decided.unreadable) == (1, LOST)


def test_nothing_is_held_of_an_installed_build_that_is_left_alone() -> None:
    seen = scan(modules=OWN, installed=(Installed(EXECUTABLE, build()),))
    assert planned(without_programs(seen, ("qemu",)), aim=Aim.PROTECT).captures == ()


# -- guests of `holdover run` ------------------------------------------------------------------

PLACES = VIEWS.parent / "run"
ALL = (Delivery.RUN, *BOTH)
PLACE = PLACES / place_name("qemu", BUILD_ID)
STARTED = process(place=PLACE, no_run="")


def test_guest_that_looks_in_its_directory_is_protected_by_it() -> None:
    item = decided(STARTED, OWN, deliveries=ALL)
    assert (item.deliver, item.otherwise) == (Delivery.RUN, Delivery.ENVIRONMENT)
    assert decided(process(), OWN, deliveries=ALL).deliver is Delivery.ENVIRONMENT


def test_guest_that_is_led_to_a_view_is_protected_by_run() -> None:
    item = decided(replace(STARTED, replaced=True, chosen=(HELD.view,)), WRONG, HELD, aim=Aim.LOOK)
    assert (item.state, item.delivery, item.snapshot) == (
        State.PROTECTED,
        Delivery.RUN,
        "qemu-held",
    )


def test_guest_whose_directory_leads_nowhere_finds_what_is_on_disk() -> None:
    assert decided(STARTED, OWN, aim=Aim.LOOK).state is State.CURRENT
    assert decided(STARTED, WRONG, aim=Aim.LOOK).state is State.AT_RISK


@pytest.mark.parametrize(
    ("guest", "aim", "reason"),
    [
        (process(), Aim.PROTECT, "it was not started by `holdover run`"),
        (replace(STARTED, build=other_build()), Aim.PROTECT, "it was started for another build"),
        (replace(STARTED, library_path="/opt"), Aim.PROTECT, "it was started for another build"),
        (replace(STARTED, no_run="it is hidden"), Aim.PROTECT, "it is hidden"),
        (STARTED, Aim.DEFUSE, "that would be for all guests of its build"),
    ],
    ids=["plain", "other build", "other library path", "hidden", "defuse"],
)
def test_why_a_guest_is_not_protected_by_run(guest: Process, aim: Aim, reason: str) -> None:
    on_disk = modules("block-rbd", stamp="qemu_stamp_" + "c" * 40) + OWN + WRONG
    item = decided(guest, on_disk, HELD, OTHERS, aim=aim, deliveries=(Delivery.RUN,))
    assert reason in item.problem


def led(files: tuple[str, ...], decoys: tuple[str, ...] = (), name: str = "new") -> Holding:
    return holding(snapshot(f"qemu-{name}", [held_file(f) for f in files], decoys=decoys))


@pytest.mark.parametrize(
    ("old", "new", "stays"),
    [
        (led(("block-rbd",), name="old"), led(("block-rbd", "block-ssh")), False),
        (led(("block-rbd",), ("block-ssh",), name="old"), led(("block-rbd", "block-ssh")), False),
        (led(("block-rbd", "block-ssh"), name="old"), led(("block-rbd",)), True),
        (led((), ("block-ssh",), name="old"), led(("block-rbd",)), True),
        (replace(led(("block-ssh",), name="old"), damage="gone"), led(("block-rbd",)), False),
        (led(("block-rbd",)), led(("block-rbd",)), False),
    ],
    ids=["more", "more than a decoy", "less", "a gap", "damaged", "the same"],
)
def test_directory_leads_on_only_if_nobody_misses_anything(
    old: Holding, new: Holding, stays: bool
) -> None:
    reason = in_the_way(PLACE, old.view, new, (old, new), (STARTED,))
    assert ("need qemu-old" in reason) == stays


def test_directory_stays_unused_where_another_build_would_see_it() -> None:
    stranger = process(5, place=PLACE, build=other_build())
    assert in_the_way(PLACE, None, HELD, (HELD,), (STARTED,)) == ""
    reason = in_the_way(PLACE, None, HELD, (HELD,), (STARTED, stranger))
    assert reason == "process 5 looks there too, and is of another build"
