# SPDX-License-Identifier: Apache-2.0
"""Bytes of another process that it will never use: behind an object's .bss, on its last page.

They are mapped, writable, zero, and reached by nothing, unless the heap begins there.
"""

from collections.abc import Iterator, Sequence

from holdover.loaded import PAGE, Loaded
from holdover.procfs import Mapping

__all__ = ["tail", "is_its_own", "LEAST"]

LEAST = 16
"""Bytes; no shorter one is worth a look."""


def tail(maps: Sequence[Mapping], break_at: int, loaded: Loaded) -> Iterator[tuple[int, int]]:
    """Start and end of the unused end of its last page, if there is one.

    `break_at` is where the heap of the process began.
    """
    writable = [segment for segment in loaded.anatomy.loads if segment.writable]
    if not writable:
        return
    last = max(writable, key=lambda s: s.address)
    end_of_bss = loaded.base + last.address + last.memory_size
    start, end = -(-end_of_bss // 16) * 16, -(-end_of_bss // PAGE) * PAGE
    if end - PAGE <= break_at < end or end - start < LEAST:
        return  # the heap begins there, or there is nothing
    if is_its_own(maps, loaded, loaded.base + last.address, end):
        yield start, end


def is_its_own(maps: Sequence[Mapping], loaded: Loaded, start: int, end: int) -> bool:
    """All from `start` to `end` is the object's file or its zeros, and the last page writable."""
    at = start // PAGE * PAGE
    for mapping in maps:
        if mapping.start <= at < mapping.end:
            if mapping.file != loaded.file and mapping.file.inode:
                return False
            if mapping.end >= end:
                return mapping.permissions == "rw-p"
            at = mapping.end
    return False
