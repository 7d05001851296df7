# SPDX-License-Identifier: Apache-2.0
"""Small programs in C that keep the name of their module directory in a variable."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from system.keeper import ARRAY, POINTER, Keeper, make_modules, started


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where they are built, and where their modules are."""
    made = tmp_path_factory.mktemp("keeper")
    make_modules(made)
    return made


@pytest.fixture
def array(place: Path) -> Iterator[Keeper]:
    with started(place, ARRAY) as keeper:
        yield keeper


@pytest.fixture
def pointer(place: Path) -> Iterator[Keeper]:
    with started(place, POINTER, "-DPOINTER") as keeper:
        yield keeper


@pytest.fixture(params=["array", "pointer"])
def keeper(request: pytest.FixtureRequest) -> Keeper:
    """Each of them."""
    found: Keeper = request.getfixturevalue(request.param)
    return found
