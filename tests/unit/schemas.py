# SPDX-License-Identifier: Apache-2.0
"""What other tools may rely on: each answer against its schema, and what no schema can say."""

import functools
import json
from importlib.resources import files
from typing import Any

import jsonschema

__all__ = ["check", "schemas", "validator"]


@functools.cache
def schemas() -> dict[str, dict[str, Any]]:
    """All that come with the package, by what an answer says that it is: "holdover.status/1"."""
    directory = files("holdover") / "schemas"
    found = (json.loads(path.read_text()) for path in directory.iterdir())
    return {schema["properties"]["schema"]["const"]: schema for schema in found}


@functools.cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(schemas()[name])


def check(answer: Any) -> None:
    """Raises `AssertionError` unless `answer` is exactly what its schema promises."""
    name = answer.get("schema")
    assert name in schemas(), f"no schema is called {name!r}"
    problems = [
        f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(answer)
    ]
    assert not problems, "\n".join(problems)
    _check_names(answer.get("modules"))
    for process in answer.get("processes", ()):
        _check_delivery(process)
        _check_names(process.get("modules"))


def _check_delivery(process: Any) -> None:
    """Where there is a delivery there is a snapshot; who is said to be served has one."""
    if "delivery" in process and "snapshot" in process:
        state, delivery, of = process["state"], process["delivery"], process["snapshot"]
        assert (delivery in (None, "preload")) == (
            of is None
        ), f"delivery {delivery} of snapshot {of}"
        assert delivery or state not in ("protected", "defused"), f"{state} by delivery {delivery}"


def _check_names(modules: Any) -> None:
    """Each module once, and what would not load with its reason."""
    if not isinstance(modules, list):  # a preview only counts them
        return
    names = [module["name"] for module in modules]
    assert len(names) == len(set(names)), f"a name is there twice: {sorted(names)}"
    silent = [m["name"] for m in modules if m.get("state") == "blocked" and not m["reason"]]
    assert not silent, f"no reason for {silent}"
