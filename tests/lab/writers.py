# SPDX-License-Identifier: Apache-2.0
"""Measures our writer beside patchelf and LIEF; docs/decisions/0005-writer.md has the figures.

    PYTHONPATH=tests python tests/lab/writers.py bookworm --patchelf PATH --lief PYTHON

Each writer is given the same modules, the same path and the same closures, and what it makes is
loaded by the same guests. `--patchelf` may be given more than once; PYTHON is one that has LIEF.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdover.demo import archive
from holdover.demo.guest import Guest
from holdover.elf import ElfFile
from holdover.rewrite import rewrite
from lab import Lab
from lab.bindings import Traced, differences, traced
from lab.modules import SETS

DIRECTORY, VIEWS = "/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib/holdover/view"
RPATH = "$ORIGIN/lib"
ROUNDS = 5

# one process for all modules, as kind to it as can be; says the seconds that each took
_LIEF = """
import json, sys, time
import lief
refill, seconds = sys.argv[1] == "refill", []
for old, new, *names in json.load(sys.stdin):
    start = time.perf_counter()
    module = lief.ELF.parse(old)
    module.add(lief.ELF.DynamicEntryRpath("$ORIGIN/lib"))
    own = list(module.libraries)
    for name in own if refill else ():
        module.remove_library(name)
    for name in reversed(names):  # each is put before all others
        if refill or name not in own:
            module.add_library(name)
    module.write(new)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds))
"""


@dataclass(frozen=True)
class Job:
    """One module: from where to where, and all that it needs, breadth first."""

    old: Path
    new: Path
    closure: tuple[str, ...]

    @property
    def added(self) -> list[str]:
        return [name for name in self.closure if name not in needed(self.old)]


Writer = Callable[[Sequence[Job]], list[float]]
"""Writes all; returns the seconds that each took."""


def needed(path: Path) -> tuple[str, ...]:
    with path.open("rb") as file:
        return ElfFile(file).needed


def facts(path: Path) -> tuple[str, str, str]:
    with path.open("rb") as file:
        elf = ElfFile(file)
        return elf.rpath, elf.runpath, elf.build_id


def ours(jobs: Sequence[Job]) -> list[float]:
    return [_timed(_ours, job) for job in jobs]


def _ours(job: Job) -> None:
    with job.old.open("rb") as file:
        job.new.write_bytes(rewrite(file, RPATH, job.closure))


def patchelf(tool: str, *, calls: int) -> Writer:
    def write(job: Job) -> None:
        add = [word for name in job.added for word in ("--add-needed", name)]
        path = ["--force-rpath", "--set-rpath", RPATH]
        words = [[*path, *add]] if calls == 1 else [path, add]
        shutil.copyfile(job.old, job.new)
        for options in filter(None, words):
            subprocess.run([tool, *options, job.new], check=True, capture_output=True)

    return lambda jobs: [_timed(write, job) for job in jobs]


def lief(python: str, how: str) -> Writer:
    def write_all(jobs: Sequence[Job]) -> list[float]:
        listed = json.dumps([[str(job.old), str(job.new), *job.closure] for job in jobs])
        command = [python, "-I", "-c", _LIEF, how]
        done = subprocess.run(command, input=listed, text=True, capture_output=True, check=True)
        seconds: list[float] = json.loads(done.stdout)
        return seconds

    return write_all


def _timed(write: Callable[[Job], None], job: Job) -> float:
    start = time.perf_counter()
    write(job)
    return time.perf_counter() - start


def start_time(*command: str) -> float:
    """Milliseconds, the median of several."""

    took = []
    for _ in range(4 * ROUNDS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        took.append(time.perf_counter() - start)
    return statistics.median(took) * 1000


def complaints(path: Path) -> tuple[set[str], set[str]]:
    """Of readelf and of eu-elflint."""
    read = _said("readelf", "--all", "--wide", path)
    lint = _said("eu-elflint", "--gnu-ld", path)
    return {line for line in read if line.startswith("readelf: ")}, {line for line in lint if line}


def _said(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).splitlines()


def examine(jobs: Sequence[Job]) -> Iterator[str]:
    """What is wrong with the files, in words, with how many of them it is wrong."""
    wrong: dict[str, int] = {}
    for job in jobs:
        old, new = complaints(job.old), complaints(job.new)
        own = needed(job.old)
        rpath, runpath, build_id = facts(job.new)
        found = {
            "readelf warns": new[0] - old[0],
            "eu-elflint complains": new[1] - old[1] - {"No errors"},
            f"the path is not {RPATH}": (rpath, runpath) != (RPATH, ""),
            "NEEDED is in another order": needed(job.new) != (*own, *job.added),
            "something of NEEDED is lost": not {*own, *job.closure} <= {*needed(job.new)},
            "the build-id is another": build_id != facts(job.old)[2],
        }
        for what, is_so in found.items():
            wrong[what] = wrong.get(what, 0) + bool(is_so)
    yield from (f"{what}: {count}" for what, count in wrong.items() if count)


def bytes_changed(job: Job) -> int:
    """How many of the original's bytes are not what they were, where they were."""
    old, new = job.old.read_bytes(), job.new.read_bytes()
    return sum(one != other for one, other in zip(old, new, strict=False))


