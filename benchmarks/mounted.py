# SPDX-License-Identifier: Apache-2.0
"""Runs inside the root: covers the module directory of each guest, in two ways, in turn."""

import json
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from holdover.cli.setup import make_holdover
from holdover.config import load_config
from holdover.model import Process
from holdover.steps.deliver.mount import Mounter

VIEW = Path("/usr/lib/holdover/view/measured")


def by_nsenter(process: Process) -> None:
    enter = ("/usr/bin/nsenter", f"--target={process.id.pid}", "--mount")
    mount = ("/usr/bin/mount", "--bind", str(VIEW), str(process.build.directories[0]))
    subprocess.run((*enter, *mount), check=True)


def undo_nsenter(process: Process) -> None:
    enter = ("/usr/bin/nsenter", f"--target={process.id.pid}", "--mount")
    subprocess.run((*enter, "/usr/bin/umount", str(process.build.directories[0])), check=True)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


VIEW.mkdir(parents=True)
holdover = make_holdover(load_config())
processes = [item.process for item in holdover.status()[1]]
times: dict[str, list[float]] = {"ours": [], "nsenter": []}
with closing(Mounter(holdover.proc)) as mounter:
    for process in processes:
        times["ours"].append(timed(lambda p=process: mounter.deliver(p, VIEW)))  # type: ignore[misc]
    for process in processes:
        mounter.release(process, VIEW)
for process in processes:
    times["nsenter"].append(timed(lambda p=process: by_nsenter(p)))  # type: ignore[misc]
    undo_nsenter(process)
VIEW.rmdir()
print(json.dumps(times))
