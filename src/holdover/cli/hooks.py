# SPDX-License-Identifier: Apache-2.0
"""What package managers call.

The guest first, the upgrade second, holdover last: a hook always exits 0, within its time, and
says on stderr what it did not do; unless the operator wants a veto. The shell around it serves the
case that it cannot even start (packages/guard.py).
"""

import re
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from holdover.cli.setup import make_holdover, make_programs
from holdover.cli.text import printable
from holdover.config import Config, load_config
from holdover.errors import BudgetError, HoldoverError, ProcessError, UsageError
from holdover.model import Outcome, ProcessId, Result
from holdover.packages import Change, load_adapter, names_any
from holdover.packages.guard import MARKER, VETO
from holdover.procfs import DELETED, ProcFs

if TYPE_CHECKING:
    from holdover.programs import Program

__all__ = ["run_hook", "parse_marker"]

_MAX_INPUT = 64 * 1024 * 1024
_LIBRARY = re.compile(r"\.so(?:\.[0-9.]+)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Done:
    """What a hook did."""

    said: str = ""
    complete: bool = True
    """Everybody whom the transaction concerns is protected."""


def run_hook(words: Sequence[str]) -> int:
    """`hook MANAGER before PID [WORD...]`, its list on stdin, or `hook MANAGER after`.

    Returns 0; `VETO` if something is not protected before a transaction, and that was asked for.
    """
    started = time.perf_counter()
    config = load_config()
    for problem in config.problems:
        _complain(problem)
    done = _within_budget(words, config)
    if done.said:
        print(f"holdover: {done.said} ({time.perf_counter() - started:.2f} s)", flush=True)
    if done.complete:
        return 0
    if config.hook_veto and "before" in words[1:2]:
        _complain("the transaction is stopped, as the setting hook.veto asks for")
        return VETO
    _complain("the transaction goes on; `holdover status` shows who is at risk")
    return 0


def _within_budget(words: Sequence[str], config: Config) -> Done:
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, config.hook_budget)
    try:
        return _dispatch(words, config)
    except BudgetError:
        _complain(f"gave up after {config.hook_budget:.0f} s; the rest is not protected")
    except HoldoverError as error:
        _complain(str(error))
    except Exception as error:  # whatever it is, it is not the transaction's fault
        _complain(f"unexpected: {error!r}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Done(complete=False)


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    raise BudgetError


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(f"holdover: {printable(text)}", file=sys.stderr)


def _dispatch(words: Sequence[str], config: Config) -> Done:
    match list(words):
        case [manager, "before", pid, *more] if pid.isdecimal() and len(pid) < 20:
            return before_transaction(manager, more, int(pid), config)
        case [manager, "after"]:
            load_adapter(manager)
            return after_transaction(config)
    raise UsageError(f"no such hook: {shlex.join(words)}", hint="run `holdover enable` again")


def before_transaction(manager: str, words: Sequence[str], pid: int, config: Config) -> Done:
    """Protect what is about to change. If that cannot be told, it may be everything."""
    adapter, programs = load_adapter(manager), make_programs(config)
    try:
        change = adapter.read_change(words, sys.stdin.buffer.read(_MAX_INPUT))
        touches = _everything if change is None else _touches(change, programs)
    except (HoldoverError, OSError) as error:
        _complain(f"{error}; protecting everything")
        touches = _everything
    return _protect(touches, pid, config) if touches else Done()


def _everything(_: Path) -> bool:
    return True


def _touches(
    change: Change, programs: tuple["Program", ...], proc: ProcFs | None = None
) -> Callable[[Path], bool] | None:
    """Which files a transaction changes, or None if none of them concerns a program."""
    patterns = [pattern for program in programs for pattern in program.packages]
    if names_any(change.names, patterns):
        return _everything  # a new package's files may land among those of an old build
    libraries = _LIBRARY.search(change.files) and _anybody_runs(programs, proc or ProcFs())
    if not (libraries or any(program.is_among(change.files) for program in programs)):
        return None
    files = frozenset(change.files.split("\n"))
    directories = {file.rpartition("/")[0] for file in files}
    # where /lib is a link to /usr/lib, packages may still say /lib
    return lambda path: any(
        name in files or name in directories for name in (str(path), str(path).removeprefix("/usr"))
    )


def _anybody_runs(programs: tuple["Program", ...], proc: ProcFs) -> bool:
    """Whether a library can matter to anybody at all."""
    for pid in proc.pids():
        try:
            name = proc.link(pid, "exe").removesuffix(DELETED)
        except ProcessError:
            continue  # a kernel thread, or gone; who cannot be read is reported by those who look
        if any(program.runs(name) for program in programs):
            return True
    return False


def _protect(touches: Callable[[Path], bool], pid: int, config: Config) -> Done:
    from holdover.steps.plan import Aim

    holdover = make_holdover(config, lock_timeout=config.hook_budget)
    transaction = _identity(holdover.proc, pid)
    MARKER.parent.mkdir(parents=True, exist_ok=True)
    MARKER.write_text(f"{transaction.pid} {transaction.start_time}\n" if transaction else "")
    return _report(holdover.carry_out(Aim.PROTECT, touches=touches, transaction=transaction))


def _identity(proc: ProcFs, pid: int) -> ProcessId | None:
    """The package manager's process; None, and only who runs already is served."""
    try:
        return proc.identity(pid)
    except ProcessError as error:
        _complain(f"the package manager is not to be found: {error.message}")
        return None


def after_transaction(config: Config) -> Done:
    """Catch who started meanwhile, then let go of what nobody needs."""
    from holdover.steps.plan import Aim

    holdover = make_holdover(config, lock_timeout=config.hook_budget)
    transaction = parse_marker(MARKER.read_bytes()) if MARKER.exists() else None
    result = holdover.carry_out(Aim.CATCH_UP)
    holdover.collect(transaction=transaction)
    MARKER.unlink(missing_ok=True)  # last: until then the next run of dpkg makes good
    return _report(result)


def parse_marker(content: bytes) -> ProcessId | None:
    """The package manager's process; None, and its leases last as long as it does."""
    found = re.fullmatch(rb"([0-9]{1,19}) ([0-9]{1,19})\n", content)
    return ProcessId(int(found[1]), int(found[2])) if found else None


def _report(result: Result) -> Done:
    """Complain about what was not done, and name whom something was done for."""
    wrong = [*result.problems]
    for process in result.unreadable:
        if process.program:
            wrong.append(f"a {process.program} process is not protected: {process.reason}")
    for outcome in result.outcomes:
        if outcome.failed:
            wrong.append(f"{_name(outcome)} is not protected: {outcome.reason}")
    for problem in wrong:
        _complain(problem)
    done = [_name(outcome) for outcome in result.outcomes if outcome.changed and not outcome.failed]
    said = f"protected {len(done)}: {', '.join(done)}" if done else ""
    return Done(said, complete=not wrong)


def _name(outcome: Outcome) -> str:
    process = outcome.process
    return f"{printable(process.name or process.executable.name)} ({process.id.pid})"
