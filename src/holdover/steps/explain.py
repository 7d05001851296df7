# SPDX-License-Identifier: Apache-2.0
"""Explain: what a late load of each module would do in one process, and the way the linker goes."""

from collections.abc import Iterable

from holdover.answers import Explanation
from holdover.errors import HoldoverError
from holdover.lateloads import LateLoads
from holdover.model import Item, LateLoad
from holdover.search import Prospect

__all__ = ["explain"]


def explain(
    late_loads: LateLoads, item: Item, prospects: Iterable[Prospect]
) -> tuple[Explanation, ...]:
    """One for each prospect, with the linker's way where a file is there to be followed."""
    by_name = {late.name: late for late in item.process.late}
    return tuple(_explanation(late_loads, item, p, by_name.get(p.name)) for p in prospects)


def _explanation(
    late_loads: LateLoads, item: Item, prospect: Prospect, late: LateLoad | None
) -> Explanation:
    bare = Explanation(
        prospect.name, prospect.state, prospect.reason, late is not None and late.other
    )
    if late is None:
        return bare
    try:
        steps, by_name = late_loads.way(late_loads.process(item.process.id.pid), late)
    except (HoldoverError, OSError) as error:
        reason = prospect.reason or f"its way cannot be followed: {error}"
        return Explanation(bare.name, bare.state, reason, bare.other, late.path)
    return Explanation(bare.name, bare.state, bare.reason, bare.other, late.path, steps, by_name)
