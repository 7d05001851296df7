# SPDX-License-Identifier: Apache-2.0
"""The store's records as JSON: manifests, leases, what rehearsals showed. Read with distrust."""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from holdover.errors import DamagedError
from holdover.held import HeldFile, Lease, Purpose, Snapshot
from holdover.identity import ProcessId

__all__ = ["SCHEMA", "RECORD", "parse_manifest", "parse_record", "parse_lease", "unknown_snapshot"]

SCHEMA = "holdover.snapshot/1"
RECORD = "holdover.rehearsal-record/1"
_MAX = 1 << 22  # bytes; a manifest of two hundred modules has a hundred thousand
_NUMBERS = ("size", "mtime_ns")
_LEASE = re.compile(r"([0-9]{1,19})-([0-9]{1,19})-(.*)", re.DOTALL)


def parse_manifest(path: Path) -> Snapshot:
    """Raises `DamagedError`, and `OSError` if there is none."""
    data = _read_json(path)
    try:
        if data.pop("schema") != SCHEMA:
            raise DamagedError(f"{path} was written by another version of holdover")
        files = tuple(_held_file(entry) for entry in data.pop("files"))
        purpose = Purpose(data.pop("purpose"))
        unheld = tuple((str(name), str(reason)) for name, reason in data.pop("unheld", ()))
        decoys = tuple(map(_text, data.pop("decoys")))
        texts = {key: _text(value) for key, value in data.items()}
        snapshot = Snapshot(purpose=purpose, files=files, decoys=decoys, unheld=unheld, **texts)
        _check_time(snapshot.created)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{path} is no manifest: {error!r:.200}") from error
    if snapshot.id != path.stem:
        raise DamagedError(f"{path} is the manifest of another snapshot")
    return snapshot


def _held_file(entry: Mapping[str, object]) -> HeldFile:
    """Raises `ValueError` for a path that leads out of the view."""
    values: dict[str, Any] = {
        key: _number(value) if key in _NUMBERS else _text(value) for key, value in entry.items()
    }
    held = HeldFile(**values)
    if held.path.startswith("/") or ".." in held.path.split("/"):
        raise ValueError(held.path)
    return held


def _text(value: object) -> str:
    """One that a file can have as its name: everything here is, or becomes a part of one."""
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(value)
    value.encode("utf-8", "surrogateescape")
    return value


def _check_time(text: str) -> None:
    """Times are compared as texts, and counted from; raises `ValueError`."""
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(text)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(value)
    return value


def parse_record(path: Path) -> str:
    """What did not load when it was last tried; a record that cannot be read is no good news."""
    try:
        data = _read_json(path)
        return str(data["failure"]) if data["schema"] == RECORD else "it was of another version"
    except FileNotFoundError:
        return ""
    except (DamagedError, KeyError):
        return "its record cannot be read"


def unknown_snapshot(snapshot_id: str) -> Snapshot:
    """What a manifest stands for that cannot be read: kept, and delivered to nobody."""
    return Snapshot(snapshot_id, Purpose.HOLD, "", "", "", "", "", (), ())


def parse_lease(path: Path) -> Lease:
    """What counts is in the name; a lease whose content is damaged is one all the same.

    Raises `DamagedError` for a name that no lease has, and `OSError`.
    """
    named = _LEASE.fullmatch(path.name)
    if named is None:
        raise DamagedError(f"{path} is no lease")
    process, snapshot = ProcessId(int(named[1]), int(named[2])), named[3]
    try:
        data = _read_json(path)
        world = str(data.get("boot", "")), str(data.get("namespaces", ""))
        return Lease(process, snapshot, str(data["name"]), str(data["delivery"]), *world)
    except (DamagedError, KeyError):
        return Lease(process, snapshot, "", "")


def _read_json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content = file.read(_MAX + 1)
    try:
        if len(content) > _MAX:
            raise ValueError("too long")
        data = json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be parsed: {error}") from error
    if not isinstance(data, dict):
        raise DamagedError(f"{path} cannot be parsed: not an object")
    return data
