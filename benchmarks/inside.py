# SPDX-License-Identifier: Apache-2.0
"""Runs inside the root: commands one after another, each timed as a whole process.

So that the way into the root, which takes as long as the fastest of them, is not measured.
"""

import json
import os
import subprocess
import sys
import tempfile
import time


def timed(words: list[str], text: str) -> dict[str, object]:
    """Seconds, bytes; `peak` is at least our own, 12 MB."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output:
        given.write(text.encode())
        given.seek(0)
        started = time.perf_counter()
        process = subprocess.Popen(words, stdin=given, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read().decode("utf-8", "replace")
    return {
        "seconds": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss * 1024,
        "code": process.returncode,
        "output": said,
        "files": sorted({os.path.realpath(w.rstrip(":")) for w in said.split() if w[0] == "/"}),
    }


print(json.dumps([timed(entry["words"], entry["text"]) for entry in json.load(sys.stdin)]))
