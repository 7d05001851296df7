# SPDX-License-Identifier: Apache-2.0
"""The flow of a preload: look once more, send, look what is loaded now.

There is no snapshot, no view and no lease: what is loaded stays loaded until the process ends.
"""

from collections.abc import Callable

from holdover.errors import HoldoverError, RefusedError
from holdover.judging import no_preload
from holdover.model import Delivery, Item, Outcome, Process
from holdover.procfs import ProcFs
from holdover.programs import Program
from holdover.steps.deliver import preload

__all__ = ["preload_modules"]


def preload_modules(
    proc: ProcFs, process: Process, program: Program, look: Callable[[Process], Item]
) -> Outcome:
    """Make a process load what it has not loaded yet; `look` tells its state.

    The caller holds the store's lock: no hook of ours lets a transaction begin meanwhile. Raises
    `RefusedError` if something was replaced since it was planned, and what `look` raises.
    """
    before = look(process)
    if obstacle := no_preload(before):
        raise RefusedError(f"nothing was sent: {obstacle}")
    try:
        notes, problem = preload.deliver(proc, before.process, program), ""
    except (HoldoverError, OSError) as error:  # what was sent before may have loaded something
        notes, problem = [], str(error)
    after = look(process)
    left = preload.missing(after.process, program.preload)
    reason = "; ".join(filter(None, (_told(after.process), *notes, problem)))
    return Outcome(
        after.process,
        after.state,
        reason,
        Delivery.PRELOAD,
        changed=after.process.loaded != before.process.loaded,
        failed=bool(problem or left),
    )


def _told(process: Process) -> str:
    """What is loaded, and what a later load would still find on disk."""
    own = {late.name for late in process.own if not (late.problem or late.other)}
    rest = sorted(own - process.loaded)
    told = f"{len(own & process.loaded)} of {len(own)} modules are loaded"
    return f"{told}, not {', '.join(rest)}" if rest else told
