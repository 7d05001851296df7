# SPDX-License-Identifier: Apache-2.0
"""The tables of guests under load: each figure in its column."""

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

from lab.beats import Beat, Gaps
from lab.chroot import Lab
from lab.footprint import Footprint
from lab.load import NOTHING, OWN, Load, Stretch
from lab.load_report import LoadReport
from lab.worker import Worker

BEFORE = Footprint(2048 << 10, 100 << 10, 11, 12, 13, 14, 15)


class Busy:
    """A worker whose every figure is another."""

    heart = SimpleNamespace(beats=[Beat(1, 0.0), Beat(3, 0.0)])
    errors = ("one",)

    def done(self, what: str) -> int:
        return {"wrote": 1001, "read": 1002, "fetched": 1003}[what]

    def lost(self) -> list[int]:
        return [7, 8, 9]


def rows(text: str) -> dict[tuple[str, str], str]:
    """Cells by the first two of a row and the head of the column, all of one guest."""
    found: dict[tuple[str, str], str] = {}
    head: list[str] = []
    for line in text.splitlines():
        cells = line.strip("| ").split(" | ")
        if cells[0] == "guest":
            head = cells
        elif cells[0].startswith("tcg"):
            kind = cells[1] if "during" in head else ""
            found |= {(kind, name): cell for name, cell in zip(head, cells, strict=True)}
    return found


def test_each_figure_is_in_its_column() -> None:
    lab = cast(Lab, SimpleNamespace(older="1.0", newer="2.0"))
    load = Load(lab, {"mount": cast(Worker, Busy())})
    load.rounds["mount"], load.by_command["mount"] = 500, 20
    load.before["mount"], load.after["mount"] = BEFORE, replace(BEFORE, mounts=16)
    load.lived = {"mount": False}
    load.stretches["mount", OWN] = Stretch(Gaps((0.02, 0.02, 0.25)), 60.4)
    report = LoadReport(2, 3.14, -6, {"kvm": "no such device"})
    assert not report.has_guests
    report.add("tcg", lab, load)
    assert report.has_guests
    cells = rows(report.text())
    for name, cell in {
        "rounds": "500",
        "by the real command": "20",
        "lives": "no",
        "heartbeats": "2",
        "missed": "1",
        "blocks written": "1,001",
        "blocks read back": "1,002",
        "files fetched": "1,003",
        "errors": "1",
        "blocks lost": "3",
        "virtual memory": "2,048 MiB → 2,048 MiB",
        "resident": "100 MiB → 100 MiB",
        "mappings": "11 → 11",
        "variables": "14 → 14",
        "mounts": "15 → 16",
    }.items():
        assert cells["", name] == cell, name
    for name, cell in {
        "seconds": "60",
        "heartbeats": "3",
        "half": "20 ms",
        "99.9 %": "250 ms",
        "longest": "250 ms",
        "above 100 ms": "1",
    }.items():
        assert cells[OWN, name] == cell, name
    assert cells[NOTHING, "heartbeats"] == "0"
    assert "No guest by kvm here: no such device." in report.text()
    assert "QEMU 1.0, upgraded to 2.0" in report.text()
    assert "2 cores" in report.text()
    assert "nice -6" in report.text()
