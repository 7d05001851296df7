# SPDX-License-Identifier: Apache-2.0
"""What is shown can be read by people and by programs, whatever a guest is called."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdover.cli.output import COLOURS, human_bytes, print_json, print_table, progress
from holdover.cli.text import printable
from holdover.model import State

COLUMNS = ("PID", "STATE", "REASON")


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the environment says that there is one."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def table(
    capsys: pytest.CaptureFixture[str], *rows: tuple[str, ...], columns: tuple[str, ...] = COLUMNS
) -> list[str]:
    print_table(columns, rows)
    shown = capsys.readouterr()
    assert shown.err == ""
    return shown.out.splitlines()


# -- tables ------------------------------------------------------------------------------------


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    assert table(capsys, ("1", "current", "fine"), ("4711", "at-risk", "not fine")) == [
        "PID   STATE    REASON",
        "1     current  fine",
        "4711  at-risk  not fine",
    ]


def test_line_ends_with_its_last_word(capsys: pytest.CaptureFixture[str]) -> None:
    lines = table(capsys, ("1", "current", ""), ("2", "at-risk", "because"))
    assert lines == [line.rstrip() for line in lines]


def test_long_reason_is_not_wrapped_where_nobody_looks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reason = "because " * 1000 + "of that"
    assert table(capsys, ("1", "at-risk", reason))[1].endswith(f"  {reason}")


@pytest.mark.parametrize("state", State)
def test_no_colour_without_a_terminal(capsys: pytest.CaptureFixture[str], state: State) -> None:
    assert "\x1b" not in "".join(table(capsys, ("1", str(state), "because")))


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_colour(state: State) -> None:
    assert COLOURS[state]


@pytest.mark.parametrize("cell", ["[red]x[/red]", "[/]", ":smile:", "\\", "%s", "{}", "[bold"])
def test_cell_is_shown_as_it_is(capsys: pytest.CaptureFixture[str], cell: str) -> None:
    assert table(capsys, ("1", "current", cell))[1] == f"1    current  {cell}"


def test_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    assert table(capsys) == ["PID  STATE  REASON"]


def test_title_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("1", "2")], title="A title that is wider than its table")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["A title that is wider than its table", "A  B", "1  2"]


@pytest.mark.parametrize("name", ["\x1b[31mred", "\x1b]0;title\x07", "\x9b31m", "a\rb", "a\x08b"])
def test_name_of_a_guest_gives_no_orders_to_the_terminal(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (_, line) = table(capsys, ("1", "current", name))
    assert not [character for character in line if not character.isprintable()]


@pytest.mark.parametrize("name", ["a\nb", "a\n\nb", "a\x0bb", "a\u2028b", "a\tb"])
def test_name_of_a_guest_makes_no_rows(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert len(table(capsys, ("1", name, "fine"))) == 2


# -- JSON --------------------------------------------------------------------------------------


@given(value=st.recursive(st.none() | st.integers() | st.text(), st.lists))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_says_again_what_was_put_in(capsys: pytest.CaptureFixture[str], value: object) -> None:
    print_json({"value": value})
    assert json.loads(capsys.readouterr().out) == {"value": value}


def test_json_has_paths_and_states_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"path": Path("/usr"), "state": State.AT_RISK})
    assert json.loads(capsys.readouterr().out) == {"path": "/usr", "state": "at-risk"}


def test_json_can_be_printed_whatever_the_name_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "\udcff\x1b"})
    assert capsys.readouterr().out.isascii()


# -- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (1024**2 * 3 // 2, "1.5 MiB"),
        (1024**3, "1.0 GiB"),
        (1024**4, "1024.0 GiB"),
    ],
)
def test_bytes_have_a_binary_unit(count: int, text: str) -> None:
    assert human_bytes(count) == text


@given(st.integers(0, 2**60))
def test_bytes_are_always_a_number_and_a_unit(count: int) -> None:
    number, unit = human_bytes(count).split(" ")
    assert float(number) >= 0
    assert unit in ("B", "KiB", "MiB", "GiB")


@pytest.mark.parametrize("wanted", [True, False])
def test_progress_is_silent_without_a_terminal(
    capsys: pytest.CaptureFixture[str], wanted: bool
) -> None:
    with progress(wanted=wanted) as report:
        report("working")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["[/]", "[bold]web01", "web\x1b]0;x\x0701", "[link=x]a", "\ud800"])
def test_progress_shows_a_name_as_it_is(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with progress(wanted=True) as report:
        report(f"protecting {name}")
    assert f"protecting {printable(name)}" in terminal.getvalue()
