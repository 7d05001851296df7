# SPDX-License-Identifier: Apache-2.0
"""What a log says about a load that failed for good, and what it leaves open."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.complaints import Log, Said, failed_load, of_this_run
from holdover.errors import UnreadableError
from holdover.programs import load_programs

QEMU = next(p for p in load_programs() if p.name == "qemu")
assert QEMU.poison is not None
POISON = QEMU.poison
FAILED = (
    b"failed to initialize module: /usr/bin/../lib/x86_64-linux-gnu/qemu/block-curl.so\n"
    b"Only modules from the same build can be loaded.\n"
)
HARMLESS = b"failed to open module: /usr/lib/qemu/block-curl.so: file too short\n"
STARTED = 1_700_000_000.0


def start(seconds: float) -> bytes:
    """As libvirt writes it."""
    when = datetime.fromtimestamp(seconds, UTC).isoformat(" ", "milliseconds")
    line = f"{when.replace('+00:00', '+0000')}: starting up libvirt version: 9.0.0, package: x\n"
    return line.encode() + b"LC_ALL=C \\\n/usr/bin/qemu-system-x86_64\n"


@pytest.mark.parametrize(
    ("text", "module"),
    [
        (b"", ""),
        (HARMLESS, ""),
        (FAILED, "block-curl"),
        (HARMLESS + FAILED, "block-curl"),
        (b"2026-11-25T04:39:00Z qemu-kvm: " + FAILED.replace(b"f", b"F", 1), "block-curl"),
        (b"failed to initialize module: hw-usb-host.so\r\n", "hw-usb-host"),
        (b"failed to initialize module: /\n", "a module"),
    ],
)
def test_only_a_module_that_was_refused_after_its_load_poisons(text: bytes, module: str) -> None:
    assert failed_load(Said(text, own=True), POISON) == (module, "")


def test_what_may_be_an_earlier_run_is_doubt() -> None:
    doubt = "its log tells that block-curl failed, perhaps in an earlier run"
    assert failed_load(Said(FAILED, own=False), POISON) == ("", doubt)


def test_what_is_missing_counts_only_where_nothing_was_found() -> None:
    assert failed_load(Said(b"", True, "it was cut"), POISON) == ("", "it was cut")
    assert failed_load(Said(FAILED, True, "it was cut"), POISON) == ("block-curl", "")


@given(st.binary())
def test_whatever_a_log_holds_the_name_is_short(text: bytes) -> None:
    name, _ = failed_load(Said(FAILED[:29] + text, own=True), POISON)
    assert len(name) <= 80
    assert "\n" not in name


@pytest.mark.parametrize(
    ("version", "dies"),
    [
        ("5.2.0 (Debian 1:5.2+dfsg-11+deb11u5)", False),
        ("7.1.0 (Debian 1:7.1+dfsg-2)", False),
        ("7.2.0", True),
        ("7.2.18 (Debian 1:7.2+dfsg-7+deb12u15)", True),
        ("10.0.2 (Debian 1:10.0.2+ds-2)", True),
        ("", True),
    ],
)
def test_before_7_2_no_failed_load_kills(version: str, dies: bool) -> None:
    assert POISON.concerns(version) is dies


# -- the log of several runs -----------------------------------------------------------------------


def test_a_run_is_what_follows_its_start() -> None:
    log = start(STARTED - 5000) + FAILED + start(STARTED - 0.2) + HARMLESS
    own = of_this_run(log, QEMU.logs, STARTED)
    assert own is not None
    assert own.endswith(HARMLESS)
    assert FAILED not in own


def test_a_log_that_was_rotated_tells_of_no_start() -> None:
    assert of_this_run(FAILED, QEMU.logs, STARTED) is None


@pytest.mark.parametrize("other", [STARTED - 3600, STARTED + 3600])
def test_the_last_start_may_be_that_of_another_of_that_name(other: float) -> None:
    with pytest.raises(UnreadableError, match="not its own"):
        of_this_run(start(STARTED) + FAILED + start(other), QEMU.logs, STARTED)


def test_a_start_at_no_time_is_nobodys() -> None:
    log = b"2026-13-45 99:99:99.000+0000: starting up libvirt version: 9.0.0\n"
    with pytest.raises(UnreadableError, match="not its own"):
        of_this_run(log, QEMU.logs, STARTED)


def test_start_at_a_time_that_no_clock_has_is_anothers() -> None:
    log = Log("/x/{}", re.compile(rb"\n(\S+): started"))
    with pytest.raises(UnreadableError, match="not its own"):
        of_this_run(b"0001-01-01T00:00:00: started", [log], STARTED)
