# SPDX-License-Identifier: Apache-2.0
"""A busy machine: a transaction that concerns nobody, and fifty guests of two builds at once."""

import json
from dataclasses import dataclass

from benchmarks.measure import PYTHON, TIME_COLUMNS, Command, Series, Stopwatch, time_cells
from benchmarks.report import Bench, Table
from holdover.demo.archive import QEMU_PACKAGES, qemu_builds
from holdover.demo.guest import Guest
from holdover.errors import CommandError

__all__ = ["measure"]

PROCESSES = 500
GUESTS = 50
START = "python3 -I -c pass"
IDLE = f"apt's two lines, {PROCESSES} processes, none concerned"
AGAIN = "dpkg's two lines when apt has started it"
PROTECT = f"holdover protect, {GUESTS} guests of 2 builds"
STATUS = f"holdover status, {GUESTS} guests of 2 builds"
AIMS = {IDLE: 0.15, PROTECT: 2.0}  # seconds

# what apt's own line leaves for those of dpkg, and what apt sets
_ASKED = """\
note() { read -r stat </proc/$$/stat; set -- ${stat##*) }; echo $$ ${20} >/run/holdover/asked; }
export DPKG_FRONTEND_LOCKED=true DPKG_HOOK_ACTION=unpack"""


@dataclass(frozen=True)
class Many:
    series: tuple[Series, ...]

    def tables(self) -> list[Table]:
        rows = [
            (
                series.name,
                *time_cells(series, self.series[0]),
                f"{AIMS[series.name]:g} s" if series.name in AIMS else "",
                "" if series.name not in AIMS else self._met(series),
            )
            for series in self.series
        ]
        columns = (*TIME_COLUMNS[:4], "TIMES PYTHON'S START", TIME_COLUMNS[-1])
        return [Table("A busy machine", ("COMMAND", *columns, "AIM", "MET"), rows)]

    def _met(self, series: Series) -> str:
        return "yes" if series.seconds.median <= AIMS[series.name] else "no"

    def json(self) -> list[dict[str, object]]:
        return [{**s.json(), "aim_seconds": AIMS.get(s.name)} for s in self.series]


def measure(bench: Bench) -> Many:
    with bench.watch() as watch:
        return _measure(watch, bench.rounds)


def _measure(watch: Stopwatch, rounds: int) -> Many:
    """Ends with the upgrade of QEMU, so nothing can be measured in that root afterwards."""
    root = watch.root
    root.run("holdover", "enable")
    guests = [_guest(watch, number) for number in range(GUESTS // 2)]
    root.run(
        "sh", "-c", f"for n in $(seq {PROCESSES - len(guests)}); do sleep 9999 >&- 2>&- & done"
    )
    series = {name: Series(name) for name in (START, IDLE, AGAIN, PROTECT, STATUS)}
    for _ in range(rounds):
        for name, run in watch.round(_idle(watch)).items():
            series[name].runs.append(run)
    _keep_both_builds(watch, guests[0])
    guests += [_guest(watch, number) for number in range(GUESTS // 2, GUESTS)]
    for _ in range(rounds):
        commands = {name: Command(("/usr/bin/holdover", name.split()[1].rstrip(",")))
                    for name in (PROTECT, STATUS)}  # fmt: skip
        for name, run in watch.round(commands).items():
            series[name].runs.append(run)
        _release_all(watch)
    return Many(tuple(series.values()))


def _guest(watch: Stopwatch, number: int) -> Guest:
    return Guest.start(watch.root, f"many{number}", extra=("-m", "16"))


def _idle(watch: Stopwatch) -> dict[str, Command]:
    """The very lines; the package that changes is of Python's documentation and owns no library."""
    listing = "VERSION 3\n\npython3-markdown-it 1 all none < 2 all none /x\n"
    as_apt = 'sh -c "$1"; sh -c "$2"; true'
    as_dpkg = f'{_ASKED}; note; sh -c "$1"; sh -c "$2"'
    apt = [_lines(watch, f"DPkg::{name}") for name in ("Pre-Install-Pkgs", "Post-Invoke")]
    text = watch.root.run("cat", "/etc/dpkg/dpkg.cfg.d/holdover").stdout
    dpkg = [line.partition("=")[2] for line in text.splitlines() if "-invoke=" in line]
    return {
        START: Command((*PYTHON, "-c", "pass")),
        IDLE: Command(("/bin/sh", "-c", as_apt, "apt", *apt), text=listing),
        AGAIN: Command(("/bin/sh", "-c", as_dpkg, "dpkg", *dpkg)),
    }


def _lines(watch: Stopwatch, key: str) -> str:
    dump = watch.root.run("apt-config", "dump", "--format", "%v%n", key).stdout
    return next(text for text in dump.splitlines() if text.startswith("holdover="))


def _keep_both_builds(watch: Stopwatch, guest: Guest) -> None:
    """The older build's modules are held for one guest and pinned; then QEMU is upgraded."""
    root = watch.root
    root.run("holdover", "protect", str(guest.pid))
    (held,) = json.loads(root.run("holdover", "list", "--json").stdout)["snapshots"]
    root.run("holdover", "pin", held["id"])
    root.run("holdover", "disable")
    newer = qemu_builds(root)[1]
    root.apt("install", *(f"{package}={newer}" for package in QEMU_PACKAGES))


def _release_all(watch: Stopwatch) -> None:
    """So that the next round finds all guests as they were; the newer build's snapshot goes."""
    found = json.loads(watch.root.run("holdover", "status", "--json", check=False).stdout)
    protected = [p["pid"] for p in found["processes"] if p["state"] == "protected"]
    if len(protected) != GUESTS:
        raise CommandError(f"{len(protected)} of {GUESTS} guests were protected")
    for pid in protected:
        watch.root.run("holdover", "release", str(pid), "--force")
    watch.root.run("holdover", "gc")
