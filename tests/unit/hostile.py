# SPDX-License-Identifier: Apache-2.0
"""What malformed files have in common: bytes changed or cut off, sizes that no file has."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

from hypothesis import strategies as st
from unit.elf_images import BASE, Image, opened

from holdover.elf import ElfFile
from holdover.errors import ElfError

__all__ = ["MUTATIONS", "mutated", "patched", "refusal", "sparse", "offset_of"]

_NUMBERS = [0, 1, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1]
MUTATIONS = st.lists(
    st.tuples(
        st.integers(0, 2**14),
        st.binary(min_size=1, max_size=8)
        | st.sampled_from(_NUMBERS).map(lambda number: struct.pack("<Q", number)),
    ),
    min_size=1,
    max_size=4,
)
"""(offset, what is there instead)"""


def patched(content: bytes, offset: int, new: bytes) -> bytes:
    return content[:offset] + new + content[offset + len(new) :]


def mutated(content: bytes, changes: list[tuple[int, bytes]]) -> bytes:
    for offset, new in changes:
        content = patched(content, offset % (len(content) - len(new)), new)
    return content


def refusal(content: bytes, read: Callable[[ElfFile], object]) -> str:
    """What the reader says of it, "" if it reads it; anything but `ElfError` fails the test."""
    with opened(content) as file:
        try:
            read(ElfFile(file))
        except ElfError as error:
            return error.message
    return ""


def offset_of(image: Image, tag: int) -> int:
    """Where in the file that is which a dynamic entry points at."""
    return ElfFile(opened(bytes(image))).tags[tag] - BASE


def sparse(path: Path, content: bytes, size: int) -> Path:
    """A file that claims `size` bytes and occupies those of `content`."""
    path.write_bytes(content)
    os.truncate(path, size)
    return path
