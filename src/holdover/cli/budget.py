# SPDX-License-Identifier: Apache-2.0
"""The time that a hook has: it gives up when that is over, wherever it is then.

The kernel counts it, on a clock that nobody sets: setitimer(2). A hook that has nothing to do loads
this too, so it imports hardly anything.
"""

import signal

from holdover.errors import BudgetError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

__all__ = ["start", "stop"]

_AGAIN = 1.0
"""Seconds. Python drops what is raised in a finalizer, and so may code that is not ours: then it is
raised again. What is tidied up meanwhile takes milliseconds."""


def start(seconds: float) -> None:
    """Raise `BudgetError` in whatever is done after so many seconds."""
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)


def stop() -> None:
    """There is no hurry any more."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _give_up(_signal: int, _frame: "FrameType | None") -> None:
    raise BudgetError
