# SPDX-License-Identifier: Apache-2.0
"""docs/security.md names for each threat the code that meets it and tests of that, which exist."""

import ast
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from holdover.run import ENVIRONMENT, run

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/security.md"
CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Line:
    """Of the table of threats."""

    threat: str
    where: tuple[str, ...]
    tests: tuple[str, ...]


def lines(page: str) -> list[Line]:
    """Raises `ValueError` for a line that has not these four columns."""
    table = page.partition("\n## Threats\n")[2].partition("\n## ")[0]
    rows = [row.strip("|").split(" | ") for row in table.splitlines() if row.startswith("| ")]
    found = []
    for threat, _, where, tests in rows[1:]:
        found.append(Line(threat.strip(), *(tuple(CODE.findall(text)) for text in (where, tests))))
    return found


@cache
def names_in(path: str) -> frozenset[str]:
    """The functions of a file that pytest collects, without running it."""
    file = REPOSITORY / path
    tree = ast.parse(file.read_text()) if file.is_file() else ast.Module([], [])
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


def problems(line: Line) -> list[str]:
    """What is wrong with a line."""
    found = [name for name in line.where if not (REPOSITORY / "src/holdover" / name).is_file()]
    for test in line.tests:
        path, _, name = test.partition("::")
        found += [] if name in names_in(path) else [test]
    return found + ["no file"] * (not line.where) + ["no test"] * (not line.tests)


LINES = lines(PAGE.read_text())


@pytest.mark.parametrize("line", LINES, ids=[line.threat[:60] for line in LINES])
def test_each_line_names_code_and_tests_that_exist(line: Line) -> None:
    assert problems(line) == []


@pytest.mark.parametrize(
    "line",
    [
        Line("x", ("trust.py",), ()),
        Line("x", (), ("tests/unit/test_trust.py::test_files_of_the_system_are_trusted",)),
        Line(
            "x", ("gone.py",), ("tests/unit/test_trust.py::test_files_of_the_system_are_trusted",)
        ),
        Line("x", ("trust.py",), ("tests/unit/test_trust.py::test_gone",)),
        Line(
            "x", ("trust.py",), ("tests/unit/test_gone.py::test_files_of_the_system_are_trusted",)
        ),
    ],
)
def test_line_that_names_none_is_told(line: Line) -> None:
    assert problems(line)


@pytest.mark.parametrize(
    "phrase",
    [
        *("ymbolic links", "renames itself", "fakes its maps", "changes its mount namespace"),
        *("executes something else", "blanks", "newlines", "no UTF-8"),
        *("user namespace owned by someone else", "store that others can write"),
        *("configuration that others can write", "Set-id", "fixed vulnerability kept reachable"),
        *("rchives", "nvironment variables of a target"),
    ],
)
def test_what_was_thought_of_has_a_line(phrase: str) -> None:
    assert [line for line in LINES if phrase in line.threat]


def test_tests_that_are_named_beside_the_table_exist() -> None:
    for path, name in re.findall(r"`(tests/[a-z0-9_/.]+)::(\w+)`", PAGE.read_text()):
        assert name in names_in(path)


def test_commands_get_nothing_of_anybodys_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even of ours, which a hook has from its caller."""
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "APT_CONFIG", "BASH_ENV"):
        monkeypatch.setenv(name, "/srv/hostile")
    monkeypatch.setenv("PATH", f"/srv/hostile:{os.environ['PATH']}")
    said = run("env").stdout.splitlines()
    assert sorted(said) == sorted(f"{name}={value}" for name, value in ENVIRONMENT.items())
