# SPDX-License-Identifier: Apache-2.0
"""What `make bench` reads of a busy guest and its threads."""

import mmap
import struct

import pytest

from benchmarks.busy import BOOT_SECTOR, Notes
from benchmarks.halts import is_stopped
from benchmarks.repeated import quantile
from benchmarks.threads import Counts, grown, parse_counts
from holdover.errors import CommandError

STATUS = "Name:\tx\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t3\n"


def notes(*words: int, sign: bytes = b"BUSY") -> Notes:
    memory = mmap.mmap(-1, 1 << 16)
    longest, reading, count, stood = words
    memory[0x8000:0x8014] = struct.pack("<3I4sI", longest, reading, count, sign, stood)
    return Notes(memory)


def test_the_boot_sector_is_one() -> None:
    assert len(BOOT_SECTOR) == 512
    assert BOOT_SECTOR.endswith(b"\x55\xaa")


def test_its_jumps_lead_where_instructions_begin() -> None:
    first, again = (at for at in range(510) if BOOT_SECTOR.startswith(b"\x0f\x31", at))
    shorter = BOOT_SECTOR.index(bytes.fromhex("663d"), again)
    assert first < again
    for opcode, target in ((b"\x76\x04", shorter), (b"\x72", again), (b"\xeb", again)):
        at = BOOT_SECTOR.index(opcode, again)
        assert at + 2 + struct.unpack_from("b", BOOT_SECTOR, at + 1)[0] == target


def test_notes_are_read_and_the_longest_gap_is_forgotten() -> None:
    seen = notes(5, 6, 7, 8)
    assert (seen.longest, seen.reading, seen.count, seen.stood, seen.begun) == (5, 6, 7, 8, True)
    seen.forget()
    assert (seen.longest, seen.reading, seen.count, seen.stood, seen.begun) == (0, 6, 7, 8, True)


def test_memory_without_the_sign_has_no_notes() -> None:
    assert not notes(5, 6, 7, 8, sign=bytes(4)).begun


@pytest.mark.parametrize(
    ("stat", "stopped"),
    [
        (b"1 (qemu) R 0 0", False),
        (b"1 (qemu) S 0 0", False),
        (b"1 (qemu) T 0 0", True),
        (b"1 (qemu) t 0 0", True),
        (b"1 (a) t (b) R 0 0", False),
    ],
)
def test_whether_a_thread_is_stopped(stat: bytes, stopped: bool) -> None:
    assert is_stopped(stat) is stopped


def test_what_the_kernel_counts_of_a_thread() -> None:
    assert parse_counts(STATUS, "1 2000000000 3\n") == Counts(7, 3, 2.0)


@pytest.mark.parametrize(("status", "schedstat"), [("", "1 2 3"), (STATUS, ""), (STATUS, "1 x 3")])
def test_what_it_does_not_count_is_an_error(status: str, schedstat: str) -> None:
    with pytest.raises(CommandError):
        parse_counts(status, schedstat)


def test_threads_that_came_or_went_have_not_grown() -> None:
    before = {(1, "main"): Counts(1, 1, 1.0), (2, "worker"): Counts(9, 9, 9.0)}
    after = {(1, "main"): Counts(3, 2, 1.5), (3, "worker"): Counts(9, 9, 9.0)}
    assert grown(before, after) == {"main": Counts(2, 1, 0.5)}


def test_threads_of_one_name_are_added() -> None:
    before = {(1, "worker"): Counts(1, 0, 0.0), (2, "worker"): Counts(1, 0, 0.0)}
    after = {(1, "worker"): Counts(2, 0, 0.0), (2, "worker"): Counts(3, 0, 0.0)}
    assert grown(before, after) == {"worker": Counts(3, 0, 0.0)}


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.75, 3.0), (1.0, 4.0)]
)
def test_a_quantile_is_one_of_the_values(share: float, value: float) -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], share) == value
