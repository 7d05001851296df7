# SPDX-License-Identifier: Apache-2.0
"""What a kernel unpacks into memory before it starts the first program.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst (newc).
"""

import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab.bases import LabError

__all__ = ["initramfs", "module_order"]

_CONSOLE = (5, 1)  # major and minor number; the kernel opens it for the first program


def initramfs(programs: Mapping[str, bytes], files: Mapping[str, bytes]) -> bytes:
    """An archive with the device /dev/console, and files below directories that they name."""
    parents = {str(parent) for name in (*programs, *files) for parent in Path(name).parents}
    entries = [(name, stat.S_IFDIR | 0o755, b"") for name in sorted({*parents, "dev"} - {"."})]
    entries += [(name, stat.S_IFREG | 0o755, content) for name, content in programs.items()]
    entries += [(name, stat.S_IFREG | 0o644, content) for name, content in files.items()]
    entries += [("dev/console", stat.S_IFCHR | 0o600, b""), ("TRAILER!!!", 0, b"")]
    return b"".join(_entry(number, *entry) for number, entry in enumerate(entries))


def _entry(inode: int, name: str, mode: int, content: bytes) -> bytes:
    device = _CONSOLE if stat.S_ISCHR(mode) else (0, 0)
    # owner and group, links, time, size, the device it is on, the one it is, the name, no checksum
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(head + name.encode() + b"\0") + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def module_order(modules: Path, wanted: Sequence[str]) -> list[Path]:
    """The files of kernel modules, below a directory, that `wanted` need, in the order of loading.

    Raises `LabError` if one is missing.
    """
    files = {path.stem.replace("-", "_"): path for path in modules.rglob("*.ko")}
    ordered: dict[Path, None] = {}

    def add(name: str) -> None:
        if name not in files:
            raise LabError(f"there is no kernel module {name} below {modules}")
        for needed in _needs(files[name].read_bytes()):
            add(needed)
        ordered[files[name]] = None

    for name in wanted:
        add(name)
    return list(ordered)


def _needs(module: bytes) -> Iterator[str]:
    """What modpost wrote into its section .modinfo."""
    for names in re.findall(rb"\0depends=([\w,-]*)\0", module):
        yield from (name.replace("-", "_") for name in names.decode().split(",") if name)
