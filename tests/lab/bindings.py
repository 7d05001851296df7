# SPDX-License-Identifier: Apache-2.0
"""What the dynamic linker binds in real guests, as it says itself (LD_DEBUG), to be compared.

Two guests that load the same modules from two directories have the same bindings if every symbol
of every object was found in the same file: the same inode, whatever it is called there. Modules go
by their names, because they are what differs.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from holdover.demo.guest import PROBES, Guest
from lab.chroot import Lab

__all__ = ["Bindings", "Traced", "traced", "differences"]

_BINDING = re.compile(
    r"binding file (\S+) \[\d+\] to (\S+) \[\d+\]: (\w+) symbol [`'](\S+?)'(?: \[(\S+)\])?"
)
_LOADED = re.compile(r"calling init: (\S+)")

#: Beside the probes: drivers that load a module only in some releases.
_MORE_DISKS = (
    {"driver": "io_uring", "filename": "/none"},
    {"driver": "dmg", "read-only": True, "file": {"driver": "null-co", "size": 4096}},
)
#: What only the start of a guest loads is also loaded to list it.
_LISTS = (("-display", "help"), ("-audiodev", "help"), ("-audio-help",))
#: Where all modules of x86 are loaded: each has an accelerator of its own in some releases.
_EXECUTABLES = ("/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-i386")

Bindings = Counter[tuple[str, str, str, str, str]]
"""How often (object, kind, symbol, version, object that it was bound to) was seen."""


@dataclass(frozen=True, slots=True)
class Traced:
    bindings: Bindings
    loaded: frozenset[str]
    """Names of the modules that the linker loaded to the end."""

    @property
    def targets(self) -> dict[tuple[str, str, str, str], set[str]]:
        """What each symbol of each object was bound to; several if there are several copies."""
        found: dict[tuple[str, str, str, str], set[str]] = {}
        for *key, target in self.bindings:
            found.setdefault((key[0], key[1], key[2], key[3]), set()).add(target)
        return found


def traced(lab: Lab, name: str, directory: str, variable: str = "", *, now: bool = True) -> Traced:
    """Load everything that guests can load late, from `directory`.

    `variable` is what they are given as QEMU_MODULE_DIR. With `now`, all symbols of an object are
    bound when it is loaded, and the same in each run; else when they are first used.
    """
    wrapper = ["env", "LD_DEBUG=bindings,files", f"LD_DEBUG_OUTPUT=/tmp/{name}-linker"]
    wrapper += ["LD_BIND_NOW=1"] * now + [f"QEMU_MODULE_DIR={variable}"] * bool(variable)
    for executable in _EXECUTABLES:
        own_name = f"{name}-{Path(executable).name}"
        guest = Guest.start(lab.root, own_name, wrapper=wrapper, binary=executable)
        for what in PROBES:
            guest.probe(what)
        for disk in _MORE_DISKS:
            guest.qmp("blockdev-add", {"node-name": "probe", **disk})
        guest.kill()
    for words in _LISTS:
        lab.run(*wrapper, _EXECUTABLES[0], *words)
    logs = sorted(lab.path("/tmp").glob(f"{name}-linker.*"))
    return _parse(lab, directory, "".join(log.read_text(errors="replace") for log in logs))


def differences(one: Bindings, other: Bindings) -> list[str]:
    """As lines of a diff."""
    return [f"-{' '.join(key)}" for key in one - other] + [
        f"+{' '.join(key)}" for key in other - one
    ]


def _parse(lab: Lab, directory: str, text: str) -> Traced:
    seen = Counter(_BINDING.findall(text))
    files = _identities(lab, directory, {path for one in seen for path in one[:2]})
    bindings: Bindings = Counter()
    for (source, target, kind, symbol, version), count in seen.items():
        bindings[files[source], kind, symbol, version, files[target]] += count
    loaded = filter(None, (_module(path, directory) for path in _LOADED.findall(text)))
    return Traced(bindings, frozenset(name.removesuffix(".so") for name in loaded))


def _module(path: str, directory: str) -> str:
    """The name of a module, "" of another file; QEMU says /usr/bin/../lib for /usr/lib."""
    parent, name = os.path.split(os.path.normpath(path))
    return name if parent == directory else ""


def _identities(lab: Lab, directory: str, paths: set[str]) -> dict[str, str]:
    """What each object is: a module's name, a file's inode, or what the linker calls it."""
    found = {path: _module(path, directory) or path for path in paths}
    files = [path for path, name in found.items() if name.startswith("/")]
    inodes = lab.root.run("stat", "--dereference", "--format=%d:%i", *files).stdout.split()
    by_path = dict(zip(files, inodes, strict=True))
    known = {inode: Path(file).name for file, inode in by_path.items()}
    return found | {file: f"{known[inode]} ({inode})" for file, inode in by_path.items()}
