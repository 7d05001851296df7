# SPDX-License-Identifier: Apache-2.0
"""`holdover doctor`: tries on scratch processes what will be done to guests."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdover.cli import confinement
from holdover.cli.enabling import is_current, wanted_files
from holdover.cli.installation import REMEDY, Installation
from holdover.cli.metrics import client_problem
from holdover.cli.services import timer_state
from holdover.cli.setup import program_problems
from holdover.config import Config
from holdover.environ import entry_values, read_environment
from holdover.errors import CommandError, HoldoverError, RefusedError, StoreError, UsageError
from holdover.flow import Holdover
from holdover.memory import Memory
from holdover.model import Build, Process
from holdover.procfs import ProcFs, file_id
from holdover.programs import own_programs
from holdover.run import background
from holdover.steps.deliver import environment, fallback
from holdover.steps.deliver.mount import Mounter
from holdover.steps.plan import Aim

__all__ = ["Check", "examine"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that holdover needs; `detail` says what was seen, or what to change."""

    name: str
    ok: bool
    detail: str


def examine(holdover: Holdover, config: Config) -> list[Check]:
    """All checks. Nothing is changed; scratch processes and files are gone afterwards."""
    checks: list[tuple[str, Callable[[Holdover], str]]] = [
        ("configuration", lambda _: _configuration(config)),
        ("rights", _rights),
        ("ptrace policy", lambda _: confinement.ptrace_policy()),
        ("store", _store),
        ("modules can be linked", _linking),
        ("environment delivery", _environment),
        ("mount delivery", _mount),
        ("fallback-dir delivery", _fallback),
        ("AppArmor", lambda _: confinement.apparmor(holdover.store.objects)),
        ("SELinux", lambda _: confinement.selinux(holdover.store.objects)),
        ("hooks", _hooks),
        ("timer", lambda _: f"{timer_state()} calls holdover between transactions"),
        ("installation", lambda _: _installation()),
        ("metrics", lambda _: _metrics(config.metrics_directory)),
    ]
    return [_try(name, check, holdover) for name, check in checks]


def _try(name: str, check: Callable[[Holdover], str], holdover: Holdover) -> Check:
    try:
        return Check(name, True, check(holdover))
    except HoldoverError as error:
        return Check(name, False, str(error))
    except OSError as error:
        return Check(name, False, str(error))


def _configuration(config: Config) -> str:
    problems = (*config.problems, *program_problems(config))
    found, left_out = own_programs()
    if problems:
        page = "docs/adding-a-program.md" if left_out else "holdover.toml(5)"
        raise UsageError("; ".join(problems), hint=f"mend it, see {page}")
    files = sorted(set(config.origins.values()))
    told = f"set by {', '.join(files)}" if files else "nothing is set, all is built in"
    own = ", ".join(program.name for program in found)
    return f"{told}; with your definition of {own}" if own else told


_SCRATCH_FALLBACK = Path("/run/qemu/holdover-doctor")
_NEEDED = {"CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_CHROOT": 18, "CAP_DAC_OVERRIDE": 1}


def _rights(holdover: Holdover) -> str:
    if os.geteuid() != 0:
        raise RefusedError("not running as root", hint="run it as root")
    status = holdover.proc.read(holdover.proc.own_pid, "status")
    effective = int(status.partition("CapEff:")[2].split()[0], 16)
    missing = [name for name, bit in _NEEDED.items() if not effective >> bit & 1]
    if missing:
        raise RefusedError(
            f"root without {', '.join(missing)}", hint="run it outside the container"
        )
    return f"root with {', '.join(_NEEDED)}"


def _store(holdover: Holdover) -> str:
    with holdover.store.writing(holdover.lock_timeout):
        if os.statvfs(holdover.store.objects).f_flag & os.ST_NOEXEC:
            raise StoreError(
                f"{holdover.store.objects} is mounted noexec: nothing can be loaded from it",
                hint="mount it exec",
            )
    free = os.statvfs(holdover.store.objects)
    return f"{holdover.store.objects}, {free.f_bavail * free.f_frsize >> 20} MiB free"


