# SPDX-License-Identifier: Apache-2.0
"""A run that is interrupted leaves no mount, no process and, after the next sweep, no directory."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from holdover.demo.root import sweep

pytestmark = pytest.mark.e2e

# a shell that starts the tests in the background has SIGINT ignored, and so has who inherits that
STARTS_A_GUEST = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from lab import Lab
from holdover.demo.guest import Guest
with Lab.with_holdover(Path(sys.argv[1]), Path(sys.argv[2])) as lab:
    guest = Guest.start(lab.root, "guest", wrapper=("unshare", "--mount"))
    lab.holdover("protect", "--delivery", "mount")
    print(Path(f"/proc/{lab.root.init}/ns/pid").stat().st_ino, flush=True)
    sys.stdin.read()
"""

BOOTS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from lab import BootedLab
with BootedLab(Path(sys.argv[1]), Path(sys.argv[2])) as lab:
    lab.define_guest("guest")
    print(Path(f"/proc/{lab.leader}/ns/pid").stat().st_ino, flush=True)
    sys.stdin.read()
"""


def processes_in(pid_namespace: int) -> list[Path]:
    found = []
    for link in Path("/proc").glob("[0-9]*/ns/pid"):
        with suppress(OSError):  # it ended meanwhile
            if link.stat().st_ino == pid_namespace:
                found.append(link)
    return found


def wait_until(truth: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not truth():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.02)


def interrupt(script: str, base: Path, scratch: Path, with_signal: signal.Signals) -> int:
    """End the script by a signal when its guest runs; returns its pid namespace."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/sbin:/usr/bin:/bin"}
    command = (sys.executable, "-c", script, str(base), str(scratch))
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    ) as process:
        assert process.stdout is not None
        namespace = int(process.stdout.readline())
        assert processes_in(namespace) != []
        assert list(scratch.iterdir()) != []
        process.send_signal(with_signal)
        assert process.wait() != 0
    return namespace


def is_clean(directory: Path, namespace: int) -> bool:
    mounts = Path("/proc/self/mountinfo").read_text()
    return str(directory) not in mounts and processes_in(namespace) == []


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_chroot_lab(base: Path, scratch: Path, with_signal: signal.Signals) -> None:
    own = scratch / f"interrupted-{with_signal}"
    namespace = interrupt(STARTS_A_GUEST, base, own, with_signal)
    wait_until(lambda: is_clean(own, namespace))
    assert with_signal != signal.SIGINT or list(own.iterdir()) == []
    sweep(own)
    assert list(own.iterdir()) == []
    own.rmdir()


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_booted_lab(
    booted_base: Path, tmp_path: Path, with_signal: signal.Signals
) -> None:
    namespace = interrupt(BOOTS, booted_base, tmp_path, with_signal)
    wait_until(lambda: is_clean(tmp_path, namespace) and list(tmp_path.iterdir()) == [])
