# SPDX-License-Identifier: Apache-2.0
"""The bytes of a half: what a process meets that walks the new environment, or the old one."""

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.environ import Half, array_image, room_needed

AREA = 0x5555_0000_1000
ADDRESSES = st.integers(1, 2**64 - 1)
ENTRIES = st.lists(ADDRESSES, max_size=60).map(tuple)
NAMES = st.text(alphabet="ABC_", min_size=1, max_size=20)
VALUES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80
) | st.just("/a\udcff")
SPARE = st.integers(0, 1024)


def half_of(size: int) -> Half:
    return Half(AREA, AREA + 8, size)


def string_of(name: str, value: str) -> bytes:
    return os.fsencode(f"{name}={value}") + b"\0"


def pointers(image: bytes, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}Q", image)


# -- room_needed -----------------------------------------------------------------------------------


@given(ENTRIES, NAMES, VALUES)
def test_the_room_needed_is_the_room_that_is_used(
    entries: tuple[int, ...], name: str, value: str
) -> None:
    string = string_of(name, value)
    need = room_needed(len(entries), name, value)
    assert need == 8 * (len(entries) + 2) + len(string)
    assert len(array_image(half_of(need), entries, string)) == need


def test_room_is_counted_in_bytes_and_not_in_characters() -> None:
    assert room_needed(0, "A", "éé") == room_needed(0, "A", "eeee")


# -- layout ----------------------------------------------------------------------------------------


@given(ENTRIES, NAMES, VALUES, SPARE)
def test_a_layout_is_exactly_as_long_as_its_half(
    entries: tuple[int, ...], name: str, value: str, spare: int
) -> None:
    half = half_of(room_needed(len(entries), name, value) + spare)
    assert len(array_image(half, entries, string_of(name, value))) == half.size


@given(ENTRIES, NAMES, VALUES, SPARE)
def test_the_pointers_come_first_in_their_order_and_end_with_zero(
    entries: tuple[int, ...], name: str, value: str, spare: int
) -> None:
    half = half_of(room_needed(len(entries), name, value) + spare)
    found = pointers(array_image(half, entries, string_of(name, value)), len(entries) + 2)
    assert found[1:] == (*entries, 0)


@given(ENTRIES, NAMES, VALUES, SPARE)
def test_the_first_pointer_leads_to_the_string_at_the_end(
    entries: tuple[int, ...], name: str, value: str, spare: int
) -> None:
    string = string_of(name, value)
    half = half_of(room_needed(len(entries), name, value) + spare)
    image = array_image(half, entries, string)
    (first,) = pointers(image, 1)
    assert half.holds(first)
    assert half.holds(first + len(string) - 1)
    assert image[first - half.start :] == string
    assert image.endswith(b"\0")


@given(ENTRIES, NAMES, VALUES, SPARE)
def test_all_between_array_and_string_is_zero(
    entries: tuple[int, ...], name: str, value: str, spare: int
) -> None:
    string = string_of(name, value)
    half = half_of(room_needed(len(entries), name, value) + spare)
    image = array_image(half, entries, string)
    between = image[8 * (len(entries) + 1) : half.size - len(string)]
    assert len(between) == 8 + spare
    assert not between.strip(b"\0")


@given(ENTRIES, SPARE)
def test_without_a_string_the_array_is_the_entries_and_nothing_else(
    entries: tuple[int, ...], spare: int
) -> None:
    half = half_of(8 * (len(entries) + 1) + spare)
    image = array_image(half, entries, b"")
    assert len(image) == half.size
    assert pointers(image, len(entries) + 1) == (*entries, 0)
    assert not image[8 * len(entries) :].strip(b"\0")


# -- Half ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "held"), [(-1, False), (0, True), (1, True), (15, True), (16, False), (17, False)]
)
def test_a_half_holds_its_bytes_and_no_others(offset: int, held: bool) -> None:
    half = half_of(16)
    assert half.holds(half.start + offset) is held


def test_an_empty_half_holds_nothing() -> None:
    half = half_of(0)
    assert not half.holds(half.start)


@given(st.integers(0, 2**64 - 1), st.integers(0, 255).map(lambda n: n * 16))
def test_no_address_is_in_both_halves(address: int, size: int) -> None:
    halves = (half_of(size), Half(AREA, AREA + 8 + size, size))
    assert sum(half.holds(address) for half in halves) <= 1
