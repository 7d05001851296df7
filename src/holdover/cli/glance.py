# SPDX-License-Identifier: Apache-2.0
"""What most hooks come to: the transaction concerns no program.

Every transaction of apt waits for that. So it is found out before the rest of holdover is loaded,
which takes three times as long as Python itself; a test counts what is imported here. Whatever is
not plain goes the whole way, and is told there.
"""

import time
from collections.abc import Sequence

from holdover.cli import budget
from holdover.cli.listing import Listing
from holdover.cli.recording import write_record

__all__ = ["run_hook"]

_PATIENCE = 0.2
"""Seconds to wait for a list here; what the configuration allows is waited for later."""
_BUDGET = 3.0
"""Seconds for all of it; then it goes the whole way, in the time that the configuration gives."""


def run_hook(words: Sequence[str]) -> int:
    """As `hooks.run_hook`."""
    started, listing = time.perf_counter(), Listing()
    if list(words[:2]) == ["apt", "before"] and _concerns_nobody(listing):
        write_record("apt-before", time.perf_counter() - started, "done")
        return 0
    from holdover.cli import hooks

    return hooks.run_hook(words, listing, started)


def _concerns_nobody(listing: Listing) -> bool:
    """False in doubt."""
    from holdover.concern import hints, touched
    from holdover.packages.aptlist import read_change

    try:
        budget.start(_BUDGET)
        if not listing.ends_within(_PATIENCE):
            return False
        change = read_change((), listing.read(0))
        return not touched(change.names, change.files, hints())
    except Exception:  # the whole way leads to it again
        return False
    finally:
        budget.stop()
