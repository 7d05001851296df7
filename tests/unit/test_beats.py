# SPDX-License-Identifier: Apache-2.0
"""Reading a guest's heartbeat while it goes on."""

from pathlib import Path

import pytest
from lab.beats import Beat, Gaps, Heart, gaps


def heart(tmp_path: Path, text: str) -> Heart:
    (tmp_path / "beats").write_text(text)
    return Heart(tmp_path / "beats")


def test_a_beat_that_is_being_written_waits_for_its_end(tmp_path: Path) -> None:
    found = heart(tmp_path, "1 100.25\r\n2 100.2")
    assert list(found.beats) == [Beat(1, 100.25)]
    with (tmp_path / "beats").open("a") as file:
        file.write("75000\r\n3 100.50\r\n")
    assert list(found.beats) == [Beat(1, 100.25), Beat(2, 100.275), Beat(3, 100.5)]


@pytest.mark.parametrize("text", ["1 1.0\n3 3.0\n", "1 1.0\nI/O error\n", "2 1.0\n"])
def test_a_beat_that_is_missing_is_no_gap_but_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"beat|invalid literal"):
        _ = heart(tmp_path, text).beats


def test_a_stretch_begins_with_the_last_beat_before_it(tmp_path: Path) -> None:
    found = heart(tmp_path, "1 1.0\n2 2.0\n")
    mark = found.mark()
    with (tmp_path / "beats").open("a") as file:
        file.write("3 5.0\n4 5.5\n")
    assert gaps(found.beats[mark:]) == Gaps((3.0, 0.5))


def test_a_guest_that_stands_still_is_told(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="after beat 1"):
        heart(tmp_path, "1 1.0\n").await_another(patience=0.05)


def test_quantiles_are_values_that_were_seen() -> None:
    found = Gaps(tuple(n / 1000 for n in range(1, 1001)))
    assert (found.quantile(0.5), found.quantile(0.999), found.longest) == (0.5, 0.999, 1.0)
    assert (found + Gaps((2.0,))).longest == 2.0
    assert found.longer_than(0.998) == 2
    assert Gaps().quantile(0.5) == Gaps().longest == 0.0