def _linking(holdover: Holdover) -> str:
    seen = holdover.plan(Aim.PROTECT)
    modules = [late.path for wanted in seen.captures for late in wanted.modules]
    if not modules:
        return "no modules are installed that are not held already"
    with holdover.store.writing(holdover.lock_timeout), holdover.store.staging() as staging:
        how = staging.hold("probe.so", modules[0]).how
    if how == "copy":
        return f"no: {modules[0].parent} is on another file system, files will be copied"
    return f"yes, by {how}: holding costs no data"


@contextmanager
def _scratch(proc: ProcFs, *command: str) -> Iterator[Process]:
    """A process of our own, described as a scan would."""
    with background(*command) as child:
        _wait_until_started(proc, child.pid)
        yield Process(
            id=proc.identity(child.pid),
            name="scratch",
            executable=Path(proc.link(child.pid, "exe")),
            executable_file=proc.file_of(child.pid, "exe"),
            replaced=False,
            build=Build("scratch", "", "", "", (Path("/mnt"),), _SCRATCH_FALLBACK),
        )


def _wait_until_started(proc: ProcFs, pid: int) -> None:
    """It first runs us, then perhaps unshare, and then sleeps with its environment in place."""
    deadline = time.monotonic() + 5
    while proc.stat(pid).state != "S" or proc.link(pid, "exe") == proc.link(proc.own_pid, "exe"):
        if time.monotonic() > deadline:
            raise CommandError("a scratch process does not start")
        time.sleep(0.005)


def _environment(holdover: Holdover) -> str:
    proc = holdover.proc
    with _scratch(proc, "sleep", "60") as process:
        environment.deliver(proc, process, "HOLDOVER_PROBE", Path("/nowhere"))
        with Memory(proc, process.id.pid) as memory:
            _, live = read_environment(proc, process.id.pid, memory)
            if entry_values(memory, live, "HOLDOVER_PROBE") != [b"/nowhere"]:
                raise RefusedError("the variable did not arrive in the scratch process")
    return "tried on a scratch process"


def _mount(holdover: Holdover) -> str:
    proc, store = holdover.proc, holdover.store
    scratch = _scratch(proc, "unshare", "--mount", "sleep", "60")
    with (
        store.writing(holdover.lock_timeout),
        scratch as process,
        closing(Mounter(proc)) as mounter,
    ):
        view = store.views / "doctor"  # without a manifest: not there, and swept if we are killed
        view.mkdir()
        try:
            mounter.deliver(process, view)
            mounter.release(process, view)
            if proc.file_of(process.id.pid, "root/mnt") == file_id(view):
                raise RefusedError("a mount could not be taken away again")
        finally:
            view.rmdir()
    return "tried on a scratch process"


def _fallback(holdover: Holdover) -> str:
    proc, store = holdover.proc, holdover.store
    with store.writing(holdover.lock_timeout), _scratch(proc, "sleep", "60") as process:
        fallback.deliver(proc, process, store.fallbacks, Path("/usr"))
        fallback.release(process, store.fallbacks)
    return "tried on a scratch process; used for QEMU 5.0 to 7.1 only"


def _metrics(directory: Path) -> str:
    if not directory.is_dir():
        return f"not written: there is no {directory}"
    if problem := client_problem():
        raise CommandError(f"not written to {directory}: {problem}")
    return f"written to {directory}"


def _hooks(_: Holdover) -> str:
    files = list(wanted_files())
    for file in files:
        if not file.path.exists():
            raise RefusedError(f"{file.path} is missing", hint="run `holdover enable`")
        if not is_current(file):
            raise RefusedError(f"{file.path} is not current", hint="run `holdover enable`")
    if not files:
        raise RefusedError("there is no package manager that holdover knows")
    return f"{', '.join(str(file.path) for file in files)}: current"


def _installation() -> str:
    own = Installation.own()
    if own.problem:
        raise RefusedError(own.problem, hint=REMEDY)
    return f"{own.modules} outlives the distribution's own upgrade of Python"
