# SPDX-License-Identifier: Apache-2.0
"""Targets one after the other, each in a child, driven by libFuzzer. The arguments are
DIRECTORY FINDINGS SECONDS NAME...

To import all of it with counters takes longer than a short run: it is done once, in the parent.
What libFuzzer says of a target goes to NAME.log in the directory, what its dearest input cost to
NAME.json, whenever that is more than ever before.
"""

import json
import os
import resource
import sys
import time
from pathlib import Path

import atheris

# what holdover is made of, and what of Python's own library is Python
with atheris.instrument_imports(
    include=["holdover", "tomllib", "tarfile", "json", "html", "shlex"],
    enable_loader_override=False,
):
    from fuzz.targets import CORPUS, TARGETS

_HANG = 10
"""Seconds that one input may take before that is a finding."""
_ROOM = 1024
"""MiB that the process may have in all, Python and libFuzzer included."""


class _Explorer:
    """Runs inputs, and keeps the figures of the dearest."""

    def __init__(self, name: str, figures: Path) -> None:
        self.target = TARGETS[name]
        self.figures = figures
        self.slowest, self.before, self.peak = 0.0, 0, 0

    def __call__(self, data: bytes) -> None:
        self.before = self.before or _resident()
        started = time.process_time()
        self.target.attempt(data)
        took, peak = time.process_time() - started, _resident()
        if took <= self.slowest and peak <= self.peak:
            return
        self.slowest, self.peak = max(took, self.slowest), max(peak, self.peak)
        figures = {"slowest": self.slowest, "memory": self.peak - self.before}
        self.figures.write_text(json.dumps(figures))


def _resident() -> int:
    """Bytes, the most that it ever were."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _explore(name: str, directory: Path, findings: str, seconds: str) -> None:
    """In a child, which ends with it."""
    log = os.open(directory / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    grown = directory / name
    grown.mkdir()
    options = (
        f"-max_total_time={seconds}",
        f"-timeout={_HANG}",
        f"-rss_limit_mb={_ROOM}",
        f"-max_len={TARGETS[name].longest}",
        f"-artifact_prefix={findings}/{name}-",
        "-print_final_stats=1",
    )
    explorer = _Explorer(name, directory / f"{name}.json")
    atheris.Setup([sys.argv[0], *options, str(grown), str(CORPUS / name)], explorer)
    atheris.Fuzz()


def main() -> None:
    directory, findings, seconds, *names = sys.argv[1:]
    for name in names:
        child = os.fork()
        if not child:
            _explore(name, Path(directory), findings, seconds)
            os._exit(1)  # it does not come back
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
