# SPDX-License-Identifier: Apache-2.0
"""What it takes to protect the first guest of a build, and what stays on the disk."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import TIME_COLUMNS, Command, Run, Series, Stopwatch, time_cells
from benchmarks.report import Bench, Table
from holdover.demo.archive import QEMU_PACKAGES, qemu_builds
from holdover.demo.guest import Guest
from holdover.errors import CommandError

__all__ = ["measure"]

PROTECT = "holdover protect"
HOOK = "the hook line that apt runs"
EXPLAIN = "holdover explain, every module and symbol"
COPY = "cp --archive of the same files"
NEEDRESTART = "needrestart -b -r l, which only looks"
OURS = (PROTECT, HOOK, EXPLAIN)
AIMS = {PROTECT: 1.0, HOOK: 1.0}  # seconds
AIM_WRITTEN = 3_000_000  # bytes
GUEST = "bench"
_COPIES = "/usr/lib/bench-copies"  # the file system that the store is on


@dataclass(frozen=True)
class Protecting:
    """Sizes are in bytes."""

    modules: int
    libraries: int
    written: int
    """New bytes, by the first guest of a build."""
    linked: int
    """Size of the libraries that are held without a new byte."""
    written_by_hook: int
    """Until the transaction ends; newcomers may run another executable with other libraries."""
    held: int
    """What only holdover keeps on the disk."""
    held_after: int
    """The same when QEMU has been upgraded."""
    series: tuple[Series, ...]

    def tables(self) -> list[Table]:
        rows = [
            (
                series.name,
                *time_cells(series, self.series[0]),
                f"{series.peak / 2**20:.0f} MiB" if series.name in OURS else "",
                f"{AIMS[series.name]:.0f} s" if series.name in AIMS else "",
                _yes_or_no(series.seconds.median, AIMS.get(series.name)),
            )
            for series in self.series
        ]
        columns = ("COMMAND", *TIME_COLUMNS, "PEAK", "AIM", "MET")
        return [Table("The first guest of a build", columns, rows), self._sizes()]

    def _sizes(self) -> Table:
        aim = f"{AIM_WRITTEN / 1e6:.0f} MB"
        rows: list[tuple[str, ...]] = [
            ("modules held", str(self.modules), "", ""),
            ("libraries held", str(self.libraries), "", ""),
            ("libraries, linked", _megabytes(self.linked), "", ""),
            ("newly written", _megabytes(self.written), aim, _yes_or_no(self.written, AIM_WRITTEN)),
            ("the same by the hook, for newcomers too", _megabytes(self.written_by_hook), "", ""),
            ("on the disk for holdover alone", _megabytes(self.held), "", ""),
            ("the same after QEMU's upgrade", _megabytes(self.held_after), "", ""),
        ]
        return Table("What is held of it", ("ONE BUILD", "FIGURE", "AIM", "MET"), rows)

    def json(self) -> dict[str, object]:
        commands = [
            {**series.json(), "aim_seconds": AIMS.get(series.name)} for series in self.series
        ]
        return {
            "modules": self.modules,
            "libraries": self.libraries,
            "bytes_linked": self.linked,
            "bytes_written": self.written,
            "bytes_written_by_hook": self.written_by_hook,
            "aim_bytes_written": AIM_WRITTEN,
            "bytes_held": self.held,
            "bytes_held_after_upgrade": self.held_after,
            "commands": commands,
        }


def _yes_or_no(value: float, aim: float | None) -> str:
    return "" if aim is None else "yes" if value <= aim else "no"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.2f} MB"


def measure(bench: Bench) -> Protecting:
    with bench.watch() as watch:
        return _measure(watch, bench.rounds)


def _measure(watch: Stopwatch, rounds: int) -> Protecting:
    """Ends with the upgrade of QEMU, so nothing can be measured in that root afterwards."""
    root = watch.root
    root.run("holdover", "enable")
    with _guest(watch) as guest:  # also the warm-up
        watch.round({PROTECT: _protect(guest), EXPLAIN: _explain(guest)})
        (held,) = _snapshots(watch)
        files = _json(watch, "show", held["id"])["files"]
    hook = _hook(watch)
    with _guest(watch):
        written_by_hook = _bytes(_run_hook(watch, hook)[1], "bytes_written")
    series = {name: Series(name) for name in (PROTECT, HOOK, EXPLAIN, COPY, NEEDRESTART)}
    for _ in range(rounds):
        for name, run in _round(watch, hook, [file["origin"] for file in files]).items():
            series[name].runs.append(run)
    libraries = [file for file in files if file["path"].startswith("lib/")]
    return Protecting(
        modules=len(files) - len(libraries),
        libraries=len(libraries),
        written=held["bytes_written"],
        written_by_hook=written_by_hook,
        linked=sum(file["size"] for file in files if file["how"] == "link"),
        held=held["bytes_held"],
        held_after=_held_after_upgrade(watch),
        series=tuple(series.values()),
    )


def _round(watch: Stopwatch, hook: Command, files: list[str]) -> dict[str, Run]:
    """Two guests, each the first of its build: what the other one left is collected before."""
    with _guest(watch) as guest:
        watch.root.run("mkdir", _COPIES)
        copy = Command(("/bin/cp", "--archive", f"--target-directory={_COPIES}", *files))
        look = Command(("/usr/sbin/needrestart", "-b", "-r", "l"))
        commands = {PROTECT: _protect(guest), COPY: copy, EXPLAIN: _explain(guest)}
        found = watch.round(commands | {NEEDRESTART: look})
        watch.root.run("rm", "-r", _COPIES)
    with _guest(watch):
        return found | {HOOK: _run_hook(watch, hook)[0]}


def _run_hook(watch: Stopwatch, hook: Command) -> tuple[Run, list[dict[str, Any]]]:
    """And the snapshots that it made, which live for the guest and for the transaction."""
    run = watch.round({HOOK: hook})[HOOK]
    snapshots = _snapshots(watch)
    if not any(lease["name"] == GUEST for snapshot in snapshots for lease in snapshot["leases"]):
        raise CommandError("the hook did not protect the guest", hint=run.output)
    watch.root.run("holdover", "hook", "apt", "after")
    return run, snapshots


@contextmanager
def _guest(watch: Stopwatch) -> Iterator[Guest]:
    guest = Guest.start(watch.root, GUEST)
    yield guest
    guest.kill()
    watch.root.run("holdover", "gc")
    if _snapshots(watch):
        raise CommandError("the store is not empty when the last guest has ended")


def _protect(guest: Guest) -> Command:
    return Command(("/usr/bin/holdover", "protect", str(guest.pid)))


def _explain(guest: Guest) -> Command:
    # 1 says that there are modules which would not load: those for another executable
    return Command(("/usr/bin/holdover", "explain", str(guest.pid)), codes=(0, 1))


def _hook(watch: Stopwatch) -> Command:
    """The very line, with what apt would tell it about an upgrade of QEMU."""
    dump = watch.root.run("apt-config", "dump", "--format", "%v%n", "DPkg::Pre-Install-Pkgs")
    line = next(text for text in dump.stdout.splitlines() if text.startswith("holdover="))
    older, newer = qemu_builds(watch.root)
    changes = [f"{package} {older} amd64 none < {newer} amd64 none /x" for package in QEMU_PACKAGES]
    listing = "\n".join(["VERSION 3", "", *changes, ""])
    return Command(("/bin/sh", "-c", 'sh -c "$1"; true', "apt", line), text=listing)


def _held_after_upgrade(watch: Stopwatch) -> int:
    newer = qemu_builds(watch.root)[1]
    with _guest(watch) as guest:
        watch.round({PROTECT: _protect(guest)})
        watch.root.apt("install", *(f"{package}={newer}" for package in QEMU_PACKAGES))
        return _bytes(_snapshots(watch), "bytes_held")


def _snapshots(watch: Stopwatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _json(watch, "list")["snapshots"]
    return found


def _bytes(snapshots: list[dict[str, Any]], key: str) -> int:
    return sum(snapshot[key] for snapshot in snapshots)


def _json(watch: Stopwatch, *words: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(watch.root.run("holdover", *words, "--json").stdout)
    return answer
