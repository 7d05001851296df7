# SPDX-License-Identifier: Apache-2.0
"""`holdover enable` and `disable`: the files that make others call holdover."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from holdover.cli import services
from holdover.errors import UsageError
from holdover.packages import MANAGERS, load_adapter
from holdover.packages.adapter import HookFile

__all__ = ["enable", "refresh", "disable", "wanted_files", "is_current", "own_command"]

_INSTALLED = Path("/usr/bin/holdover")


def enable(*, again: bool = False) -> list[tuple[Path, str]]:
    """Write the hook files; returns each path with what was done to it.

    With `again` a timer that the operator disabled stays so.
    """
    files = list(wanted_files())
    if not any(load_adapter(manager).is_here() for manager in MANAGERS):
        raise UsageError(
            f"there is no package manager that holdover knows: {', '.join(MANAGERS)}",
            hint="run `holdover protect` before you replace files of a program",
        )
    changes = [(file.path, _write(file)) for file in files]
    return [*changes, *services.start(changes, again=again)]


def refresh() -> list[tuple[Path, str]]:
    """Bring up to date what is enabled; where nothing is, the operator wanted it so."""
    return enable(again=True) if any(path.exists() for path in _all_paths()) else []


def disable() -> list[tuple[Path, str]]:
    """Remove the hook files; returns each path that was there with what was done to it."""
    changes = list(services.stop())
    changes += [(path, "removed") for path in _all_paths() if _remove(path)]
    services.tidy()
    return changes


def wanted_files() -> Iterator[HookFile]:
    """The hook files of each package manager that is here, and of services, for the command that
    is running.
    """
    for manager in MANAGERS:
        adapter = load_adapter(manager)
        if adapter.is_here():
            yield from adapter.hook_files(own_command())
    yield from services.service_files(own_command())


def _all_paths() -> list[Path]:
    """Of package managers that are not here too: they may have been."""
    files = (file for name in MANAGERS for file in load_adapter(name).hook_files(_INSTALLED))
    return [file.path for file in (*files, *services.all_service_files())]


def own_command() -> Path:
    """The command that is running, or the one that is installed."""
    called = Path(sys.argv[0])
    found = shutil.which(str(called)) if called.name == "holdover" else None
    if found is None and not _INSTALLED.exists():
        raise UsageError(
            "the path of the holdover command is not known", hint="call it as `holdover enable`"
        )
    return Path(found).absolute() if found else _INSTALLED


def is_current(file: HookFile) -> bool:
    """Whether it is there as it should be; raises `OSError`."""
    found = file.path.stat()
    return file.path.read_bytes() == file.text.encode() and found.st_mode & 0o777 == file.mode


def _write(file: HookFile) -> str:
    there = file.path.exists()
    if there and is_current(file):
        return "is current"
    file.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.path.with_name(f"{file.path.name}.holdover-new")  # managers ignore such names
    temporary.write_text(file.text)
    temporary.chmod(file.mode)
    temporary.rename(file.path)
    return "updated" if there else "written"


def _remove(path: Path) -> bool:
    """Returns whether it was there."""
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
