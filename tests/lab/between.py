# SPDX-License-Identifier: Apache-2.0
"""Memory that is touched here and not in a child: there, nobody sees what happens in between."""

from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import pytest

from holdover.memory import Contents

__all__ = ["touch_here", "Counting"]

A = TypeVarTuple("A")
T = TypeVar("T")


class Counting(Contents):
    """Calls `before` and `after` with "read" or "write" around each."""

    def before(self, kind: str) -> None:
        pass

    def after(self, kind: str) -> None:
        pass

    def read(self, address: int, size: int) -> bytes:
        self.before("read")
        found = super().read(address, size)
        self.after("read")
        return found

    def write(self, address: int, data: bytes) -> None:
        self.before("write")
        super().write(address, data)
        self.after("write")


class _Here:
    """In place of the child."""

    def ask(self, file: int, question: Callable[[int, *A], T], *arguments: *A) -> T:
        return question(file, *arguments)


def touch_here(patch: pytest.MonkeyPatch, contents: type[Contents] = Contents) -> None:
    patch.setattr("holdover.memory.Contents", contents)
    for user in ("memory", "procfs"):
        patch.setattr(f"holdover.{user}.TOUCHER", _Here())
