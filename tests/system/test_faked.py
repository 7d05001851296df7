# SPDX-License-Identifier: Apache-2.0
"""A process that lies about itself: its name, the map of its memory, what the kernel told it.

Whatever it says, nothing is written to where it did not look for it, and to nobody else.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from system.scratch import VARIABLE, Scratch

from holdover.environ import read_environment
from holdover.errors import HoldoverError, MalformedError, UnsupportedError
from holdover.memory import Memory
from holdover.procfs import ProcFs

pytestmark = pytest.mark.system

PREPARE = (
    "keep(prctl=libc.prctl, P=ctypes.c_ulong, exe=os.open('/proc/self/exe', os.O_RDONLY),"
    " none=ctypes.c_uint32(0xffffffff))"
)
# struct prctl_mm_map of <linux/prctl.h>: eleven addresses, auxv, its size, a descriptor
MAP = """keep(change=lambda **new: (
    keep(s=open('/proc/self/stat').read().rsplit(')', 1)[1].split()),
    keep(a=ctypes.create_string_buffer(open('/proc/self/auxv', 'rb').read())),
    keep(m=dict(start_code=int(s[23]), end_code=int(s[24]), start_data=int(s[42]),
        end_data=int(s[43]), start_brk=int(s[44]), brk=libc.sbrk(0), start_stack=int(s[25]),
        arg_start=int(s[45]), arg_end=int(s[46]), env_start=int(s[47]), env_end=int(s[48]),
        auxv=ctypes.addressof(a), **{})),
    m.update(new),
    keep(raw=(ctypes.c_ulonglong * 12)(*m.values())),
    keep(tail=ctypes.create_string_buffer(bytes(raw) + len(a.raw[:-1]).to_bytes(4, 'little')
        + (0xffffffff).to_bytes(4, 'little'))),
    prctl(35, 14, ctypes.byref(tail), P(104), P(0)) or 0 and ctypes.get_errno())[-1])"""


@pytest.fixture
def liar() -> Iterator[Scratch]:
    with Scratch(**{VARIABLE: "/own"}) as process:
        process.ask("libc.sbrk.__class__ and setattr(libc.sbrk, 'restype', ctypes.c_ulong)")
        process.ask(PREPARE)
        process.ask(" ".join(MAP.split("\n")))
        yield process


def changes(process: Scratch, **fields: int) -> None:
    """The kernel lets anybody change what it says of his own process; prctl(2), PR_SET_MM_MAP."""
    words = ", ".join(f"{name}={value}" for name, value in fields.items())
    if process.ask(f"change({words})") != 0:
        pytest.skip("this kernel does not let a process change its own map")


def test_name_decides_nothing(liar: Scratch) -> None:
    name = b") Z 1\\n1"
    liar.ask(f"prctl(15, {name!r})")
    assert ProcFs().stat(liar.pid).state in "SR"
    assert ProcFs().identity(liar.pid) == liar.process.id
    liar.deliver("/view")
    assert liar.getenv() == "/view"


@pytest.mark.parametrize("field", ["start_code", "start_data", "arg_start", "env_start"])
def test_borders_that_it_moves_move_nothing(liar: Scratch, field: str) -> None:
    lowest = min(m.start for m in liar.proc.maps(liar.pid))
    changes(liar, **{field: lowest + 8})
    liar.deliver("/view")
    assert liar.getenv() == "/view"


def test_heap_that_it_says_begins_elsewhere(liar: Scratch) -> None:
    """Only where it has room of its own is written, or nowhere: it may lose nothing but itself."""
    inside = next(m for m in liar.proc.maps(liar.pid) if m.readable_and_writable)
    changes(liar, start_brk=inside.start + 16)
    try:
        liar.deliver("/view")
    except HoldoverError:
        assert liar.getenv() == "/own"
    else:
        assert liar.getenv() == "/view"


@pytest.mark.parametrize("entry", [0, 8, 1 << 63, -1 & (1 << 64) - 1])
def test_start_that_it_says_was_elsewhere_is_nowhere(liar: Scratch, entry: int) -> None:
    forge = (
        "keep(b=bytearray(open('/proc/self/auxv', 'rb').read())),"
        "[b.__setitem__(slice(i + 8, i + 16), (ENTRY).to_bytes(8, 'little'))"
        " for i in range(0, len(b), 16) if int.from_bytes(b[i:i + 8], 'little') == 9],"
        "keep(c=ctypes.create_string_buffer(bytes(b))), ctypes.addressof(c)"
    ).replace("ENTRY", str(entry))
    address = liar.ask(f"({forge})[-1]")
    assert isinstance(address, int)
    changes(liar, auxv=address)
    before = liar.writable_memory()
    with pytest.raises(UnsupportedError, match="cannot be told"):
        liar.deliver("/view")
    assert {at: before[at] == now for at, now in liar.writable_memory().items()}
    assert liar.getenv() == "/own"


@pytest.mark.parametrize("pointer", [1, 4096, 1 << 47, (1 << 64) - 8])
def test_environment_that_leads_nowhere_is_malformed(liar: Scratch, pointer: int) -> None:
    liar.ask(f"setattr(ctypes.c_void_p.in_dll(libc, 'environ'), 'value', {pointer})")
    with Memory(ProcFs(), liar.pid) as memory, pytest.raises(MalformedError):
        read_environment(ProcFs(), liar.pid, memory)
    with pytest.raises(MalformedError):
        liar.deliver("/view")


def test_environment_that_goes_round_is_bounded(liar: Scratch) -> None:
    """As many pointers as there may be, all to the longest string that there may be: 8 GiB."""
    liar.ask(
        "keep(text=ctypes.create_string_buffer(b'A=' + b'x' * 131000),"
        " array=(ctypes.c_void_p * 65530)()),"
        "[array.__setitem__(n, ctypes.addressof(text)) for n in range(65529)].clear()"
    )
    liar.ask("setattr(ctypes.c_void_p.in_dll(libc, 'environ'), 'value', ctypes.addressof(array))")
    with pytest.raises(MalformedError, match="no end"):
        liar.deliver("/view")


@pytest.mark.parametrize(
    "name", [b"a b", b"a\nb", b"a\\012b", b"a (deleted)", b"\xff\xfe", b"[heap]"]
)
def test_file_that_it_maps_may_have_any_name(liar: Scratch, tmp_path: Path, name: bytes) -> None:
    file = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118
    with open(file, "wb") as made:
        made.write(bytes(4096))
    tmp_path.chmod(0o755)
    liar.ask(f"keep(m=mmap.mmap(os.open({file!r}, os.O_RDONLY), 4096, prot=mmap.PROT_READ))")
    mapped = [m for m in liar.proc.maps(liar.pid) if m.path.startswith(str(tmp_path))]
    assert [m.file.inode for m in mapped] == [os.stat(file).st_ino]  # noqa: PTH116
    liar.deliver("/view")
    assert liar.getenv() == "/view"


def test_maps_cannot_be_faked_by_a_name(liar: Scratch, tmp_path: Path) -> None:
    """A newline in a name would begin a line of maps that says anything."""
    line = f"\n7f0000000000-7f0000001000 rw-p 00000000 00:00 0 {sys.executable}"
    directory = tmp_path / line.replace("/", "_")
    directory.mkdir()
    (directory / "file").write_bytes(bytes(4096))
    before = len(liar.proc.maps(liar.pid))
    file = str(directory / "file")
    liar.ask(f"keep(m=mmap.mmap(os.open({file!r}, os.O_RDONLY), 4096, prot=mmap.PROT_READ))")
    maps = liar.proc.maps(liar.pid)
    assert len(maps) <= before + 2
    assert not [m for m in maps if m.start == 0x7F0000000000]
