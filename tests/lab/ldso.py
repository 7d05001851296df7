# SPDX-License-Identifier: Apache-2.0
"""Compares the linker model with the real loader, for every library of the system it runs in.

Runs inside a root, by its own Python: `python3 -I - < ldso.py`. The loader is asked to trace, not
to run anything (LD_TRACE_LOADED_OBJECTS), with every symbol looked up (LD_WARN, LD_BIND_NOW), which
is what `ldd -r` does, and to say how it searches (LD_DEBUG=libs). What is printed is JSON: how many
files there are, how much was compared, and each file on which the two differ.

What is not compared, and why: the loader itself, which is there before anything is searched; names
with a slash, which are printed with $ORIGIN replaced and no "=>".
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from holdover.elf import ET_DYN, ElfFile
from holdover.errors import ElfError
from holdover.forecast import World, forecast, unresolved
from holdover.libraries import Libraries
from holdover.linker import Library
from holdover.symbols import Symbols, read_symbols

DIRECTORIES = ("/usr/lib", "/lib", "/usr/local/lib")
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
EM_X86_64 = 62
TRACE = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_WARN": "yes", "LD_BIND_NOW": "yes"}
SEARCH = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_DEBUG": "libs"}
_FOUND = re.compile(r"^\t(\S+) => (/\S+) \(0x", re.MULTILINE)
_MISSING = re.compile(r"^\t(\S+) => not found", re.MULTILINE)
_VERSION = re.compile(r"version `(\S+)' not found \(required by (\S+)\)")
_SYMBOL = re.compile(
    r"^(?:undefined symbol: (\S+?)(?:, version (\S+))?\t|symbol (\S+), version (\S+) not defined)",
    re.MULTILINE,
)


def objects() -> Iterator[Path]:
    """Every shared object, each file once."""
    seen = set()
    for top in DIRECTORIES:
        for directory, _, names in os.walk(top):
            for name in sorted(names):
                path = Path(directory, name)
                if ".so" not in name or path.is_symlink() or _is_no_object(path):
                    continue
                identity = path.stat().st_ino
                if identity not in seen:
                    seen.add(identity)
                    yield path


def _is_no_object(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            elf = ElfFile(file)
            return elf.type != ET_DYN or not elf.dynamic or path.samefile(LOADER)
    except (OSError, ElfError):
        return True


def traced(path: Path) -> dict[str, list[str]]:
    """What the loader itself says."""
    done = subprocess.run(
        [LOADER, path], env=TRACE, capture_output=True, text=True, errors="replace", check=False
    )
    text = done.stdout + done.stderr
    return {
        "through": searched(path),
        "found": [f"{name} {os.path.realpath(where)}" for name, where in _FOUND.findall(text)],
        "missing": sorted(set(_MISSING.findall(text))),
        "versions": sorted({version for version, _ in _VERSION.findall(text)}),
        "symbols": sorted({a or b for a, _, b, _ in _SYMBOL.findall(text)}),
        "refused": [] if _FOUND.search(text) or done.returncode == 0 else [text.strip()[:200]],
    }


def searched(path: Path) -> list[str]:
    """For each library that was found by searching, through what."""
    done = subprocess.run(
        [LOADER, path], env=SEARCH, capture_output=True, text=True, errors="replace", check=False
    )
    found: dict[str, str] = {}
    name = why = ""
    for line in done.stderr.splitlines():
        text = line.partition(":")[2].strip()
        if text.startswith("find library="):
            name = text.removeprefix("find library=").partition(" ")[0]
        elif text.startswith("search path="):
            why = text.rpartition("(")[2].partition(" ")[0]
        elif text.startswith("search cache="):
            why = "ld.so.cache"
        elif text.startswith("trying file="):
            found[name] = "a default directory" if why == "system" else why
    missing = set(_MISSING.findall(done.stdout))
    return sorted(f"{at} {through}" for at, through in found.items() if at not in missing)


class Model:
    """What the linker model says, as if each object were a program of its own."""

    def __init__(self, *, without_cache: bool) -> None:
        self.files = Libraries(EM_X86_64, LOADER)
        self.system = self.files.system
        if without_cache:  # to see that the comparison notices
            self.system = replace(self.system, cache={})
        self.symbols: dict[Path, Symbols] = {}

    def traced(self, path: Path) -> dict[str, list[str]]:
        module = self.files.library(path)
        assert module is not None
        world = World(module, {}, {})
        seen = forecast(module, self.files, self.system, world)
        loader = os.path.realpath(LOADER)
        where = {e.name: os.path.realpath(e.library.path) for e in seen.closure.found}
        found = [
            f"{n} {where[n]}"
            for n in seen.order
            if n in where and where[n] != loader and "/" not in n
        ]
        named = [problem.split() for problem in seen.problems]
        through = {e.name: e.why for e in seen.closure.found if "/" not in e.name}
        through = {name: why for name, why in through.items() if where[name] != loader}
        return {
            "through": sorted(f"{name} {why}" for name, why in through.items()),
            "found": found,
            "missing": sorted(entry.name for entry in seen.closure.missing),
            "versions": sorted({words[2].rstrip(",") for words in named if words[-1] != "found"}),
            "symbols": sorted(
                {symbol.name for _, symbol in unresolved(module, seen, world, self._symbols)}
            ),
            "refused": [],
        }

    def _symbols(self, library: Library) -> Symbols:
        if library.path not in self.symbols:
            with library.path.open("rb") as file:
                self.symbols[library.path] = read_symbols(ElfFile(file))
        return self.symbols[library.path]


def main() -> None:
    paths, model = list(objects()), Model(without_cache=sys.argv[1:] == ["without-cache"])
    with ThreadPoolExecutor(2) as pool:
        real = dict(zip(paths, pool.map(traced, paths), strict=True))
    differing = {}
    for path in paths:
        ours = model.traced(path)
        wrong = {k: [real[path][k], ours[k]] for k in ours if ours[k] != real[path][k]}
        if wrong:
            differing[str(path)] = wrong
    totals = {
        key: sum(len(entry[key]) for entry in real.values()) for key in next(iter(real.values()))
    }
    json.dump(
        {"objects": len(paths), "totals": totals, "differing": differing}, sys.stdout, indent=1
    )


if __name__ == "__main__":
    main()
