# SPDX-License-Identifier: Apache-2.0
"""What package managers call.

The guest first, the upgrade second, holdover last: a hook always exits 0, within its time, and
says on stderr what it did not do; unless the operator wants a veto. The shell around it serves the
case that it cannot even start (packages/guard.py).
"""

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from holdover.cli import budget
from holdover.cli.listing import Listing
from holdover.cli.recording import write_record
from holdover.cli.reports import Done, announce, complain, publisher, report, tell
from holdover.cli.setup import make_holdover
from holdover.cli.transactions import mark, own, unmark
from holdover.concern import Hint, hints, names_any, touched
from holdover.config import Config, load_config
from holdover.errors import BudgetError, HoldoverError, ProcessError, UsageError
from holdover.identity import ProcessId
from holdover.packages import MANAGERS, Change, load_adapter
from holdover.packages.guard import VETO
from holdover.procfs import ProcFs

__all__ = ["run_hook"]


def run_hook(words: Sequence[str], listing: Listing, started: float) -> int:
    """`hook MANAGER before PID [WORD...]`, its list on stdin, or `hook MANAGER after`;
    `hook timer`; `hook libvirt GUEST started begin EXTRA`.

    `started` is what the clock of performance said when the hook began. Returns 0 to a package
    manager; `VETO` if something is not protected before a transaction, and that was asked for. The
    service manager may know if its hook failed.
    """
    config = load_config()
    for problem in config.problems:
        complain(problem)
    name = _name(words)
    done = _within_budget(words, listing, config)
    seconds = time.perf_counter() - started
    if config.hook_veto and not done.complete and name.endswith("-before"):
        done = replace(done, result="vetoed")
    write_record(name, seconds, done.result)
    _tell_failure(name, done, seconds, config)
    if done.said and done.result in ("done", "incomplete", "vetoed"):
        announce(f"holdover: {done.said} ({seconds:.2f} s)")
    if done.finish:
        done.finish()
    if name == "timer-run":
        return int(done.result in ("gave-up", "failed"))
    return _answer(done)


def _answer(done: Done) -> int:
    """To a package manager."""
    if done.result == "vetoed":
        complain("the transaction is stopped, as the setting hook.veto asks for")
        return VETO
    if not done.complete:
        complain("the transaction goes on; `holdover status` shows who is at risk")
    return 0


def _tell_failure(name: str, done: Done, seconds: float, config: Config) -> None:
    """To the system's log."""
    if done.result in ("gave-up", "failed", "vetoed"):
        from holdover.cli.events import FAILED, GAVE_UP, VETOED, of_hook

        kind = {"gave-up": GAVE_UP, "failed": FAILED, "vetoed": VETOED}[done.result]
        reason = kind.subject if done.result == "vetoed" else done.said
        tell([of_hook(kind, name, reason, seconds)], config)


def _within_budget(words: Sequence[str], listing: Listing, config: Config) -> Done:
    budget.start(config.hook_budget)
    try:
        return _dispatch(words, listing, config)
    except BudgetError:
        done = Done(
            f"gave up after {config.hook_budget:.0f} s; the rest is not protected", "gave-up"
        )
    except HoldoverError as error:
        done = Done(str(error), "failed")
    except Exception as error:  # whatever it is, it is not the transaction's fault
        done = Done(f"unexpected: {error!r}", "failed")
    finally:
        budget.stop()
    complain(done.said)
    return done


def _name(words: Sequence[str]) -> str:
    """Hook and phase, by which it is remembered how it ended; "unknown" for what is no hook."""
    match list(words):
        case ["timer"]:
            return "timer-run"
        case ["libvirt", _, "started", *_]:
            return "libvirt-started"
        case [manager, ("before" | "after") as phase, *_] if manager in MANAGERS:
            return f"{manager}-{phase}"
    return "unknown"


def _dispatch(words: Sequence[str], listing: Listing, config: Config) -> Done:
    match list(words):
        case ["timer"]:
            from holdover.cli.timer import on_timer

            return on_timer(config)
        case ["libvirt", guest, "started", "begin", _]:
            from holdover.cli.timer import on_guest_started

            return on_guest_started(guest, config)
        case [manager, "before", pid, *more] if pid.isdecimal() and len(pid) < 20:
            touches = _touched_by(manager, more, listing, config)
            return _protect(touches, int(pid), config) if touches else Done()
        case [manager, "after"]:
            load_adapter(manager)
            return after_transaction(config)
    raise UsageError(f"no such hook: {shlex.join(words)}", hint="run `holdover enable` again")


def _touched_by(
    manager: str, words: Sequence[str], listing: Listing, config: Config
) -> Callable[[Path], bool] | None:
    """As `_touches`. If what is about to change cannot be told, it may be everything."""
    adapter, programs = load_adapter(manager), hints(but=config.programs_disabled)
    try:
        change = adapter.read_change(words, listing.read(config.hook_budget / 4))
        return _everything if change is None else _touches(change, programs)
    except (HoldoverError, OSError) as error:
        complain(f"{error}; protecting everything")
        return _everything


def _everything(_: Path) -> bool:
    return True


def _touches(
    change: Change, programs: tuple[Hint, ...], proc: str = "/proc"
) -> Callable[[Path], bool] | None:
    """Which files a transaction changes, or None if none of them concerns a program."""
    if not touched(change.names, change.files, programs, proc):
        return None
    if any(names_any(change.names, program.packages) for program in programs):
        return _everything  # a new package's files may land among those of an old build
    files = frozenset(change.files.split("\n"))
    directories = {file.rpartition("/")[0] for file in files}
    # where /lib is a link to /usr/lib, packages may still say /lib
    return lambda path: any(
        name in files or name in directories for name in (str(path), str(path).removeprefix("/usr"))
    )


def _protect(touches: Callable[[Path], bool], pid: int, config: Config) -> Done:
    from holdover.steps.plan import Aim

    holdover = make_holdover(config, lock_timeout=config.hook_budget)
    transaction = _identity(holdover.proc, pid)
    try:
        mark(transaction, holdover.proc)
    except OSError as error:
        complain(f"who starts meanwhile is not looked at in the end: {error}")
    return report(holdover.carry_out(Aim.PROTECT, touches=touches, transaction=transaction), config)


def _identity(proc: ProcFs, pid: int) -> ProcessId | None:
    """The package manager's process; None, and only who runs already is served."""
    try:
        return proc.identity(pid)
    except ProcessError as error:
        complain(f"the package manager is not to be found: {error.message}")
        return None


def after_transaction(config: Config) -> Done:
    """Catch who started meanwhile, then let go of what nobody needs."""
    from holdover.cli.events import of_collected
    from holdover.steps.plan import Aim

    holdover = make_holdover(config, lock_timeout=config.hook_budget)
    result = holdover.carry_out(Aim.CATCH_UP)
    collected = holdover.collect(transaction=own(holdover.proc))
    unmark(holdover.proc)  # last: until then the next run of dpkg makes good
    done = report(result, config)
    tell(of_collected(collected), config)
    return replace(done, finish=publisher(holdover, config))
