# SPDX-License-Identifier: Apache-2.0
"""What counts as an error of a guest at work, and as a block that its disk has lost."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from lab.beats import Heart
from lab.init import BLOCK
from lab.worker import Worker

from holdover.demo.guest import Guest
from holdover.demo.root import ThrowawayRoot


@dataclass
class Directory:
    """All of a root that is looked at."""

    inside: Path


def block(letter: bytes) -> bytes:
    return letter * BLOCK


def worker(tmp_path: Path, console: str, disk: bytes = b"") -> Worker:
    for directory in ("tmp", "srv"):
        (tmp_path / directory).mkdir()
    (tmp_path / "tmp/guest.console").write_text(console.replace("\n", "\r\n"))
    (tmp_path / "srv/guest.img").write_bytes(disk)
    guest = Guest(cast(ThrowawayRoot, Directory(tmp_path)), "guest", 1)
    return Worker(guest, Heart(tmp_path / "tmp/guest.beats"))


def said(*steps: tuple[str, int, bytes]) -> str:
    return "".join(f"{w} {n} {hashlib.sha256(block(c)).hexdigest()}\n" for w, n, c in steps)


@pytest.mark.parametrize(
    ("more", "lost"),
    [
        ((), []),
        ((("writing", 0, b"c"),), []),  # its end came in between: either is right
        ((("writing", 0, b"c"), ("wrote", 0, b"c")), [0]),
        ((("writing", 1, b"c"), ("wrote", 1, b"c")), [1]),
    ],
)
def test_block_is_lost_if_the_disk_promised_it_and_has_another(
    tmp_path: Path, more: tuple[tuple[str, int, bytes], ...], lost: list[int]
) -> None:
    steps = [(what, n, c) for n, c in ((0, b"a"), (1, b"b")) for what in ("writing", "wrote")]
    found = worker(tmp_path, said(*steps, *more), block(b"a") + block(b"b"))
    assert found.lost() == lost


def test_disk_that_ends_early_has_lost_a_block(tmp_path: Path) -> None:
    found = worker(tmp_path, said(("writing", 1, b"a"), ("wrote", 1, b"a")), block(b"a"))
    assert found.lost() == [1]


def test_errors_are_those_of_the_work_and_of_the_kernel(tmp_path: Path) -> None:
    lines = (
        "[    0.1] a warning that no error has\n\nread 3\n",
        "error disk: slot 3 has x, not y\n",
        "[    9.0] I/O error, dev vda, sector 8\n",
        "[    9.1] Kernel panic - not syncing\nfetched\nerror that is not at its e",
    )
    errors = worker(tmp_path, "".join(lines)).errors
    assert [error.split()[0] for error in errors] == ["error", "[", "["]
