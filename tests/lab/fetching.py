# SPDX-License-Identifier: Apache-2.0
"""Fetching old packages inside a lab, by the holdover that is installed there."""

import json
from dataclasses import dataclass
from typing import Any

from lab.chroot import Lab

__all__ = ["EXECUTABLE", "PLACE", "Fetcher", "identify", "origins"]

EXECUTABLE = "/usr/bin/qemu-system-x86_64"
PLACE = "/var/tmp/place"

_IDENTIFY = """
import json, sys
from holdover.builds import read_build
from holdover.programs import load_programs
program = next(p for p in load_programs() if p.name == "qemu")
with open(sys.argv[1], "rb") as file:
    build = read_build(file, program)
print(json.dumps({
    "executable": sys.argv[2], "build_id": build.build_id, "version": build.version,
    "directories": [str(path) for path in build.directories], "packages": program.packages,
}))
"""
_FETCH = """
import dataclasses, json, sys
from pathlib import Path
from holdover.errors import HoldoverError
from holdover.packages.fetch import Sources, Wanted, fetch
wanted, sources, place, dependencies = json.loads(sys.argv[1])
wanted["executable"] = Path(wanted["executable"])
wanted["directories"] = tuple(map(Path, wanted["directories"]))
if "directory" in sources:
    sources["directory"] = Path(sources["directory"])
Path(place).mkdir(exist_ok=True)
told = []
try:
    done = fetch(
        Wanted(**wanted), Path(place), Sources(**sources), dependencies=dependencies,
        progress=told.append,
    )
    answer = dataclasses.asdict(done)
except HoldoverError as error:
    answer = {"error": type(error).__name__, "text": str(error)}
    answer["files"] = [dataclasses.asdict(file) for file in getattr(error, "files", ())]
print(json.dumps({**answer, "told": told}, default=str))
"""


def identify(lab: Lab, path: str) -> dict[str, Any]:
    """The build of an executable that is usually at `EXECUTABLE`."""
    done = lab.root.run("python3", "-I", "-c", _IDENTIFY, path, EXECUTABLE)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@dataclass(frozen=True, slots=True)
class Fetcher:
    """Fetches the packages of one build into `PLACE`."""

    lab: Lab
    build: dict[str, Any]

    def __call__(
        self, *, dependencies: bool = False, build: dict[str, Any] | None = None, **sources: Any
    ) -> dict[str, Any]:
        """What came of it; `sources` as in `Sources`."""
        words = json.dumps([{**self.build, **(build or {})}, sources, PLACE, dependencies])
        done = self.lab.root.run("python3", "-I", "-c", _FETCH, words)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def origins(answer: dict[str, Any]) -> set[str]:
    """Where the packages came from; fails if there are none."""
    assert "error" not in answer, answer
    return {file["origin"] for file in answer["packages"]}
