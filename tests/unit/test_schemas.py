# SPDX-License-Identifier: Apache-2.0
"""The JSON schemas: strict, described, in the package, and of the same words as the code."""

import argparse
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from unit.factories import (
    held_file,
    holding,
    lease,
    process,
    snapshot,
    store_below,
    take,
    write_modules,
)
from unit.schemas import check, schemas

import holdover
from holdover.cli.arguments import build_parser
from holdover.cli.protect import _result_json
from holdover.cli.snapshots import _gc_json, _show_json
from holdover.demo.guest import ATTACHED, DIED, REFUSED
from holdover.held import Purpose
from holdover.model import Delivery, Outcome, Result, State, Unreadable
from holdover.rehearsal import Proof
from holdover.steps.collect import Collected

NO_JSON = {"hook", "run"}
ON_DISK = {"holdover.snapshot/1", "holdover.rehearsal-record/1", "holdover.pin-record/1"}
NAMES = sorted(schemas())


def objects(schema: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of an object in it, with where it is."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield at, schema
        for key, value in schema.items():
            yield from objects(value, f"{at}/{key}")
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            yield from objects(value, f"{at}/{number}")


def words(schema: dict[str, Any], *way: str) -> set[str]:
    """The words that are allowed there, each with its description."""
    for key in way:
        schema = schema[key]
    assert all(choice["description"] for choice in schema["oneOf"])
    return {choice["const"] for choice in schema["oneOf"]}


# -- what they are ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_schema_is_one(name: str) -> None:
    schema = schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$comment"] == "SPDX-License-Identifier: Apache-2.0"
    title, _, version = name.removeprefix("holdover.").partition("/")
    assert schema["$id"] == f"urn:holdover:{title}:{version}"


@pytest.mark.parametrize("name", NAMES)
def test_schema_leaves_no_key_open_and_none_out(name: str) -> None:
    for at, schema in objects(schemas()[name]):
        if "properties" in schema:
            assert schema["additionalProperties"] is False, at
            assert schema["required"] == [*schema["properties"]], at
        else:
            assert isinstance(schema["additionalProperties"], dict), at


@pytest.mark.parametrize("name", NAMES)
def test_schema_describes_every_key(name: str) -> None:
    definitions = schemas()[name].get("$defs", {})
    for at, schema in objects(schemas()[name]):
        assert schema["description"], at
        for key, value in schema.get("properties", {}).items():
            meant = definitions.get(value.get("$ref", "").removeprefix("#/$defs/"), {})
            assert value.get("description") or meant["description"], f"{at}/{key}"


def test_what_several_schemas_define_is_the_same() -> None:
    seen: dict[str, Any] = {}
    for schema in schemas().values():
        for key, value in schema.get("$defs", {}).items():
            assert seen.setdefault(key, value) == value


def test_every_command_has_a_schema() -> None:
    (subparsers,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    printed = {name for schema in schemas().values() for name in schema.get("x-commands", [])}
    assert printed == set(subparsers.choices) - NO_JSON
    assert {name for name, schema in schemas().items() if "x-commands" not in schema} == ON_DISK


def test_every_format_that_the_sources_name_has_a_schema() -> None:
    sources = "".join(
        path.read_text() for path in Path(str(holdover.__file__)).parent.rglob("*.py")
    )
    named = set(re.findall(r'"(holdover\.[a-z-]+/[0-9]+)"', sources))
    assert named - {"holdover.program/1"} == set(schemas())  # definitions are TOML


# -- the words are the code's ----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_states_and_deliveries_are_those_of_the_model(name: str) -> None:
    definitions = schemas()[name].get("$defs", {})
    for key, meant in (("state", State), ("delivery", Delivery)):
        assert key not in definitions or words(definitions, key) == set(meant)


def test_other_words_are_those_of_the_code() -> None:
    all_of_them = schemas()
    module = all_of_them["holdover.rehearsal/1"]["properties"]["modules"]["items"]
    assert words(module, "properties", "result") == set(Proof)
    for name in ("holdover.show/1", "holdover.snapshot/1"):
        assert words(all_of_them[name], "properties", "purpose") == set(Purpose)
    trials = all_of_them["holdover.demo/1"]["$defs"]["trials"]["additionalProperties"]
    assert set(trials["items"]["enum"]) == {ATTACHED, REFUSED, DIED}


# -- what is stored and printed keeps to them ------------------------------------------------------


def test_what_is_stored_is_as_described(tmp_path: Path) -> None:
    store = store_below(tmp_path)
    with store.writing(1):
        taken = take(store, write_modules(tmp_path / "modules", "block-rbd"))
        store.record_rehearsal(taken.id, "block-rbd fails: no")
        store.pins.add(taken.id)
    for directory in ("snapshot", "rehearsal", "pin"):
        (path,) = (store.state / directory).iterdir()
        check(json.loads(path.read_text()))


def shown(answer: Any) -> Any:
    """As a program reads it."""
    return json.loads(json.dumps(answer, default=str))


def test_outcomes_tell_what_was_not_seen() -> None:
    unreadable = (Unreadable(7, "no rights", "qemu"),)
    result = Result((Outcome(process(), State.CURRENT, "because"),), unreadable=unreadable)
    answer = shown(_result_json(result))
    check(answer)
    assert [entry["pid"] for entry in answer["unreadable"]] == [7]


def test_snapshot_is_shown_as_described() -> None:
    held = snapshot("qemu-held", [held_file("block-rbd", "rewritten")], decoys=("block-ssh",))
    answer = shown(_show_json(holding(held), "block-rbd.so is gone"))
    check(answer)
    assert answer["damage"] == "block-rbd.so is gone"


def test_what_was_collected_is_shown_as_described() -> None:
    collected = Collected((lease(1, "qemu-a"),), ("qemu-a",), 4096)
    answer = shown(_gc_json(collected, dry_run=True))
    check(answer)
    assert answer["leases"] == [
        {"pid": 1, "start_time": 123456, "name": "guest1", "snapshot": "qemu-a"}
    ]


# -- and the check can fail ------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "schema": "holdover.outcomes/1",
    "processes": [
        {
            "pid": 1,
            "start_time": 2,
            "part_of": None,
            "name": "web01",
            "state": "protected",
            "delivery": "mount",
            "snapshot": "qemu-a",
            "reason": "31 modules of its build are held",
            "changed": True,
            "failed": False,
        }
    ],
    "unreadable": [],
}


def test_good_answer_passes() -> None:
    check(GOOD)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pid": "1"}, "pid"),
        ({"pid": True}, "pid"),
        ({"pid": 0}, "pid"),
        ({"more": 1}, "more"),
        ({"state": "fine"}, "state"),
        ({"delivery": "mail"}, "delivery"),
        ({"reason": ""}, "reason"),
        ({"snapshot": None}, "delivery mount of snapshot None"),
        ({"delivery": None, "snapshot": None}, "protected by delivery None"),
    ],
    ids=str,
)
def test_answer_that_breaks_its_promise_is_named(change: dict[str, Any], named: str) -> None:
    answer = copy.deepcopy(GOOD)
    answer["processes"][0].update(change)
    with pytest.raises(AssertionError, match=named):
        check(answer)


@pytest.mark.parametrize("change", [{"schema": "holdover.outcomes/2"}, {"unreadable": [{}]}])
def test_answer_of_another_kind_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check(GOOD | change)


@pytest.mark.parametrize("key", [*GOOD["processes"][0]])
def test_answer_without_a_key_is_named(key: str) -> None:
    answer = copy.deepcopy(GOOD)
    del answer["processes"][0][key]
    with pytest.raises(AssertionError, match=key):
        check(answer)
