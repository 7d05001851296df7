# SPDX-License-Identifier: Apache-2.0
"""The store's records as JSON: manifests, leases, what rehearsals showed. Read with distrust."""

import json
from pathlib import Path
from typing import Any

from holdover.errors import DamagedError
from holdover.model import HeldFile, Lease, ProcessId, Purpose, Snapshot

__all__ = ["SCHEMA", "RECORD", "parse_manifest", "parse_record", "parse_lease", "unknown_snapshot"]

SCHEMA = "holdover.snapshot/1"
RECORD = "holdover.rehearsal-record/1"


def parse_manifest(path: Path) -> Snapshot:
    data = _read_json(path)
    try:
        if data.pop("schema") != SCHEMA:
            raise DamagedError(f"{path} was written by another version of holdover")
        files = tuple(HeldFile(**entry) for entry in data.pop("files"))
        purpose = Purpose(data.pop("purpose"))
        unheld = tuple((str(name), str(reason)) for name, reason in data.pop("unheld", ()))
        decoys = tuple(data.pop("decoys"))
        return Snapshot(purpose=purpose, files=files, decoys=decoys, unheld=unheld, **data)
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{path} is no manifest: {error!r}") from error


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
    """What counts is in the name; a lease whose content is damaged is one all the same."""
    pid, start_time, snapshot = path.name.split("-", 2)
    process = ProcessId(int(pid), int(start_time))
    try:
        data = _read_json(path)
        world = str(data.get("boot", "")), str(data.get("namespaces", ""))
        return Lease(process, snapshot, str(data["name"]), str(data["delivery"]), *world)
    except (DamagedError, KeyError):
        return Lease(process, snapshot, "", "")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DamagedError(f"{path} cannot be parsed: {error}") from error
    if not isinstance(data, dict):
        raise DamagedError(f"{path} cannot be parsed: not an object")
    return data