def measure(lab: Lab, writer: Writer, name: str, view: str, plain: Traced) -> str:
    """A row of the table."""
    directory = f"{VIEWS}/{name}"
    shutil.copytree(lab.path(view), lab.path(directory), copy_function=os.link)
    jobs = _jobs(lab, view, directory)
    rounds = [writer(jobs) for _ in range(ROUNDS)]
    each = statistics.median(seconds for took in rounds for seconds in took) * 1000
    size = sum(job.new.stat().st_size for job in jobs)
    seen = traced(lab, name, directory, directory)
    moved = differences(plain.bindings, seen.bindings)
    lost = sorted(plain.loaded - seen.loaded)
    columns = (
        name,
        f"{sum(line.startswith('-') for line in moved)} of {len(plain.bindings)}",
        f"{each:.1f}",
        f"{size:,}",
        f"{sum(map(bytes_changed, jobs)):,}",
        "; ".join(examine(jobs)) or "nothing",
        f"not loaded: {lost}" if lost else "all load",
    )
    return f"| {' | '.join(columns)} |"


def _jobs(lab: Lab, view: str, directory: str) -> list[Job]:
    """For the modules that the view has rewritten; what is there in `directory` goes."""
    jobs = []
    for old in sorted(lab.path(DIRECTORY).glob("*.so")):
        held, new = lab.path(f"{view}/{old.name}"), lab.path(f"{directory}/{old.name}")
        if not old.samefile(held):
            jobs.append(Job(old, new, needed(held)))
            new.unlink()
    return jobs


def writers(patchelfs: Sequence[str], lief_python: str) -> dict[str, Writer]:
    """Those that were asked for, by name; prints how long each takes to start."""
    starts = {"ours": start_time(sys.executable, "-c", "import holdover.rewrite")}
    starts["python alone"] = start_time(sys.executable, "-c", "pass")
    found: dict[str, Writer] = {"ours": ours}
    for tool in patchelfs:
        version = _said(tool, "--version")[0].replace(" ", "-")
        starts[version] = start_time(tool, "--version")
        found |= {f"{version}-{n}-calls": patchelf(tool, calls=n) for n in (1, 2)}
    if lief_python:
        starts["lief"] = start_time(lief_python, "-c", "import lief")
        starts["python alone, lief's"] = start_time(lief_python, "-c", "pass")
        found |= {f"lief-{how}": lief(lief_python, how) for how in ("add", "refill")}
    print("milliseconds to start:", {name: round(took, 1) for name, took in starts.items()})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", choices=SETS)
    parser.add_argument("--patchelf", action="append", default=[])
    parser.add_argument("--lief", default="")
    options = parser.parse_args()
    found = writers(options.patchelf, options.lief)
    modules, cache = SETS[options.release], archive.default_cache()
    base = archive.prepare_base(cache, print, modules.recipe)
    python_from = archive.prepare_base(cache, print) if modules.python_is_too_old else None
    with Lab.with_holdover(base, cache / "runs", python_from) as lab:
        guest = Guest.start(lab.root, "held")
        lab.root.run("holdover", "protect", str(guest.pid))
        (view,) = lab.path(VIEWS).iterdir()
        plain = traced(lab, "plain", DIRECTORY)
        print(f"{len(plain.bindings)} bindings of {len(plain.loaded)} modules that were loaded")
        print("| writer | bindings changed | ms a module | bytes | of the original's | wrong | |")
        for name, writer in found.items():
            print(measure(lab, writer, name, f"{VIEWS}/{view.name}", plain), flush=True)


if __name__ == "__main__":
    main()
