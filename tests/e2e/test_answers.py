# SPDX-License-Identifier: Apache-2.0
"""Every command answers in JSON as its schema promises, about a guest and about nothing."""

import pytest
from lab import Lab
from unit.schemas import schemas

from holdover.demo.guest import Guest

pytestmark = pytest.mark.e2e

TOLD_ELSEWHERE = {"demo"}
"""The story is minutes long, and `make demo` tells it."""

ABOUT_A_GUEST = (
    "status",
    "status {pid} -v",
    "explain {pid}",
    "preview",
    "protect --dry-run",
    "protect",
    "protect --dry-run {pid}",
    "status",
    "rehearse {pid}",
    "list",
    "show {snapshot}",
    "pin {snapshot}",
    "list",
    "unpin {snapshot}",
    "release {pid} --force",
    "gc --dry-run",
    "gc",
    "defuse {pid} --dry-run",
    "defuse {pid}",
    "rescue {pid}",
    "enable",
    "enable --refresh",
    "doctor",
    "disable",
    "release {pid} --force",
    "protect",
    "disable --release",
)
ABOUT_NOTHING = (
    "status",
    "protect",
    "protect --dry-run",
    "list",
    "gc",
    "preview",
    "rescue --all",
    "disable --release",
)


def test_no_command_is_left_out() -> None:
    printed = {name for schema in schemas().values() for name in schema.get("x-commands", ())}
    assert printed - TOLD_ELSEWHERE == {line.split()[0] for line in ABOUT_A_GUEST}


def test_every_command_answers_as_promised(lab: Lab) -> None:
    guest = Guest.start(lab.root, "web01")
    for line in ABOUT_A_GUEST:
        held = lab.held()
        place = {"pid": guest.pid, "snapshot": held[0]["id"] if held else ""}
        command, *words = line.format(**place).split()
        answer = lab.json(command, *words)  # fails unless it keeps to its schema
        assert command in schemas()[answer["schema"]]["x-commands"]


def test_every_command_answers_where_nothing_runs(lab: Lab) -> None:
    for line in ABOUT_NOTHING:
        answer = lab.json(*line.split())
        assert not answer.get("processes")
        assert not answer.get("snapshots")
