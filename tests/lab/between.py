# SPDX-License-Identifier: Apache-2.0
"""Memory that is touched here and not in a child: there, nobody sees what happens in between."""

import os
import signal
from collections.abc import Callable
from typing import ClassVar, TypeVar, TypeVarTuple

import pytest

from holdover.memory import Contents

__all__ = ["touch_here", "Counting", "is_killed_after"]

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


class _Fatal(Counting):
    """Whoever uses it is killed right after the nth time."""

    left: ClassVar = {"read": 0, "write": 0}

    def after(self, kind: str) -> None:
        self.left[kind] -= 1
        if self.left[kind] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def is_killed_after(kind: str, number: int, action: Callable[[], None]) -> bool:
    """Do it in a process of its own; False if that came to its end, which has to be a good one."""
    child = os.fork()
    if child == 0:
        _Fatal.left[kind] = number
        touch_here(pytest.MonkeyPatch(), _Fatal)
        try:
            action()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)
