# SPDX-License-Identifier: Apache-2.0
"""The archive that a guest's kernel starts from, and the order of its modules."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab.bases import LabError
from lab.initramfs import initramfs, module_order


def entries(archive: bytes) -> Iterator[tuple[str, int, tuple[int, int], bytes]]:
    """Name, mode, device and content; source: cpio(5), newc."""
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        if name == b"TRAILER!!!\0":
            return
        begin = at + -(-(110 + length) // 4) * 4
        device = fields[9], fields[10]
        yield name[:-1].decode(), mode, device, archive[begin : begin + size]
        at = begin + -(-size // 4) * 4


def test_directories_come_before_what_is_in_them() -> None:
    archive = initramfs({"init": b"#!x", "bin/sh": b"12345"}, {"lib/a/b": b""})
    seen = {name: (mode, device, content) for name, mode, device, content in entries(archive)}
    assert list(seen) == ["bin", "dev", "lib", "lib/a", "init", "bin/sh", "lib/a/b", "dev/console"]
    assert seen["bin/sh"] == (stat.S_IFREG | 0o755, (0, 0), b"12345")
    assert seen["lib/a/b"][0] == stat.S_IFREG | 0o644
    assert seen["lib"][0] == stat.S_IFDIR | 0o755
    assert seen["dev/console"] == (stat.S_IFCHR | 0o600, (5, 1), b"")


def module(directory: Path, name: str, needs: str) -> None:
    (directory / f"{name}.ko").write_bytes(b"\x7fELF\0depends=" + needs.encode() + b"\0name=x\0")


def test_modules_come_after_those_that_they_need(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    module(tmp_path, "virtio", "virtio_ring")
    module(tmp_path, "virtio_ring", "")
    module(tmp_path / "net", "net-failover", "")
    module(tmp_path / "net", "virtio_net", "virtio,net_failover,virtio_ring")
    ordered = [path.name for path in module_order(tmp_path, ["virtio", "virtio_net"])]
    assert ordered == ["virtio_ring.ko", "virtio.ko", "net-failover.ko", "virtio_net.ko"]


def test_a_module_that_is_missing_is_named(tmp_path: Path) -> None:
    module(tmp_path, "virtio", "virtio_ring")
    with pytest.raises(LabError, match="virtio_ring"):
        module_order(tmp_path, ["virtio"])
