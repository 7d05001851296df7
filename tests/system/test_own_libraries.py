# SPDX-License-Identifier: Apache-2.0
"""What is mapped in a real process, seen through /proc: this very one."""

import os
from pathlib import Path

import pytest
from system.test_store_faults import mounted

from holdover.elf import ElfFile
from holdover.errors import UnreadableError
from holdover.lateloads import LateLoads
from holdover.model import Module
from holdover.procfs import ProcFs
from holdover.sight import Sight

pytestmark = pytest.mark.system
PID = os.getpid()


@pytest.fixture(scope="module")
def sight() -> Sight:
    try:
        return LateLoads(ProcFs()).process(PID)
    except UnreadableError as error:
        pytest.skip(str(error))


def test_libc_is_mapped_and_came_with_the_executable(sight: Sight) -> None:
    libc = sight.world.mapped["libc.so.6"]
    assert sight.world.start_up["libc.so.6"] is libc
    assert "GLIBC_2.2.5" in libc.defines
    assert libc.path.samefile(next(path for path in listed() if path.name == libc.path.name))


def listed() -> list[Path]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [Path(line.split(None, 5)[5]) for line in lines if ".so" in line]


def test_every_library_that_the_kernel_lists_is_mapped(sight: Sight) -> None:
    known = {library.path for library in sight.world.mapped.values()}
    assert {path for path in listed() if path.exists()} <= known


def test_what_the_executable_names_came_with_it(sight: Sight) -> None:
    with open("/proc/self/exe", "rb") as file:
        assert set(ElfFile(file).needed) <= set(sight.world.start_up)


def test_what_this_process_has_loaded_late_would_load(sight: Sight) -> None:
    extensions = [path for path in set(listed()) if "lib-dynload" in path.parts]
    assert extensions
    for path in extensions:
        seen = sight.forecast(path)
        assert seen is not None
        assert seen[1].problems == ()


def test_what_lies_on_a_noexec_mount_would_fail(tmp_path: Path) -> None:
    late = LateLoads(ProcFs())
    extension = next(path for path in listed() if "lib-dynload" in path.parts)

    def problem(directory: Path) -> str:
        copy = directory / "m.so"
        copy.write_bytes(extension.read_bytes())
        (found,) = late.of(late.process(PID), [Module("m", copy, "")])
        return found.problem

    with mounted(tmp_path / "noexec", "noexec") as noexec, mounted(tmp_path / "exec", "exec") as ok:
        assert problem(noexec) == f"{noexec} is mounted noexec"
        assert problem(ok) == ""
