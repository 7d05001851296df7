# SPDX-License-Identifier: Apache-2.0
"""What a package manager says on stdin, and one that does not come to an end."""

import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from holdover.cli import listing
from holdover.cli.listing import Listing
from holdover.errors import UsageError


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def test_a_list_is_read_to_its_end(pipe: tuple[int, int]) -> None:
    said = b"VERSION 3\n" * 100_000

    def write() -> None:
        with open(os.dup(pipe[1]), "wb") as file:
            file.write(said)
        os.close(pipe[1])

    writer = threading.Thread(target=write)
    writer.start()
    assert Listing(pipe[0]).read(10) == said
    writer.join()


def test_a_list_without_an_end_is_not_waited_for(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"VERSION 3\n")
    with pytest.raises(UsageError, match="did not end"):
        Listing(pipe[0]).read(0.1)


def test_a_list_that_is_too_long_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_MAX_INPUT", 1000)
    with open("/dev/zero", "rb") as endless, pytest.raises(UsageError, match="no end"):
        Listing(endless.fileno()).read(10)


def test_what_was_said_before_is_not_lost(pipe: tuple[int, int]) -> None:
    heard = Listing(pipe[0])
    os.write(pipe[1], b"VERSION ")
    assert not heard.ends_within(0.05)
    os.write(pipe[1], b"3\n")
    os.close(pipe[1])
    assert heard.ends_within(10)
    assert heard.read(0) == b"VERSION 3\n"
