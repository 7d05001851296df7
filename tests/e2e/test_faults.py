# SPDX-License-Identifier: Apache-2.0
"""holdover fails at each of its steps, in each way that was thought of.

Whatever happens: guests live and answer, the transaction ends well, the store is sound after the
next run, the second run completes the work, and after their files were replaced guests load what
they need. The usual run tries every third step; `make faults` all of them, and shows the table.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.faults import FAULTS, STEPS, Fault, Scene, Step
from lab.longer import LongRun
from lab.trials import SCENES, Host, carry_out

from holdover.demo.guest import DIED, REFUSED

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Cells:
    """What was seen; tests that run side by side write to one file."""

    file: Path

    def add(self, step: Step, fault: Fault, word: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{step.title}\t{fault.name}\t{word}\n")

    def seen(self) -> dict[tuple[str, str], str]:
        """By the names of the step and of the fault."""
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        return {(row, column): word for row, column, word in (line.split("\t") for line in lines)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault" not in metafunc.fixturenames:
        return
    cells = [(step, fault) for step in STEPS for fault in FAULTS]
    if metafunc.config.getoption("rounds") is None:  # another fault each time
        cells = cells[:: 3 * len(FAULTS) + 1]
    names = [f"{step.title}, {fault.name}" for step, fault in cells]
    metafunc.parametrize("step, fault", cells, ids=names)


@pytest.fixture(scope="module")
def host(base: Path, scratch: Path) -> Iterator[Host]:
    with Lab.stock(base, scratch) as lab:
        yield Host.prepare(lab)


@pytest.fixture(scope="module")
def cells(
    long_run: LongRun, worker_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cells]:
    own = tmp_path_factory.getbasetemp()
    cells = Cells((own if worker_id == "master" else own.parent) / "faults")
    yield cells
    if long_run.asked_for:
        long_run.show("faults", _table(cells.seen()))


def test_unprotected_twin_dies(host: Host) -> None:
    host.turn_to("older")
    twin = host.start()
    host.turn_to("newer")
    assert twin.probe_twice("https disk") == (REFUSED, DIED)


@pytest.mark.parametrize("scene", SCENES)
def test_everything_that_is_written_belongs_to_a_step(host: Host, scene: Scene) -> None:
    trial = SCENES[scene](host)
    trial.set_up()
    try:
        host.plan(trial.only)
        trial.act()
        named = {site for step in STEPS for site in (step.site, *step.also)}
        assert host.places() - named == set()
        trial.finish()
    finally:
        host.heal("")
        trial.end()
    host.assert_nothing_is_held()


def test_nothing_is_lost(host: Host, cells: Cells, step: Step, fault: Fault) -> None:
    word = "**lost**"
    try:
        word = carry_out(host, step, fault)
    finally:
        cells.add(step, fault, word)


def _table(seen: dict[tuple[str, str], str]) -> str:
    """Whoever ends last has them all."""
    lines = [f"| step | {' | '.join(fault.name for fault in FAULTS)} |"]
    lines.append("|---" * (len(FAULTS) + 1) + "|")
    for step in STEPS:
        cells = (seen.get((step.title, fault.name), "") for fault in FAULTS)
        lines.append(f"| {step.title} | {' | '.join(cells)} |")
    words = Counter(seen.values())
    told = ", ".join(f"{words[word]} {word}" for word in ("done", "told", "ended"))
    lost = words["**lost**"] or "nothing"
    return "\n".join([*lines, "", f"{len(seen)} faults injected: {told}. Lost: {lost}."])
