# SPDX-License-Identifier: Apache-2.0
"""The metrics as the official client reads them, and a directory that is somebody else's."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from unit.factories import held_file, holding, process, scan, snapshot

from holdover.cli.metrics import FILE, Figures, exposition, figures_of, write_metrics
from holdover.cli.recording import write_record
from holdover.cli.records import HookRecord, read_records
from holdover.errors import CommandError, RefusedError
from holdover.model import Delivery, Item, State, Unreadable

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
HELD = snapshot(files=(held_file("block-rbd", "rewritten"), held_file("block-curl")))
FIGURES = figures_of(
    replace(scan(unreadable=(Unreadable(7, "no"),)), foreign=3),
    [
        Item(process(1), State.PROTECTED, "", Delivery.ENVIRONMENT),
        Item(process(2), State.PROTECTED, "", Delivery.ENVIRONMENT),
        Item(process(3), State.PROTECTED, "", Delivery.MOUNT),
        Item(process(4), State.AT_RISK, ""),
    ],
    (holding(HELD),),
    {HELD.id: 4096},
    [12.5, 90.0],
    (HookRecord("apt", "before", 0.25, "gave-up", 1_700_000_000),),
)


def samples(text: bytes) -> Samples:
    families = text_string_to_metric_families(text.decode())
    return {
        (sample.name.removeprefix("holdover_"), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def at(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_processes_are_counted_by_state_and_delivery() -> None:
    found = samples(exposition(FIGURES))
    counted = {
        (state, delivery): at(found, "processes", program="qemu", state=state, delivery=delivery)
        for state, delivery in (
            ("protected", "environment"),
            ("protected", "mount"),
            ("at-risk", "none"),
            ("current", "none"),
            ("poisoned", "none"),
        )
    }
    assert list(counted.values()) == [2, 1, 1, 0, 0]


def test_every_figure_is_there() -> None:
    found = samples(exposition(FIGURES))
    figures = {
        "snapshots": 1,
        "held_bytes": 4096,
        "written_bytes": 5,
        "leases": 2,
        "oldest_lease_seconds": 90,
        "unreadable_processes": 1,
        "foreign_processes": 3,
    }
    assert {name: at(found, name) for name in figures} == figures


def test_how_the_last_hook_ended_is_there() -> None:
    found, hook = samples(exposition(FIGURES)), {"hook": "apt", "phase": "before"}
    assert at(found, "last_hook_duration_seconds", **hook) == 0.25
    assert at(found, "last_hook_timestamp_seconds", **hook) == 1_700_000_000
    assert at(found, "last_hook_result", **hook, result="gave-up") == 1
    assert at(found, "last_hook_result", **hook, result="done") == 0


def test_a_machine_without_guests_has_series_all_the_same() -> None:
    found = samples(exposition(figures_of(scan(), [], (), {}, [], ())))
    assert at(found, "processes", program="qemu", state="at-risk", delivery="none") == 0
    assert at(found, "oldest_lease_seconds") == 0


def test_without_the_client_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(CommandError, match="install python3-prometheus-client"):
        exposition(FIGURES)


# -- the file --------------------------------------------------------------------------------------


def written(figures: Figures, directory: Path) -> str:
    assert write_metrics(figures, directory)
    return (directory / FILE).read_text()


def test_the_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("old")
    assert "holdover_snapshots 1.0\n" in written(FIGURES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_nothing_is_written_where_there_is_no_directory(tmp_path: Path) -> None:
    assert not write_metrics(FIGURES, tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_a_link_in_the_place_of_the_file_is_replaced_not_followed(tmp_path: Path) -> None:
    """The exporter's user may have put it there."""
    precious = tmp_path / "shadow"
    precious.write_text("secret")
    directory = tmp_path / "metrics"
    directory.mkdir()
    (directory / FILE).symlink_to(precious)
    written(FIGURES, directory)
    assert precious.read_text() == "secret"
    assert not (directory / FILE).is_symlink()


@pytest.mark.parametrize("linked", ["metrics", "metrics/below"])
def test_a_link_on_the_way_is_refused(tmp_path: Path, linked: str) -> None:
    target = tmp_path / "etc"
    (target / "below").mkdir(parents=True)
    directory = tmp_path / linked
    directory.parent.mkdir(exist_ok=True)
    directory.symlink_to(target)
    with pytest.raises(RefusedError, match="is a link"):
        write_metrics(FIGURES, directory if linked == "metrics/below" else directory / "below")
    assert list((target / "below").iterdir()) == []


def test_a_full_disk_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="No space"):
        write_metrics(FIGURES, tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(FILE, "old")]


# -- records of hooks ------------------------------------------------------------------------------


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record("apt-before", 1.5, "incomplete", str(tmp_path / "hooks"))
    write_record("timer-run", 0.25, "done", str(tmp_path / "hooks"))
    first, second = read_records(tmp_path / "hooks")
    assert (first.hook, first.phase, first.seconds, first.result) == (
        *("apt", "before", 1.5, "incomplete"),
    )
    assert (second.hook, second.phase, second.result) == ("timer", "run", "done")


@pytest.mark.parametrize("name", ["unknown", "../x-y", "apt-before\n", ""])
def test_what_is_no_hook_leaves_no_record(tmp_path: Path, name: str) -> None:
    write_record(name, 1.0, "done", str(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b"1.0 done\n", b"1.0 great 5\n", b"1..0 done 5\n", b"x" * 1000]
)
def test_a_record_that_makes_no_sense_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "apt-before").write_bytes(content)
    assert read_records(tmp_path) == ()


def test_a_record_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    write_record("apt-before", 1.0, "done", str(tmp_path / "file"))
    assert read_records(tmp_path / "file") == ()
