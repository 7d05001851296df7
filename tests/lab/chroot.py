# SPDX-License-Identifier: Apache-2.0
"""The fast lab: a throwaway root as the demo uses it, with the words of the tests added."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from holdover.demo.archive import QEMU_PACKAGES, qemu_builds
from holdover.demo.root import ThrowawayRoot, install_holdover

__all__ = ["Lab"]


class Lab:
    """A Debian 12 with the older QEMU build, in which one may do anything."""

    def __init__(self, root: ThrowawayRoot) -> None:
        self.root = root
        self.older, self.newer = qemu_builds(root)

    @classmethod
    @contextmanager
    def with_holdover(cls, base: Path, scratch: Path) -> Iterator["Lab"]:
        """One where holdover is installed, and its hooks are not."""
        with cls.stock(base, scratch) as lab:
            install_holdover(lab.root.root)
            yield lab

    @classmethod
    @contextmanager
    def stock(cls, base: Path, scratch: Path) -> Iterator["Lab"]:
        """Debian as it is: where the unprotected twins live."""
        with ThrowawayRoot.copy_of(base, scratch) as root:
            yield cls(root)

    def run(self, *words: str, text: str | None = None) -> CompletedProcess[str]:
        """Run a command inside, whatever its exit code."""
        return self.root.run(*words, check=False, text=text)

    def holdover(self, *words: str) -> CompletedProcess[str]:
        return self.run("holdover", *words)

    def json(self, *words: str) -> dict[str, Any]:
        """What a command prints with --json."""
        done = self.holdover(*words, "--json")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def status(self, pid: int) -> dict[str, Any]:
        """The one process of that number in `status --json`."""
        (process,) = self.json("status", str(pid))["processes"]
        found: dict[str, Any] = process
        return found

    def held(self) -> list[dict[str, Any]]:
        """The snapshots in `list --json`."""
        snapshots: list[dict[str, Any]] = self.json("list")["snapshots"]
        return snapshots

    def upgrade(self) -> CompletedProcess[str]:
        """A real apt transaction to the newer build."""
        return self._install(self.newer)

    def downgrade(self) -> CompletedProcess[str]:
        return self._install(self.older)

    def _install(self, version: str) -> CompletedProcess[str]:
        return self.root.apt("install", *(f"{package}={version}" for package in QEMU_PACKAGES))

    def path(self, inside: str) -> Path:
        """A path inside, as it works from outside, mounts included."""
        return self.root.inside / inside.lstrip("/")
