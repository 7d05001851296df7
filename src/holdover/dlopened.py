# SPDX-License-Identifier: Apache-2.0
"""What an object opens by name when it runs: as it declares it, and as its constants suggest. Pure.

Source: systemd's documentation of ELF dlopen metadata (.note.dlopen); its drafts held one object
with one string instead of a list of objects with lists.
"""

import json
import re

from holdover.elf import ElfFile
from holdover.errors import ElfError

__all__ = ["declared_names", "suggested_names"]

NT_FDO_DLOPEN = 0x407C0C0A
_OPENS = ("dlopen", "dlmopen", "g_module_open")
_SONAME = re.compile(rb"\0(lib[A-Za-z0-9_+.-]{1,60}\.so(?:\.[0-9]{1,8}){0,3})(?=\0)")


def declared_names(elf: ElfFile) -> tuple[str, ...]:
    """Sonames in the notes, in order; raises `ElfError` if a note is malformed."""
    names: dict[str, None] = {}
    for note in elf.notes:
        if note.owner == "FDO" and note.type == NT_FDO_DLOPEN:
            names |= dict.fromkeys(_parse(note.payload))
    return tuple(names)


def _parse(payload: bytes) -> list[str]:
    try:
        entries = json.loads(payload.rstrip(b"\0"))
        found: list[str] = []
        for entry in entries if isinstance(entries, list) else [entries]:
            wanted = entry["soname"]
            found += wanted if isinstance(wanted, list) else [wanted]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ElfError(f"a note about dlopen makes no sense: {error!r}") from error
    if not all(isinstance(name, str) and name and name.isprintable() for name in found):
        raise ElfError("a note about dlopen names something that is no soname")
    return found


def suggested_names(elf: ElfFile, imports: frozenset[str]) -> tuple[str, ...] | None:
    """Names of libraries among its constants; None if it opens nothing by name at all.

    They are a guess: `imports`, the functions that it calls, say that it opens something. Raises
    `ElfError`.
    """
    if not imports.intersection(_OPENS):
        return None
    found: dict[str, None] = {}
    constant = ((s.offset, s.file_size) for s in elf.loads if not s.writable)
    for data in elf.searched(constant):
        found |= dict.fromkeys(name.decode() for name in _SONAME.findall(data))
    return tuple(name for name in found if name not in (*elf.needed, elf.soname))
