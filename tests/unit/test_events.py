# SPDX-License-Identifier: Apache-2.0
"""What becomes of results in the log."""

import re
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from unit.factories import process, snapshot

from holdover.cli import events
from holdover.cli.timer import _news
from holdover.journal import Entry
from holdover.model import Delivery, Item, Outcome, Result, State, Unreadable
from holdover.steps.collect import Collected

DOCUMENT = Path(__file__).parents[2] / "docs/journal.md"
HELD = snapshot().id
PROTECTED = Outcome(
    *(process(), State.PROTECTED, "31 modules", Delivery.ENVIRONMENT, HELD), changed=True
)
FAILED = Outcome(process(), State.AT_RISK, "its modules are gone", failed=True)


def kinds(result: Result) -> list[str]:
    names = {kind.id: kind.name for kind in events.KINDS}
    return [names[entry.id] for entry in events.of_result(result)]


def test_identifiers_are_those_that_were_given_out() -> None:
    """For ever: people look for them."""
    assert {kind.name: kind.id for kind in events.KINDS} == {
        "protected": "b946be0bd003408cba962f085ef6882a",
        "defused": "fcad85176d694b03af6b50063abe3037",
        "preloaded": "13ad3d5b2c6b4b46b1d726dfb1404f83",
        "not-protected": "9be51aa438c34956aa12501fb22e0ec6",
        "released": "82f4ba9e56514693a5ab911477993673",
        "snapshot-taken": "acc7d2212fec4721bdf04f6e6c8a9246",
        "snapshot-removed": "4dd5a9e811c848519729414e3b7c0f73",
        "hook-gave-up": "6847d590803744b7aeb55fc528f522fa",
        "hook-failed": "333968e8c19e406b95cc1124cc032119",
        "vetoed": "8027ce3b495e48889e33f6b3aefd6766",
    }


def test_the_catalogue_that_is_shipped_is_made_of_the_table() -> None:
    shipped = files("holdover").joinpath("data/catalog/holdover.catalog").read_text()
    assert shipped == events.catalogue()


@pytest.mark.parametrize("kind", events.KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_in_the_documentation(kind: events.Kind) -> None:
    row = f"| `{kind.name}` | `{kind.id}` | {kind.priority} | {kind.subject} |"
    assert row in DOCUMENT.read_text()


def test_each_field_is_in_the_documentation() -> None:
    entries = [
        *events.of_result(
            Result((PROTECTED,), ("problem",), (Unreadable(1, "no", "qemu"),), (HELD,))
        ),
        events.of_hook(events.FAILED, "apt-before", "why", 1.0),
    ]
    used = {name for entry in entries for name in entry.fields}
    documented = set(re.findall(r"`(HOLDOVER_[A-Z_]+)`", DOCUMENT.read_text()))
    assert used == documented


def test_what_was_done_is_told_and_nothing_about_the_others() -> None:
    untouched = Outcome(process(1), State.CURRENT, "the modules on disk are its own")
    assert kinds(Result((PROTECTED, untouched), taken=(HELD,))) == ["snapshot-taken", "protected"]
    assert kinds(Result(())) == []


def test_each_outcome_has_its_kind() -> None:
    defused = Outcome(
        *(process(), State.DEFUSED, "refused", Delivery.ENVIRONMENT, HELD), changed=True
    )
    released = Outcome(process(), State.CURRENT, "its own", changed=True)
    said = kinds(Result((defused, FAILED, released)))
    assert said == ["defused", "not-protected", "released"]


def test_an_entry_says_who_and_why() -> None:
    (entry,) = events.of_outcome(PROTECTED)
    assert entry.text == "guest4711 (4711) is protected: 31 modules"
    fields = {name.removeprefix("HOLDOVER_"): value for name, value in entry.fields.items()}
    assert fields == {
        "PID": "4711",
        "START_TIME": "123456",
        "GUEST": "guest4711",
        "PROGRAM": "qemu",
        "BUILD_ID": "aa" * 20,
        "STATE": "protected",
        "REASON": "31 modules",
        "DELIVERY": "environment",
        "SNAPSHOT": HELD,
    }


def test_processes_that_cannot_be_read_are_told_if_they_are_ours() -> None:
    result = Result((), (), (Unreadable(1, "no", "qemu"), Unreadable(2, "no")))
    (entry,) = events.of_result(result)
    assert entry.fields["HOLDOVER_PID"] == "1"
    assert entry.fields["HOLDOVER_STATE"] == "unreadable"


def test_a_hostile_name_is_one_line_of_text() -> None:
    evil = Outcome(process(name="a\x1b[2J\nb"), State.AT_RISK, "gone", failed=True)
    (entry,) = events.of_outcome(evil)
    assert entry.text.isprintable()
    assert entry.fields["HOLDOVER_GUEST"] == "a\x1b[2J\nb"


def test_who_is_seen_to_be_at_risk_is_told() -> None:
    items = (Item(process(1), State.AT_RISK, "hidden"), Item(process(2), State.PROTECTED, "held"))
    (entry,) = events.of_risks(items)
    assert (entry.id, entry.fields["HOLDOVER_PID"]) == (events.NOT_PROTECTED.id, "1")


def test_who_is_poisoned_is_told_whether_something_was_tried_or_not() -> None:
    poisoned = Outcome(process(), State.POISONED, "attach nothing")
    (tried,) = events.of_outcome(poisoned)
    (seen,) = events.of_risks([Item(process(), State.POISONED, "attach nothing")])
    assert tried.text == seen.text == "guest4711 (4711) is not protected: attach nothing"
    assert tried.fields["HOLDOVER_STATE"] == "poisoned"
    (released,) = events.of_outcome(replace(poisoned, changed=True))
    assert released.id == events.RELEASED.id


def test_what_was_let_go_is_told() -> None:
    (entry,) = events.of_collected(Collected((), (HELD,), 12))
    assert (entry.id, entry.fields["HOLDOVER_SNAPSHOT"]) == (events.REMOVED.id, HELD)


# -- the timer tells only what is new --------------------------------------------------------------


def entries(*outcomes: Outcome) -> list[Entry]:
    return [entry for outcome in outcomes for entry in events.of_outcome(outcome)]


def test_the_same_risk_is_told_once(tmp_path: Path) -> None:
    told = tmp_path / "hooks/told"
    other = Outcome(process(7), State.AT_RISK, "its modules are gone", failed=True)
    assert _news(entries(FAILED), told) == entries(FAILED)
    assert _news(entries(FAILED, PROTECTED), told) == entries(PROTECTED)
    assert _news(entries(FAILED, other), told) == entries(other)


def test_a_risk_that_came_again_is_told_again(tmp_path: Path) -> None:
    told = tmp_path / "told"
    _news(entries(FAILED), told)
    assert _news([], told) == []
    assert _news(entries(FAILED), told) == entries(FAILED)


def test_garbage_in_the_record_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "told").write_bytes(b"\xff\0")
    assert _news(entries(FAILED), tmp_path / "told") == entries(FAILED)
