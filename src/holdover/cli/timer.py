# SPDX-License-Identifier: Apache-2.0
"""What is done every few minutes, and when libvirt starts a guest.

The timer protects who is new, lets go of what nobody needs, looks at everybody and writes the
metrics. It says only what is new, or a guest that cannot be helped would fill the log.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from holdover.cli.events import NOT_PROTECTED, of_collected, of_result, of_risks
from holdover.cli.recording import DIRECTORY
from holdover.cli.reports import Done, publisher, report, tell, told_of
from holdover.cli.setup import make_holdover, make_programs
from holdover.cli.transactions import under_way
from holdover.config import Config
from holdover.errors import ProcessError
from holdover.flow import Holdover
from holdover.identity import ProcessId
from holdover.journal import Entry
from holdover.judging import BAD_STATES
from holdover.model import Item, Result, Scan, State
from holdover.notify import ask_for_time, notify_status
from holdover.procfs import DELETED, ProcFs
from holdover.programs import Program
from holdover.steps.plan import Aim

__all__ = ["on_timer", "on_guest_started"]

TOLD = Path(DIRECTORY) / "told"


def on_timer(config: Config) -> Done:
    """Nothing while a transaction is under way: its hooks do all this, and better informed."""
    ask_for_time(config.hook_budget + 30)
    holdover = make_holdover(config, lock_timeout=config.hook_budget, ask_journal=True)
    if transaction := under_way(holdover.proc):
        return Done(f"process {transaction.pid} is changing packages: its hooks see to it")
    seen, items = holdover.status()
    result = Result(())
    if config.timer_protect and _has_work(holdover, seen):
        result = holdover.carry_out(Aim.PROTECT, _all_but_released(holdover))
        seen, items = holdover.status()
    collected = holdover.collect()
    told = {o.process.id for o in result.outcomes if o.failed or o.state is State.POISONED}
    others = (item for item in items if item.process.id not in told)
    tell(_news([*of_result(result), *of_collected(collected), *of_risks(others)]), config)
    done = _done(result, items, len(collected.snapshots))
    return replace(done, finish=publisher(holdover, config, (seen, items)))


def _done(result: Result, items: tuple[Item, ...], removed: int) -> Done:
    risky = sum(item.state in BAD_STATES for item in items)
    parts = [told_of(result.outcomes), f"removed {removed} snapshots" if removed else ""]
    parts += [f"{risky} of {len(items)} at risk, see `holdover status`" if risky else ""]
    said = "; ".join(filter(None, parts))
    notify_status(said or f"{len(items)} processes, none at risk")
    failed = risky or result.problems or any(outcome.failed for outcome in result.outcomes)
    return Done(said, "incomplete" if failed else "done")


def _has_work(holdover: Holdover, seen: Scan) -> bool:
    """Most often there is none, and the lock is for others."""
    released = _released(holdover)
    pids = {process.pid for process in released}
    others = tuple(
        process
        for process in seen.processes
        if process.id not in released and process.part_of not in pids
    )
    return holdover.wants_something(replace(seen, processes=others), Aim.PROTECT)


def _all_but_released(holdover: Holdover) -> tuple[int, ...]:
    """Nor those that they have forked since. Nobody in particular means everybody."""
    spared = {process.pid for process in _released(holdover)}
    spared.update(holdover.proc.children(spared))
    return tuple(pid for pid in holdover.proc.pids() if pid not in spared) if spared else ()


def _released(holdover: Holdover) -> frozenset[ProcessId]:
    """Those who live; of the dead nothing is to be remembered."""
    released = holdover.store.released
    everybody = released.all()
    alive = frozenset(process for process in everybody if holdover.proc.is_alive(process))
    for process in everybody - alive:
        released.forget(process)
    return alive


def _news(entries: Iterable[Entry], told: Path = TOLD) -> list[Entry]:
    """Without those about guests of whom the same was told the last time."""
    entries, before = list(entries), frozenset[str]()
    with suppress(OSError, UnicodeDecodeError):
        before = frozenset(told.read_text().splitlines())
    standing = [entry.text for entry in entries if entry.id == NOT_PROTECTED.id]
    with suppress(OSError):
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text("".join(f"{text}\n" for text in standing))
    return [e for e in entries if e.id != NOT_PROTECTED.id or e.text not in before]


# -- libvirt ---------------------------------------------------------------------------------------


def on_guest_started(name: str, config: Config) -> Done:
    """Protect the guest that libvirt has just started.

    libvirt itself is asked nothing, but for a preload: that works, as its hook has ended by then.
    """
    if not config.libvirt_protect:
        return Done()
    holdover = make_holdover(config, lock_timeout=config.hook_budget)
    pids = _pids_of(name, holdover.proc, make_programs(config))
    # one that has another name on its command line is among those that are not protected yet
    return report(holdover.carry_out(Aim.PROTECT, pids or _all_but_released(holdover)), config)


def _pids_of(name: str, proc: ProcFs, programs: tuple[Program, ...]) -> tuple[int, ...]:
    found = []
    for pid in proc.pids():
        with suppress(ProcessError):
            executable = proc.link(pid, "exe").removesuffix(DELETED)
            program = next((p for p in programs if p.runs(executable)), None)
            line = b"\0" + proc.read(pid, "cmdline").encode("utf-8", "surrogateescape")
            if program and program.guest_name(line) == name:
                found.append(pid)
    return tuple(found)
