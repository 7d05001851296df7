# SPDX-License-Identifier: Apache-2.0
"""Prove: late-load what is held for a process in a stand-in for it, before the process has to.

The stand-in is the same executable with the same start-up libraries, so its loader decides what
that of the process would decide. Which commands load which modules is for the definition to say;
what nothing asks for is reported as untried, never as fine.
"""

import shlex
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import RefusedError
from holdover.held import Holding
from holdover.loaderlog import Load, last_words, parse_loads
from holdover.model import Process
from holdover.procfs import ProcFs
from holdover.programs import Program
from holdover.rehearsal import ModuleProof, Proof, Rehearsal
from holdover.standin import Ending, run_stand_in

__all__ = ["rehearse"]

PATIENCE = 60.0
"""Seconds for one run of a stand-in; each takes about a tenth of one."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the stand-in; `command` is what a person would type."""

    command: str
    ending: Ending
    loads: tuple[Load, ...]


def rehearse(proc: ProcFs, process: Process, program: Program, holding: Holding) -> Rehearsal:
    """Load every module of the view in a stand-in for `process`; needs no lock, changes nothing.

    Raises `RefusedError` if the definition knows no way to load modules in such an executable,
    and what `scratch.run_stand_in` raises.
    """
    runs = tuple(_runs(proc, process, program, holding.view))
    if not runs:
        raise RefusedError(
            f"process {process.id.pid}: nothing is known that makes {process.executable.name} "
            "load its modules",
            hint=f"add a [[rehearse]] section to the definition of {program.name}"
            if program.environment
            else "",
        )
    return _judge(process, holding, runs)


def _runs(proc: ProcFs, process: Process, program: Program, view: Path) -> Iterator[_Run]:
    variables = {program.environment: str(view), "LD_DEBUG": "files"}
    for trial in program.rehearse:
        arguments = trial.arguments_of(process.executable.name)
        if arguments is None:
            continue
        command = shlex.join((process.executable.name, *arguments))
        ending = run_stand_in(
            proc, process, arguments, variables, text=trial.input, timeout=PATIENCE
        )
        yield _Run(command, ending, parse_loads(ending.output, str(view), program.complaint))


def _judge(process: Process, holding: Holding, runs: Sequence[_Run]) -> Rehearsal:
    """What the runs show about each module that is held, and about the stand-in itself."""
    held = holding.snapshot.modules
    loads = [load for run in runs for load in run.loads]
    tried = {_name(load) for load in loads}
    deaths = {_last(run): death for run in runs if (death := _death(run))}
    failures = {_name(load): load.failure for load in reversed(loads) if load.failure} | deaths
    problems = [death for name, death in deaths.items() if name not in held]
    if held and not tried & held and not problems:
        problems.append(f"no module was tried: {'; '.join(map(_ending, runs))}")
    modules = (_proof(name, name in tried, failures.get(name, "")) for name in sorted(held))
    return Rehearsal(process, holding.snapshot.id, tuple(modules), tuple(problems))


def _proof(name: str, tried: bool, failure: str) -> ModuleProof:
    if not tried:
        return ModuleProof(name, Proof.UNTRIED, "nothing asked for it")
    return ModuleProof(name, Proof.FAILS if failure else Proof.LOADS, failure)


def _name(load: Load) -> str:
    return Path(load.path).stem


def _last(run: _Run) -> str:
    """The module that the stand-in asked for last: whatever happened then is its fault."""
    return _name(run.loads[-1]) if run.loads else ""


def _death(run: _Run) -> str:
    """How the stand-in met a violent end, or ""."""
    code = run.ending.code
    after = f"after it had asked for {_last(run)}" if run.loads else "before it asked for a module"
    if code is None:
        return f"`{run.command}` did not end within {PATIENCE:.0f} s {after}"
    number = code - 128 if code > 128 else -code
    if number not in set(signal.Signals):
        return ""
    return f"`{run.command}` died of {signal.Signals(number).name} {after}"


def _ending(run: _Run) -> str:
    """How a run ended that was of no use."""
    return f"`{run.command}` ended with {run.ending.code}: {last_words(run.ending.output)[:200]}"
