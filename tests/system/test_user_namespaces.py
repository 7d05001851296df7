# SPDX-License-Identifier: Apache-2.0
"""A mount namespace that somebody else made is never entered: he is root in it."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from system.scratch import running
from unit.factories import build

from holdover.covering import FOREIGN, MountTables
from holdover.errors import RefusedError
from holdover.model import Process
from holdover.procfs import ProcFs
from holdover.steps.deliver.mount import Mounter

pytestmark = pytest.mark.system
PROC = ProcFs()
USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
PRIVATE = ("unshare", "--mount")
OWN = (*USER, "unshare", "--user", "--map-root-user", "--mount")


@contextmanager
def alone(*wrapper: str) -> Iterator[int]:
    """A process in a mount namespace of its own."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*wrapper, "cat"], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            os.write(process.stdin.fileno(), b"ready\n")
        if process.stdout.readline() != b"ready\n":
            pytest.skip(f"no such namespaces here: {process.communicate()[1]!r}")
        yield process.pid


def looking_in(directory: Path, pid: int) -> Process:
    return replace(running(pid, PROC), build=build(directories=(directory,)))


def mounts(pid: int) -> str:
    return PROC.read(pid, "mountinfo")


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    """Where a program looks for modules, and a view."""
    tmp_path.chmod(0o755)
    places = tmp_path / "modules", tmp_path / "view/qemu-aaaaaaaaaaaa"
    for place in places:
        place.mkdir(parents=True)
    return places


def test_namespace_of_root_may_be_entered(
    directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, view = directories
    monkeypatch.setattr(MountTables, "refusal", lambda *_: "")  # not every process can be read here
    with alone(*PRIVATE) as pid, closing(Mounter(PROC)) as mounter:
        mounter.deliver(looking_in(modules, pid), view)
        assert str(modules) in mounts(pid)


def test_namespace_of_a_user_is_refused(directories: tuple[Path, Path]) -> None:
    modules, view = directories
    with alone(*OWN) as pid, closing(Mounter(PROC)) as mounter:
        process, before = looking_in(modules, pid), mounts(pid)
        assert MountTables(PROC).refusal(pid, process.executable_file, modules) == FOREIGN
        with pytest.raises(RefusedError, match="is root in it"):
            mounter.deliver(process, view)
        assert mounts(pid) == before


def test_process_that_goes_to_one_after_the_look_is_refused(
    directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is asked whose it is, is what is entered: one descriptor."""
    modules, view = directories
    monkeypatch.setattr(MountTables, "refusal", lambda *_: "")
    with alone(*OWN) as pid, closing(Mounter(PROC)) as mounter:
        process, before = looking_in(modules, pid), mounts(pid)
        for deliver in (mounter.deliver, mounter.release):
            with pytest.raises(RefusedError, match="is root in it"):
                deliver(process, view)
        assert mounts(pid) == before
