# SPDX-License-Identifier: Apache-2.0
"""What hooks cost a transaction that concerns nobody, on a host of 100 guests and 500 others."""

from dataclasses import dataclass

from benchmarks.measure import PYTHON, Command, Run, Series, Stopwatch, ratios
from benchmarks.population import Population
from benchmarks.report import Bench, Row, Table

__all__ = ["measure"]

GUESTS, OTHERS = 100, 500
PACKAGE = "python3-markdown-it"  # owns neither a library nor a program
START, SHELL = "python3 -I -c pass", "sh -c :"
BEFORE, AFTER = "apt's line before", "apt's line after"
DPKG_BEFORE, DPKG_AFTER = "dpkg's line before, under apt", "dpkg's line after, under apt"
WITH, WITHOUT = "apt-get reinstalls a package, with hooks", "the same without hooks"
AIMS = {BEFORE: (START, 3.0), AFTER: (SHELL, 2.0)} | dict.fromkeys(
    (DPKG_BEFORE, DPKG_AFTER), (SHELL, 2.0)
)
"""At most how many times as long as which command."""
_LISTING = f"VERSION 3\n\n{PACKAGE} 1 all none < 2 all none /x\n"
# what apt's own line leaves for those of dpkg, and what apt sets
_ASKED = """\
read -r stat </proc/$$/stat; set -- "$1" ${stat##*) }
echo $$ ${21} >/run/holdover/asked
export DPKG_FRONTEND_LOCKED=true DPKG_HOOK_ACTION=unpack
n=0; while test $n -lt %d; do sh -c "$1"; n=$((n+1)); done"""
_TIMES = 50
"""A line of dpkg is run as often in one go: one alone takes as long as to measure it."""
_APT = ("/usr/bin/apt-get", "install", "--reinstall", "--yes", "--quiet", PACKAGE)


@dataclass(frozen=True)
class Transaction:
    series: dict[str, Series]

    def tables(self) -> list[Table]:
        title = f"A transaction that concerns nobody; {GUESTS} guests, {OTHERS} others"
        columns = ("COMMAND", "MEDIAN", "LEAST", "MOST", "RATIO", "AIM", "MET")
        return [Table(title, columns, [self._row(*entry) for entry in self.series.items()])]

    def _row(self, name: str, series: Series) -> Row:
        took = series.seconds
        times = [f"{value * 1000:.1f} ms" for value in (took.median, took.least, took.most)]
        other, most = AIMS.get(name, (WITHOUT if name == WITH else "", 0.0))
        if not other:
            return (name, *times, "", "", "")
        found = ratios(series, self.series[other])
        aim = f"{most:g} times {other}" if most else ""
        met = "" if not most else "yes" if found.median <= most else "no"
        return (name, *times, f"{found} times {other}", aim, met)

    def json(self) -> list[dict[str, object]]:
        return [series.json() for series in self.series.values()]


def measure(bench: Bench) -> Transaction:
    with bench.watch() as watch:
        root = watch.root
        Population(watch).grow(GUESTS, OTHERS)
        root.apt("install", "--reinstall", "--download-only", PACKAGE)
        root.run("holdover", "enable")
        lines = _lines(watch)
        names = (START, SHELL, *lines, WITH, WITHOUT)
        series = {name: Series(name) for name in names}
        for _ in range(bench.rounds):
            for name, run in _round(watch, lines).items():
                series[name].runs.append(run)
        return Transaction(series)


def _round(watch: Stopwatch, lines: dict[str, Command]) -> dict[str, Run]:
    """apt with hooks, then without, in turn."""
    start, shell = Command((*PYTHON, "-c", "pass")), Command(("/bin/sh", "-c", _many(":")))
    found = watch.round({START: start, SHELL: shell} | lines)
    found |= {name: _one_of(found[name]) for name in (SHELL, AFTER, DPKG_BEFORE, DPKG_AFTER)}
    found |= watch.round({WITH: Command(_APT)})
    watch.root.run("holdover", "disable")
    found |= watch.round({WITHOUT: Command(_APT)})
    watch.root.run("holdover", "enable")
    return found


def _lines(watch: Stopwatch) -> dict[str, Command]:
    """The very lines that are in the managers' configuration."""
    before = _of_apt(watch, "DPkg::Pre-Install-Pkgs")
    after = _of_apt(watch, "DPkg::Post-Invoke")
    text = watch.root.run("cat", "/etc/dpkg/dpkg.cfg.d/holdover").stdout
    of_dpkg = [line.partition("=")[2] for line in text.splitlines() if "-invoke=" in line]
    commands = {
        BEFORE: Command(("/bin/sh", "-c", 'sh -c "$1"; true', "apt", before), text=_LISTING),
        AFTER: Command(("/bin/sh", "-c", _many('"$1"'), "apt", after)),
    }
    for name, line in zip((DPKG_BEFORE, DPKG_AFTER), of_dpkg, strict=True):
        commands[name] = Command(("/bin/sh", "-c", _ASKED % _TIMES, "dpkg", line))
    return commands


def _of_apt(watch: Stopwatch, key: str) -> str:
    dump = watch.root.run("apt-config", "dump", "--format", "%v%n", key).stdout
    return next(text for text in dump.splitlines() if text.startswith("holdover="))


def _many(line: str) -> str:
    return f"n=0; while test $n -lt {_TIMES}; do sh -c {line}; n=$((n+1)); done"


def _one_of(run: Run) -> Run:
    return Run(run.seconds / _TIMES, run.cpu / _TIMES, run.peak, run.code, run.output, run.files)
