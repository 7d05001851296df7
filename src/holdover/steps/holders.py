# SPDX-License-Identifier: Apache-2.0
"""Find modules of a replaced build that this machine still has: mapped, or saved by others.

What a process has mapped is a file that was installed here, whatever became of its name; only root
could have put it there and given it that name, or it is passed over.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from holdover import linux
from holdover.builds import read_module_stamp
from holdover.errors import ElfError, MalformedError, ProcessError
from holdover.model import Build, Module, Process
from holdover.mounted import mounts_of_root
from holdover.procfs import DELETED, ProcFs, file_id
from holdover.programs import Program
from holdover.trust import distrust, distrust_file

__all__ = ["modules_on_this_machine"]


def modules_on_this_machine(
    proc: ProcFs, processes: Iterable[Process], program: Program, build: Build, place: Path
) -> dict[Module, str]:
    """Modules of `build`, each with where it was found; copies of them are made in `place`.

    What cannot be read or copied is left out: others may have it. Raises `OSError` if there is no
    `place` to be had.
    """
    place.mkdir()
    found: dict[str, tuple[Module, str]] = {}
    for process in processes:
        if process.build.build_id == build.build_id and not process.unsupported:
            with suppress(ProcessError, MalformedError, OSError):  # it ended meanwhile
                for name, file in _mapped(proc, process, program):
                    with file, suppress(OSError):
                        if name not in found and _is_own(file, program, build):
                            module = _copied(file, place / f"{name}.so", build)
                            found[name] = module, f"mapped by process {process.id.pid}"
    return dict(found.values())


def _mapped(proc: ProcFs, process: Process, program: Program) -> Iterator[tuple[str, BinaryIO]]:
    """Not what lies on disk now, if that is of a build whose stamp is the same."""
    mounts = mounts_of_root(proc, process.id.pid)
    for mapping in proc.maps(process.id.pid):
        path = mapping.path.removesuffix(DELETED)
        name = path.rpartition("/")[2].removesuffix(".so")
        if path.endswith(".so") and program.is_module(name) and not distrust(Path(path).parent):
            file = proc.open_mapped(process.id.pid, mapping)
            if file is None:
                continue
            another = process.look_alike and file_id(file.fileno()) == file_id(path)
            if linux.mount_id(file.fileno()) in mounts and not another:
                yield name, file
            else:
                file.close()


def _is_own(file: BinaryIO, program: Program, build: Build) -> bool:
    if distrust_file(os.fstat(file.fileno())):
        return False
    try:
        return read_module_stamp(file, program) == build.stamp
    except ElfError:
        return False


def _copied(file: BinaryIO, path: Path, build: Build) -> Module:
    """Nothing stays of a copy that could not be made whole."""
    file.seek(0)
    try:
        with path.open("xb") as copy:
            shutil.copyfileobj(file, copy)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return Module(path.stem, path, build.stamp or "")
