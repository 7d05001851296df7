# SPDX-License-Identifier: Apache-2.0
"""A pin keeps a snapshot for its time, and errs to keep."""

from pathlib import Path

import pytest

from holdover.errors import StoreError
from holdover.pins import Pins

NOW = 1_800_000_000.0


@pytest.fixture
def pins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pins:
    monkeypatch.setattr("holdover.pins.time.time", lambda: NOW)
    return Pins(tmp_path)


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr("holdover.pins.time.time", lambda: NOW + seconds)


def test_a_pin_lives_as_long_as_it_may(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    pins.add("qemu-a")
    at(monkeypatch, 99)
    assert pins.valid(100) == {"qemu-a"}
    at(monkeypatch, 100)
    assert pins.valid(100) == frozenset()
    assert pins.valid(0) == {"qemu-a"}


def test_a_pin_that_is_set_again_begins_again(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    pins.add("qemu-a")
    at(monkeypatch, 99)
    pins.add("qemu-a")
    at(monkeypatch, 150)
    assert pins.valid(100) == {"qemu-a"}


def test_a_clock_that_went_back_ends_no_pin(pins: Pins, monkeypatch: pytest.MonkeyPatch) -> None:
    pins.add("qemu-a")
    at(monkeypatch, -1e6)
    assert pins.valid(100) == {"qemu-a"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"created": "x"}', "\0", "[" * 9999])
def test_a_pin_that_cannot_be_read_is_one(pins: Pins, tmp_path: Path, text: str) -> None:
    (tmp_path / "qemu-a.json").write_text(text)
    assert pins.valid(1) == {"qemu-a"}


def test_unpinning_says_whether_there_was_a_pin(pins: Pins) -> None:
    pins.add("qemu-a")
    assert pins.remove("qemu-a")
    assert not pins.remove("qemu-a")
    assert pins.valid() == frozenset()


def test_half_written_pins_count_for_nothing(pins: Pins, tmp_path: Path) -> None:
    (tmp_path / ".qemu-a.json.new").touch()
    assert pins.valid() == frozenset()


def test_a_directory_that_is_not_there_holds_no_pin_and_takes_none(tmp_path: Path) -> None:
    pins = Pins(tmp_path / "none")
    assert pins.valid() == frozenset()
    with pytest.raises(StoreError, match="could not pin a snapshot"):
        pins.add("qemu-a")


@pytest.mark.parametrize("created", ["1" + "0" * 400, "NaN", "-Infinity", "1e999", "[" * 100_000])
def test_pin_of_no_time_at_all_is_one(tmp_path: Path, created: str) -> None:
    (tmp_path / "qemu-aaaaaaaaaaaa.json").write_text(f'{{"created": {created}}}')
    assert Pins(tmp_path).valid(lifetime=1.0) == {"qemu-aaaaaaaaaaaa"}
