# SPDX-License-Identifier: Apache-2.0
"""Pointers and strings of another process, in a file that looks like its memory."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.errors import MalformedError
from holdover.memory import Contents, Memory
from holdover.procfs import ProcFs

PID, PAGE = 42, 4096
SIZE = 4 * PAGE
MOST = 2000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("proc") / str(PID)
    directory.mkdir()
    return directory / "mem"


@pytest.fixture
def memory(place: Path) -> Iterator[Memory]:
    place.write_bytes(bytes(SIZE))
    with Memory(ProcFs(place.parents[1]), PID, writable=True) as opened:
        yield opened


def remember(place: Path, at: int, content: bytes) -> Memory:
    place.write_bytes((bytes(at) + content).ljust(SIZE, b"\0"))
    return Memory(ProcFs(place.parents[1]), PID)


@given(at=st.integers(0, PAGE + 9), values=st.lists(st.integers(1, 2**64 - 1), max_size=1100))
def test_pointers_are_read_up_to_the_first_that_is_null(
    place: Path, at: int, values: list[int]
) -> None:
    with remember(place, at, struct.pack(f"<{len(values)}Q", *values)) as memory:
        assert memory.ask(Contents.read_pointers, at, MOST) == values


TEXTS = st.binary(max_size=2000).map(lambda text: text.replace(b"\0", b""))


@given(at=st.integers(0, PAGE + 9), texts=st.lists(TEXTS, max_size=5))
def test_strings_are_read_wherever_pages_end(place: Path, at: int, texts: list[bytes]) -> None:
    starts = [at + sum(len(text) + 1 for text in texts[:n]) for n in range(len(texts))]
    with remember(place, at, b"".join(text + b"\0" for text in texts)) as memory:
        assert memory.ask(Contents.read_strings, starts) == texts
        assert memory.ask(Contents.read_strings, starts[::-1]) == texts[::-1]


def test_pointers_without_an_end_are_malformed(memory: Memory) -> None:
    memory.write(0, b"\1" * SIZE)
    with pytest.raises(MalformedError, match="more than 100 pointers"):
        memory.ask(Contents.read_pointers, 0, 100)


def test_string_that_is_longer_than_any_is_malformed(memory: Memory, place: Path) -> None:
    place.write_bytes(b"x" * 40 * PAGE)
    with pytest.raises(MalformedError, match="has no end"):
        memory.ask(Contents.read_strings, [5])


def test_strings_that_overlap_do_not_add_up_without_end(tmp_path: Path) -> None:
    """As many as an environment may have, all of them the same one."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1/mem").write_bytes(b"A" * 100_000 + bytes(5000))
    with (
        Memory(ProcFs(tmp_path), 1) as memory,
        pytest.raises(MalformedError, match="have no end"),
    ):
        memory.ask(Contents.read_strings, [0] * 65536)
