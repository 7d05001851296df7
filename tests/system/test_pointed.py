# SPDX-License-Identifier: Apache-2.0
"""What a look at a live process tells of the variable in which it keeps its module directory."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from system.keeper import ARRAY, Keeper, make_modules, started

from holdover.model import Delivery, Process
from holdover.pointed import Pointed
from holdover.programs import load_programs

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler"),
]
PROGRAM = replace(
    next(p for p in load_programs() if p.variable), variable=ARRAY, deliveries=(Delivery.VARIABLE,)
)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    make_modules(tmp_path)
    with started(tmp_path, ARRAY) as keeper:
        yield keeper


def look(keeper: Keeper) -> Process:
    pointed = Pointed(keeper.proc, keeper.first.parent, (Delivery.VARIABLE,))
    return pointed.look(keeper.process, keeper.proc.maps(keeper.pid), PROGRAM)


def test_directory_is_the_one_that_the_variable_names(keeper: Keeper) -> None:
    seen = look(keeper)
    assert (seen.build.directories, seen.chosen, seen.no_variable) == ((keeper.own,), (), "")


def test_delivered_view_is_what_it_is_told_to_look_in(keeper: Keeper) -> None:
    keeper.point_to(keeper.first)
    seen = look(keeper)
    assert (seen.build.directories, seen.chosen) == ((keeper.own,), (keeper.first,))
    assert seen.pointed_by is Delivery.VARIABLE
    keeper.take_back()
    assert look(keeper).chosen == ()


def test_view_that_it_does_not_reach_any_more_does_not_count(keeper: Keeper) -> None:
    """The way begins in its own directory."""
    keeper.point_to(keeper.first)
    shutil.rmtree(keeper.own)
    seen = look(keeper)
    assert seen.chosen == ()
    assert "is no directory" in seen.no_variable


def test_a_directory_that_others_can_write_to_is_not_used(keeper: Keeper) -> None:
    keeper.own.chmod(0o777)
    assert "others than root can put some" in look(keeper).no_variable


def test_a_name_with_steps_up_of_its_own_is_not_trusted(keeper: Keeper) -> None:
    keeper.start_with(f"{keeper.own}/../own")
    assert "others than root can put some" in look(keeper).no_variable


def test_a_value_that_is_no_name_is_told_and_hides_nothing(keeper: Keeper) -> None:
    keeper.start_with("own")
    seen = look(keeper)
    assert "is no module directory's name" in seen.no_variable
    assert seen.chosen_known  # it is not ours, so that nothing has to be kept for it
