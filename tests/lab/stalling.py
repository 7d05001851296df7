# SPDX-License-Identifier: Apache-2.0
"""A file system of a user's own that never answers who reads, and a process that has mapped it.

In a user namespace anybody may mount it. A page of its file keeps whoever touches it waiting.
Source: fuse(4), <linux/fuse.h>.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Stalling", "stalling", "SERVER"]

SERVER = r"""
import ctypes, os, struct, sys, threading

INIT, LOOKUP, GETATTR, OPEN, READ = 26, 1, 3, 14, 15
SILENT = (READ, 2, 36, 42)  # FORGET, INTERRUPT and BATCH_FORGET want no answer
libc = ctypes.CDLL(None, use_errno=True)

def attributes(node):
    mode = 0o40755 if node == 1 else 0o100644
    sizes = (node, 4096, 8, 0, 0, 0, 0, 0, 0)
    return struct.pack("<6Q3I7I", *sizes, mode, 1, 0, 0, 0, 4096, 0)

def answer(operation, node):
    match operation:
        case 26:
            return struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 16, 16, 65536, 1, 0, 0, 0) + bytes(28)
        case 1:
            return struct.pack("<QQQQII", 2, 0, 0, 0, 0, 0) + attributes(2)
        case 3:
            return struct.pack("<QII", 0, 0, 0) + attributes(node)
        case 14:
            return struct.pack("<QII", 0, 0, 0)

def serve(device):
    while True:
        request = os.read(device, 1 << 17)
        _, operation, unique, node = struct.unpack_from("<IIQQ", request)
        if operation not in SILENT:
            said = answer(operation, node)
            error = 0 if said is not None else -38  # ENOSYS
            said = said or b""
            os.write(device, struct.pack("<IiQ", 16 + len(said), error, unique) + said)

device = os.open("/dev/fuse", os.O_RDWR)
options = f"fd={device},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()}"
if libc.mount(b"stalling", sys.argv[1].encode(), b"fuse", 0, options.encode()):
    raise OSError(ctypes.get_errno(), "mount")
threading.Thread(target=serve, args=(device,), daemon=True).start()
file = os.open(sys.argv[1] + "/file", os.O_RDONLY)
libc.mmap.restype = ctypes.c_void_p
page = libc.mmap(None, ctypes.c_size_t(4096), 3, 2, file, ctypes.c_long(0))  # read, write; private
os.close(file)  # at the end of all its close would wait for the server, which has ended by then
exec(sys.argv[2])
print(page, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Stalling:
    """The process, and the address of the page in it that never comes."""

    pid: int
    page: int


@contextmanager
def stalling(directory: Path, *, then: str = "") -> Iterator[Stalling | str]:
    """Mount it on `directory`, in namespaces of its own; the reason if that cannot be done here.

    The process executes `then`, Python in which `page` is the address of the page.
    """
    python = (sys.executable, "-I", "-S", "-c", SERVER, str(directory), then)
    words = ("unshare", "--user", "--map-root-user", "--mount", *python)
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert process.stdout is not None
            page = process.stdout.readline()
            yield Stalling(process.pid, int(page)) if page else process.communicate()[1]
        finally:
            process.kill()
