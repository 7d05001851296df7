# SPDX-License-Identifier: Apache-2.0
"""What other tools may rely on in the JSON answers, checked key by key. Source: DESIGN.md, 7."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["check_status", "check_list", "Kinds"]

Kinds = Mapping[str, type | tuple[type, ...]]
"""For each key of an object the types that its value may have."""

STATES = ("current", "protected", "defused", "at-risk", "poisoned", "unsupported", "unreadable")
DELIVERIES = ("environment", "mount", "variable", "fallback-dir", "preload", "run")
MODULE_STATES = ("loaded", "loads", "blocked")
NOTHING = type(None)

STATUS: Kinds = {
    "schema": str,
    "host": dict,
    "processes": list,
    "foreign": int,
    "unreadable": list,
}
PROCESS: Kinds = {
    "pid": int,
    "start_time": int,
    "program": str,
    "name": str,
    "executable": str,
    "build_id": str,
    "stamp": (str, NOTHING),
    "version": str,
    "state": str,
    "delivery": (str, NOTHING),
    "snapshot": (str, NOTHING),
    "reason": str,
    "modules": list,
}
MODULE: Kinds = {"name": str, "state": str, "reason": str}
UNREADABLE: Kinds = {"pid": int, "reason": str, "program": str}
LIST: Kinds = {"schema": str, "snapshots": list}
SNAPSHOT: Kinds = {
    "id": str,
    "program": str,
    "build_id": str,
    "version": str,
    "created": str,
    "files": int,
    "bytes_held": int,
    "bytes_written": int,
    "pinned": bool,
    "leases": list,
}
LEASE: Kinds = {"pid": int, "start_time": int, "name": str}


def check_status(answer: Any) -> None:
    """Fails unless `answer` is exactly what `status --json` promises."""
    _check(answer, STATUS)
    assert answer["schema"] == "holdover.status/1"
    _check(answer["host"], {"boot_id": str})
    assert answer["foreign"] >= 0
    for process in answer["processes"]:
        _check_process(process)
    for entry in answer["unreadable"]:
        _check(entry, UNREADABLE)
        assert entry["reason"]


def _check_process(process: Any) -> None:
    _check(process, PROCESS)
    assert process["pid"] > 0
    assert process["start_time"] >= 0
    assert process["state"] in STATES
    assert process["delivery"] in (None, *DELIVERIES)
    assert (process["delivery"] is None) == (process["snapshot"] is None)
    assert process["delivery"] or process["state"] not in ("protected", "defused")
    assert process["reason"]
    for module in process["modules"]:
        _check(module, MODULE)
        assert module["state"] in MODULE_STATES
        assert module["reason"] or module["state"] != "blocked"
    names = [module["name"] for module in process["modules"]]
    assert len(names) == len(set(names))


def check_list(answer: Any) -> None:
    """Fails unless `answer` is exactly what `list --json` promises."""
    _check(answer, LIST)
    assert answer["schema"] == "holdover.list/1"
    for snapshot in answer["snapshots"]:
        _check(snapshot, SNAPSHOT)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", snapshot["created"])
        assert min(snapshot[key] for key in ("files", "bytes_held", "bytes_written")) >= 0
        for lease in snapshot["leases"]:
            _check(lease, LEASE)


def _check(value: Any, kinds: Kinds) -> None:
    """An object with these keys, no others, and values of these types; a bool is no number."""
    assert isinstance(value, dict), value
    assert value.keys() == kinds.keys()
    for key, kind in kinds.items():
        allowed = kind if isinstance(kind, tuple) else (kind,)
        assert type(value[key]) in allowed, f"{key} is {value[key]!r}"
