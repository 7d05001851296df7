# SPDX-License-Identifier: Apache-2.0
"""What docs/operations.md tells people to do for guests that were upgraded without protection."""

import pytest
from lab import Lab

from holdover.demo.guest import ATTACHED, DIED, PROBES, REFUSED, Guest

pytestmark = pytest.mark.e2e

WORKS_TWICE = (ATTACHED, ATTACHED)


def test_old_packages_that_are_put_back_save_who_did_not_fail_yet(lab: Lab) -> None:
    saved, defused, poisoned = (Guest.start(lab.root, n) for n in ("saved", "defused", "poisoned"))
    lab.upgrade()
    assert poisoned.probe("https disk") == REFUSED
    assert lab.holdover("defuse", str(defused.pid)).returncode == 0
    assert defused.probe_twice("https disk") == (REFUSED, REFUSED)
    lab.downgrade()
    assert lab.status(saved.pid)["state"] == "current"
    assert lab.status(poisoned.pid)["state"] == "poisoned"
    lab.holdover("protect")
    lab.upgrade()
    for guest in (saved, defused):
        assert lab.status(guest.pid)["state"] == "protected"
        assert {guest.probe_twice(what) for what in PROBES} == {WORKS_TWICE}
    assert poisoned.probe("ssh disk") == DIED


def test_defusing_does_not_save_who_failed_already(lab: Lab) -> None:
    """Where that is known it is left alone; here it told nobody."""
    mute = ("sh", "-c", 'exec "$@" 2>/dev/null', "sh")
    poisoned = Guest.start(lab.root, "poisoned", wrapper=mute)
    lab.upgrade()
    assert poisoned.probe("https disk") == REFUSED
    assert lab.holdover("defuse", str(poisoned.pid)).returncode == 0
    assert poisoned.probe("ssh disk") == DIED
