# SPDX-License-Identifier: Apache-2.0
"""A capture holds what it was sent for, or leaves nothing and says why."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.elf_images import Image
from unit.factories import STAMP, build, store_below

from holdover.errors import DamagedError, ElfError, HoldoverError, OtherMachineError
from holdover.held import Purpose
from holdover.model import Capture, LateLoad, Needed
from holdover.programs import load_programs
from holdover.steps.capture import capture
from holdover.store import Store

BITS, BYTE_ORDER = 4, 5


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    before = os.umask(0o022)
    yield store_below(tmp_path / "store")
    os.umask(before)


@pytest.fixture
def wanted(tmp_path: Path) -> Capture:
    """Two modules that need one library; the second is what is spoilt."""
    library = tmp_path / "liba.so.1"
    library.write_bytes(bytes(Image(soname="liba.so.1")))
    found = library.stat()
    need = Needed("liba.so.1", library, found.st_size, found.st_mtime_ns)
    modules = []
    for name in ("block-curl", "block-rbd"):
        path = tmp_path / f"{name}.so"
        path.write_bytes(bytes(Image(needed=["liba.so.1"], defined=[STAMP])))
        modules.append(LateLoad(name, path, needs=(need,), order=("liba.so.1",)))
    executable = tmp_path / "qemu-system-x86_64"
    executable.write_bytes(bytes(Image(constants=b"block-ssh\0block-rbd")))
    of = build(directories=(tmp_path,))
    return Capture(of, Purpose.HOLD, executable, tuple(modules), "for the test")


def refused(store: Store, wanted: Capture) -> HoldoverError:
    """Why it was not taken; nothing of it may be left."""
    with store.writing(0), pytest.raises(HoldoverError) as raised:
        capture(store, wanted, load_programs())
    assert (store.holdings(), list(store.views.iterdir())) == ((), [])
    assert list((store.objects / "staging").iterdir()) == []
    return raised.value


def spoil(path: Path, change: Callable[[bytearray], None]) -> None:
    """Change its content; size and times stay."""
    content, found = bytearray(path.read_bytes()), path.stat()
    change(content)
    path.write_bytes(content)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def make_32_bit(content: bytearray) -> None:
    content[BITS] = 1


def make_big_endian(content: bytearray) -> None:
    content[BYTE_ORDER] = 2


def make_static(content: bytearray) -> None:
    content[:] = bytes(Image(dynamic=False)).ljust(len(content), b"\0")


def make_endless(content: bytearray) -> None:
    content[56:58] = b"\xff\xff"


def test_whole_capture_is_one_snapshot(store: Store, wanted: Capture) -> None:
    with store.writing(0):
        taken = capture(store, wanted, load_programs())
    assert {file.path: file.how for file in taken.files} == {
        "block-curl.so": "rewritten",
        "block-rbd.so": "rewritten",
        "lib/liba.so.1": "link",
    }
    assert set(taken.decoys) - set(load_programs()[1].asked) == {"block-ssh"}


@pytest.mark.parametrize(
    ("spoiler", "error"),
    [
        (make_32_bit, OtherMachineError),
        (make_big_endian, OtherMachineError),
        (make_static, ElfError),
        (make_endless, ElfError),
    ],
)
def test_module_that_cannot_be_rewritten_leaves_nothing(
    store: Store,
    wanted: Capture,
    spoiler: Callable[[bytearray], None],
    error: type[HoldoverError],
) -> None:
    spoil(wanted.modules[1].path, spoiler)
    assert isinstance(refused(store, wanted), error)


def test_module_of_another_build_leaves_nothing(store: Store, wanted: Capture) -> None:
    other = bytes(Image(needed=["liba.so.1"], defined=[STAMP.replace("a", "b")]))
    wanted.modules[1].path.write_bytes(other)
    assert isinstance(refused(store, wanted), DamagedError)


def test_library_that_was_replaced_leaves_nothing(store: Store, wanted: Capture) -> None:
    library = wanted.modules[0].needs[0].path
    content = bytearray(library.read_bytes())
    make_32_bit(content)
    library.unlink()
    library.write_bytes(content)
    os.utime(library, ns=(1, 1))
    assert isinstance(refused(store, wanted), DamagedError)


def test_group_of_a_module_stays(store: Store, wanted: Capture) -> None:
    """Guests may have the right to read it by their group only."""
    others = [group for group in os.getgroups() if group != os.getegid()] or [12345]
    try:
        os.chown(wanted.modules[0].path, -1, others[0])
    except PermissionError as error:
        pytest.skip(f"no group to give it: {error}")
    wanted.modules[0].path.chmod(0o640)
    with store.writing(0):
        taken = capture(store, wanted, load_programs())
    found = (store.views / taken.id / "block-curl.so").stat()
    assert (found.st_gid, found.st_mode & 0o777) == (others[0], 0o640)
