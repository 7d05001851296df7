# SPDX-License-Identifier: Apache-2.0
"""What package managers call, and the files that make them call it.

The guest first, the upgrade second, holdover last: a hook always exits 0, within its time, and
says on stderr what it did not do. The shell around it serves the case that it cannot even start.
"""

import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from holdover.cli.text import printable
from holdover.errors import BudgetError, HoldoverError, ProcessError, UsageError
from holdover.model import Outcome, ProcessId, Result
from holdover.packages import apt
from holdover.procfs import DELETED, ProcFs

if TYPE_CHECKING:
    from holdover.programs import Program

__all__ = ["run_hook", "enable", "disable", "hook_text", "BUDGET"]

BUDGET = 30.0
"""Seconds that a hook may take before it gives up."""
MARKER = Path("/run/holdover/transaction")
"""Exists while a transaction that touches a program is under way; the shell guard looks at it."""
_MAX_INPUT = 64 * 1024 * 1024
_INSTALLED = Path("/usr/bin/holdover")
_LIBRARY = re.compile(r"\.so(?:\.[0-9.]+)?$", re.MULTILINE)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+:-]+")  # neither the shell nor apt reads it otherwise


def run_hook(words: Sequence[str]) -> int:
    """`hook apt before PID` with apt's list on stdin, or `hook apt after`. Always returns 0."""
    started = time.perf_counter()
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, BUDGET)
    try:
        said = _dispatch(words)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if said:
            print(f"holdover: {said} ({time.perf_counter() - started:.2f} s)", flush=True)
    except (HoldoverError, BudgetError) as error:
        _complain(str(error))
    except Exception as error:  # whatever it is, it is not the transaction's fault
        _complain(f"unexpected: {error!r}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    raise BudgetError(f"gave up after {BUDGET:.0f} s; the rest is not protected")


def _complain(text: str) -> None:
    with suppress(OSError):  # nobody reads it
        print(f"holdover: {printable(text)}", file=sys.stderr)
        what = "the transaction goes on; `holdover status` shows who is at risk"
        print(f"holdover: {what}", file=sys.stderr)


def _dispatch(words: Sequence[str]) -> str:
    match list(words):
        case ["apt", "before", pid] if pid.isdecimal():
            listing = sys.stdin.buffer.read(_MAX_INPUT).decode("utf-8", "surrogateescape")
            return before_apt(listing, int(pid))
        case ["apt", "after"]:
            return after_transaction()
    raise UsageError(f"no such hook: {shlex.join(words)}", hint="run `holdover enable` again")


def before_apt(listing: str, pid: int) -> str:
    """Protect what apt is about to change. If that cannot be told, it may be everything."""
    try:
        touches = _touches(listing)
    except (HoldoverError, OSError) as error:
        _complain(f"{error}; protecting everything")
        touches = _everything
    return _protect(touches, pid) if touches else ""


def _everything(_: Path) -> bool:
    return True


def _touches(listing: str) -> Callable[[Path], bool] | None:
    """Which files a transaction changes, or None if none of them concerns a program."""
    from holdover.programs import load_programs

    programs = load_programs()
    changes = apt.parse_changes(listing.removesuffix("\n").split("\n"))
    if apt.names_any(changes, [p for program in programs for p in program.packages]):
        return _everything  # a new package's files may land among those of an old build
    owned = apt.changed_files(changes)
    libraries = _LIBRARY.search(owned) and _anybody_runs(programs)
    if not (libraries or any(program.is_among(owned) for program in programs)):
        return None
    files = frozenset(owned.split("\n"))
    directories = {file.rpartition("/")[0] for file in files}
    # where /lib is a link to /usr/lib, packages may still say /lib
    return lambda path: any(
        name in files or name in directories for name in (str(path), str(path).removeprefix("/usr"))
    )


def _anybody_runs(programs: tuple["Program", ...]) -> bool:
    """Whether a library can matter to anybody at all."""
    proc = ProcFs()
    for pid in proc.pids():
        try:
            name = proc.link(pid, "exe").removesuffix(DELETED)
        except ProcessError:
            continue  # a kernel thread, or gone; who cannot be read is reported by those who look
        if any(program.runs(name) for program in programs):
            return True
    return False


def _protect(touches: Callable[[Path], bool], pid: int) -> str:
    from holdover.flow import Holdover
    from holdover.steps.plan import Aim

    holdover = Holdover(lock_timeout=BUDGET)
    transaction = _identity(holdover.proc, pid)
    MARKER.parent.mkdir(parents=True, exist_ok=True)
    MARKER.write_text(f"{transaction.pid} {transaction.start_time}\n" if transaction else "")
    return _summary(holdover.carry_out(Aim.PROTECT, touches=touches, transaction=transaction))


def _identity(proc: ProcFs, pid: int) -> ProcessId | None:
    """The package manager's process; None, and only who runs already is served."""
    try:
        return proc.identity(pid)
    except ProcessError as error:
        _complain(f"the package manager is not to be found: {error.message}")
        return None


def after_transaction() -> str:
    """Catch who started meanwhile, then let go of what nobody needs."""
    from holdover.flow import Holdover
    from holdover.steps.plan import Aim

    holdover = Holdover(lock_timeout=BUDGET)
    transaction = _parse_marker(MARKER.read_bytes()) if MARKER.exists() else None
    result = holdover.carry_out(Aim.CATCH_UP)
    holdover.collect(transaction=transaction)
    MARKER.unlink(missing_ok=True)  # last: until then the next run of dpkg makes good
    return _summary(result)


def _parse_marker(content: bytes) -> ProcessId | None:
    """The package manager's process; None, and its leases last as long as it does."""
    found = re.fullmatch(rb"([0-9]{1,19}) ([0-9]{1,19})\n", content)
    return ProcessId(int(found[1]), int(found[2])) if found else None


def _summary(result: Result) -> str:
    for problem in result.problems:
        _complain(problem)
    for process in result.unreadable:
        if process.program:
            _complain(f"a {process.program} process is not protected: {process.reason}")
    for outcome in result.outcomes:
        if outcome.failed:
            _complain(f"{_name(outcome)} is not protected: {outcome.reason}")
    done = [_name(outcome) for outcome in result.outcomes if outcome.changed and not outcome.failed]
    return f"protected {len(done)}: {', '.join(done)}" if done else ""


def _name(outcome: Outcome) -> str:
    process = outcome.process
    return f"{printable(process.name or process.executable.name)} ({process.id.pid})"


# -- the hook files ----------------------------------------------------------------------------


def hook_text(command: Path) -> str:
    """apt's configuration. The first word of a hook's command is the key of its options."""
    if not _PLAIN_PATH.fullmatch(str(command)):
        raise UsageError(
            f"{command} cannot be written into apt's configuration",
            hint="install holdover at a path of letters, digits and ./_+:-",
        )
    word = f"holdover={command};"
    before = _guarded("hook apt before $PPID")
    after = f"test ! -e {MARKER} || {_guarded('hook apt after')}"
    return f"""\
// Written by `holdover enable`, removed by `holdover disable`.
// Whatever happens to holdover, these lines succeed: apt stops at a hook that fails.
DPkg::Pre-Install-Pkgs {{ "{word} {before}; true"; }};
DPkg::Tools::Options::"{word}"::Version "3";
DPkg::Post-Invoke {{ "{word} {after}; true"; }};
"""


def _guarded(arguments: str) -> str:
    complaint = "echo holdover: $holdover did not run, live guests were not looked at >&2"
    return f"if test -x $holdover; then $holdover {arguments} || {complaint}; else {complaint}; fi"


def enable() -> list[tuple[Path, str]]:
    """Write the hook files; returns each path with what was done to it."""
    return [(apt.HOOK_PATH, _write(apt.HOOK_PATH, hook_text(own_command())))]


def disable() -> list[tuple[Path, str]]:
    """Remove the hook files; returns each path with what was done to it."""
    try:
        apt.HOOK_PATH.unlink()
    except FileNotFoundError:
        return [(apt.HOOK_PATH, "was not there")]
    return [(apt.HOOK_PATH, "removed")]


def own_command() -> Path:
    """The command that is running, or the one that is installed."""
    called = Path(sys.argv[0])
    found = shutil.which(str(called)) if called.name == "holdover" else None
    if found is None and not _INSTALLED.exists():
        raise UsageError(
            "the path of the holdover command is not known", hint="call it as `holdover enable`"
        )
    return Path(found).absolute() if found else _INSTALLED


def _write(path: Path, text: str) -> str:
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} does not exist: is this a system with apt?")
    old = path.read_text() if path.exists() else None
    if old == text:
        return "is current"
    temporary = path.with_name(f"{path.name}.holdover-new")  # apt ignores such names
    temporary.write_text(text)
    temporary.rename(path)
    return "updated" if old is not None else "written"
