# SPDX-License-Identifier: Apache-2.0
"""Variables that are not what a definition says: nothing is written, and the reason is told."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from system.keeper import ARRAY, OWN, POINTER, SIZE, Keeper, started, unchanged
from system.scratch import until

from holdover.errors import HoldoverError, RefusedError, UnsupportedError, VanishedError
from holdover.programs import Variable

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
]


@pytest.mark.parametrize("option", ["-DHIDDEN", "-DFUNCTION", "-DCONSTANT"])
@pytest.mark.parametrize("variable", [ARRAY, POINTER], ids=["array", "pointer"])
def test_what_is_no_such_variable_is_left_alone(
    place: Path, variable: Variable, option: str
) -> None:
    with started(place, variable, option) as keeper, unchanged(keeper):
        with pytest.raises(UnsupportedError, match="module_dir"):
            keeper.point_to(keeper.first)
        with pytest.raises(UnsupportedError, match="module_dir"):
            keeper.take_back()


@pytest.mark.parametrize("size", [SIZE - 8, SIZE + 8, 2 * SIZE])
def test_array_of_another_size_is_another_variable(array: Keeper, size: int) -> None:
    array.variable = replace(ARRAY, size=size)
    with unchanged(array), pytest.raises(UnsupportedError, match=f"256 bytes, and {size}"):
        array.point_to(array.first)


def test_array_is_no_pointer_and_a_pointer_is_no_array(array: Keeper, pointer: Keeper) -> None:
    array.variable, pointer.variable = POINTER, ARRAY
    for keeper in (array, pointer):
        with unchanged(keeper), pytest.raises(UnsupportedError, match="were expected"):
            keeper.point_to(keeper.first)


@pytest.mark.parametrize("address", [0, 1, 0x1000, 2**47, 2**63 + 8, 2**64 - 1])
def test_pointer_to_nothing_is_left_alone(pointer: Keeper, address: int) -> None:
    pointer.ask(f"point {address}")
    with unchanged(pointer), pytest.raises(HoldoverError):
        pointer.point_to(pointer.first)


def test_pointer_to_a_text_without_end_is_left_alone(pointer: Keeper) -> None:
    pointer.start_with("/" + "x" * 4000)
    with unchanged(pointer), pytest.raises(HoldoverError):
        pointer.point_to(pointer.first)


def test_array_without_an_end_is_left_alone(array: Keeper) -> None:
    array.ask(f"point {ord('/')}")
    with unchanged(array), pytest.raises(HoldoverError, match="no end"):
        array.point_to(array.first)


@pytest.mark.parametrize("name", ["/nowhere", "{own}/module.so", "/dev/null"])
def test_name_of_no_directory_is_left_alone(keeper: Keeper, name: str) -> None:
    keeper.start_with(name.format(own=keeper.own))
    with unchanged(keeper), pytest.raises(RefusedError, match="is no directory"):
        keeper.point_to(keeper.first)


@pytest.mark.parametrize("name", ["relative", "-", "/tmp"])
def test_value_that_does_not_match_is_left_alone(keeper: Keeper, name: str) -> None:
    keeper.start_with(name)
    keeper.variable = replace(keeper.variable, value=re.compile(rb"/(?!tmp).*"))
    with unchanged(keeper), pytest.raises(UnsupportedError, match="no module directory's name"):
        keeper.point_to(keeper.first)


def test_view_that_is_not_to_be_reached_is_refused(keeper: Keeper) -> None:
    with unchanged(keeper), pytest.raises(RefusedError, match="cannot be reached"):
        keeper.point_to(Path("/nowhere/at/all"))


def test_array_without_room_is_left_alone(array: Keeper) -> None:
    for length in (SIZE - 1, SIZE - 2, SIZE - 20):
        array.start_with(str(array.own) + "/." * ((length - len(str(array.own))) // 2))
        with unchanged(array), pytest.raises(UnsupportedError, match="room|aligned"):
            array.point_to(array.first)
        assert array.load() == OWN


def test_short_name_at_the_begin_of_an_odd_array_is_left_alone(place: Path) -> None:
    """The word that would have to be stored begins before the array."""
    with started(place, ARRAY, "-DARRAY_AT=3") as keeper:
        keeper.start_with("/tmp")
        with unchanged(keeper), pytest.raises(UnsupportedError, match="aligned"):
            keeper.point_to(keeper.first)


def test_pointer_at_an_odd_address_is_left_alone(place: Path) -> None:
    with started(place, POINTER, "-DODD_POINTER") as keeper:
        with unchanged(keeper), pytest.raises(HoldoverError, match="aligned"):
            keeper.point_to(keeper.first)
        assert keeper.load() == OWN


def test_process_that_ended_has_vanished(keeper: Keeper) -> None:
    keeper.point_to(keeper.first)
    keeper.signal(signal.SIGKILL)
    until(lambda: keeper.state() == "Z")
    with pytest.raises(VanishedError):
        keeper.take_back()
