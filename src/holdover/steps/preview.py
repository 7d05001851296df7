# SPDX-License-Identifier: Apache-2.0
"""Preview: what a pending change of packages would break, and what would be held before it."""

from collections.abc import Iterator
from pathlib import Path

from holdover.answers import Preview
from holdover.builds import read_module_stamp
from holdover.elf import ElfFile
from holdover.errors import ElfError, HoldoverError
from holdover.held import Holding
from holdover.lateloads import LateLoads
from holdover.model import Capture, Item, LateLoad, Process, State
from holdover.pending import PendingFiles
from holdover.programs import Program
from holdover.rewrite import RPATH, rewrite
from holdover.sight import Sight

__all__ = ["preview"]

_NOTHING_TO_LOSE = (State.PROTECTED, State.DEFUSED, State.POISONED)
"""It finds its own, or nothing loads in it as it is."""


def preview(
    item: Item,
    late_loads: LateLoads,
    pending: PendingFiles,
    program: Program,
    holdings: tuple[Holding, ...],
) -> Preview:
    """For one process, as planned before the change; nothing is changed."""
    breaks = tuple(_breaks(item, late_loads, pending, program))
    if isinstance(item.source, Capture):
        return _of_capture(item, breaks, item.source, pending)
    held = next(
        (h.snapshot for h in holdings if h.snapshot.id in (item.source, item.snapshot)), None
    )
    if held is None:
        return Preview(item, breaks)
    gone = (file.size for file in held.files if _goes(Path(file.origin), pending))
    return Preview(item, breaks, len(held.modules), len(held.libraries), sum(gone))


def _of_capture(
    item: Item, breaks: tuple[tuple[str, str], ...], wanted: Capture, pending: PendingFiles
) -> Preview:
    needs = {need.name: need for late in wanted.modules for need in late.needs}
    written = sum(_rewritten_size(late) for late in wanted.modules if late.order)
    linked = sum(_size(late.path) for late in wanted.modules if not late.order)
    gone = sum(need.size for need in needs.values() if _goes(need.path, pending))
    return Preview(item, breaks, len(wanted.modules), len(needs), written + linked + gone, written)


def _goes(path: Path, pending: PendingFiles) -> bool:
    """Whether nothing but the store will have the file."""
    return pending.replacement(path) is not None


def _rewritten_size(late: LateLoad) -> int:
    try:
        with late.path.open("rb") as file:
            return len(rewrite(file, RPATH, late.order))
    except (OSError, ElfError):  # it will not be held either
        return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it went a moment ago; then it will not be held either
        return 0


def _breaks(
    item: Item, late_loads: LateLoads, pending: PendingFiles, program: Program
) -> Iterator[tuple[str, str]]:
    """What would no longer load if nothing were done."""
    process = item.process
    if item.state in _NOTHING_TO_LOSE or not process.own:
        return
    try:
        sight = late_loads.after(late_loads.process(process.id.pid), pending)
    except (HoldoverError, OSError) as error:
        yield "all", f"cannot be told: {error}"
        return
    for late in process.own:
        if late.problem or late.other or late.name in process.loaded:
            continue
        reason = _module_goes(process, late, pending, program) or _closure_goes(
            late, sight, pending
        )
        if not reason and not process.build.exact and pending.new_file(late.path):
            reason = _symbols_go(late_loads, sight, late, process)
        if reason:
            yield late.name, reason


def _symbols_go(late_loads: LateLoads, sight: Sight, late: LateLoad, process: Process) -> str:
    """What a later build's module needs and this process has not got, though its stamp is right."""
    try:
        return late_loads.lacking(sight, late, process.own)
    except HoldoverError as error:
        return f"cannot be told: {error.message}"


def _module_goes(process: Process, late: LateLoad, pending: PendingFiles, program: Program) -> str:
    """Why the module itself is lost, or ""."""
    change = pending.replacement(late.path)
    if change is None:
        return ""
    new = pending.new_file(late.path)
    if new is not None:
        same = _same_stamp(process, new, program) and not _refused(process, pending)
        return "" if same else f"{change} replaces it by one of another build"
    if change.version and not change.at_hand:
        return f"{change} replaces it; most likely another build, the package is not at hand"
    return str(change) if not change.version else f"{change} has no such module any more"


def _same_stamp(process: Process, new: Path, program: Program) -> bool:
    try:
        with new.open("rb") as file:
            return read_module_stamp(file, program) == process.build.stamp
    except (OSError, ElfError):
        return False


def _refused(process: Process, pending: PendingFiles) -> bool:
    """Whether its executable becomes another build, whose modules it does not take."""
    new = pending.new_file(process.executable) if process.build.strict else None
    if new is None:
        return False
    try:
        with new.open("rb") as file:
            return ElfFile(file).build_id != process.build.build_id
    except (OSError, ElfError):
        return True


def _closure_goes(late: LateLoad, sight: Sight, pending: PendingFiles) -> str:
    """Why it would not load with the libraries to come, or ""."""
    for need in late.needs:
        if need.name not in late.order:
            continue  # it is held for what may be opened by name
        change = pending.replacement(need.path)
        if change is not None and change.version and not change.at_hand:
            return f"{change} replaces {need.name}; if that fits cannot be told without the package"
    try:
        there = sight.forecast(late.path)
    except ElfError as error:
        return error.message
    return there[1].problem if there else ""
