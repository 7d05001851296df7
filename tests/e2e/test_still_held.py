# SPDX-License-Identifier: Apache-2.0
"""What a security officer sees: which replaced files are still here, for whom, and that they go."""

import pytest
from lab import Lab

from holdover.demo.guest import Guest

pytestmark = pytest.mark.e2e

MODULE = "/usr/lib/x86_64-linux-gnu/qemu/block-curl.so"


def replaced(lab: Lab) -> dict[str, str]:
    """Where held files were taken from that were replaced since, and what lies there."""
    (snapshot,) = lab.held()
    return {entry["origin"]: entry["now"] for entry in snapshot["replaced"]}


def test_replaced_files_are_told_with_whom_they_are_held_for_and_go_with_the_last(lab: Lab) -> None:
    one, two = Guest.start(lab.root, "one"), Guest.start(lab.root, "two")
    lab.holdover("protect")
    assert replaced(lab) == {}
    assert "REPLACED SINCE" not in lab.holdover("list", "-v").stdout
    lab.upgrade()

    assert replaced(lab)[MODULE] == "another"
    listed = lab.holdover("list", "-v").stdout
    assert "held for one, two" in listed
    (line,) = (line for line in listed.splitlines() if line.startswith(MODULE))
    assert line.endswith("another file")
    assert all(origin in listed for origin in replaced(lab))

    one.kill()
    lab.holdover("hook", "timer")
    assert [lease["name"] for lease in lab.held()[0]["leases"]] == ["two"]
    two.kill()
    views = lab.path("/usr/lib/holdover/view")
    assert list(views.iterdir())
    lab.holdover("hook", "timer")
    assert (lab.held(), list(views.iterdir())) == ([], [])
