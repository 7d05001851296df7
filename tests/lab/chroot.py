# SPDX-License-Identifier: Apache-2.0
"""The fast lab: a throwaway root as the demo uses it, with the words of the tests added."""

import functools
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from unit.schemas import check

from holdover.demo.archive import QEMU_PACKAGES, qemu_builds
from holdover.demo.root import ThrowawayRoot, install_holdover
from lab.distributions import full_upgrade, turn_to_the_next
from lab.python import install_with_python

__all__ = ["Lab"]


class Lab:
    """A Debian in which one may do anything; with the older QEMU build, if it is the usual one."""

    def __init__(self, root: ThrowawayRoot) -> None:
        self.root = root

    @functools.cached_property
    def older(self) -> str:
        """The version of the QEMU that is installed in the usual base."""
        return qemu_builds(self.root)[0]

    @functools.cached_property
    def newer(self) -> str:
        return qemu_builds(self.root)[1]

    @classmethod
    @contextmanager
    def with_holdover(
        cls, base: Path, scratch: Path, python_from: Path | None = None
    ) -> Iterator["Lab"]:
        """One where holdover is installed, and its hooks are not.

        If its Python is too old, it gets that of the root `python_from`.
        """
        with cls.stock(base, scratch) as lab:
            if python_from is None:
                install_holdover(lab.root.root)
            else:
                install_with_python(lab.root.root, python_from)
            yield lab

    @classmethod
    @contextmanager
    def with_package(cls, base: Path, scratch: Path, package: Path) -> Iterator["Lab"]:
        """One where holdover is what its Debian package installs, hooks included."""
        with cls.stock(base, scratch) as lab:
            lab.install(package)
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
        """What a command prints with --json, which is as its schema promises."""
        done = self.holdover(*words, "--json")
        answer: dict[str, Any] = json.loads(done.stdout)
        check(answer)
        return answer

    def status(self, pid: int) -> dict[str, Any]:
        """The process of that number in `status --json`."""
        process = next(p for p in self.json("status", str(pid))["processes"] if p["pid"] == pid)
        found: dict[str, Any] = process
        return found

    def held(self) -> list[dict[str, Any]]:
        """The snapshots in `list --json`."""
        snapshots: list[dict[str, Any]] = self.json("list")["snapshots"]
        return snapshots

    def install(self, package: Path) -> CompletedProcess[str]:
        """Install a package file, as an admin would who has it in a directory."""
        shutil.copy(package, self.path(f"/srv/{package.name}"))
        return self.root.apt("install", f"/srv/{package.name}")

    def upgrade(self) -> CompletedProcess[str]:
        """A real apt transaction to the newer build."""
        return self._install(self.newer)

    def downgrade(self) -> CompletedProcess[str]:
        return self._install(self.older)

    def install_by_dpkg(self, version: str) -> CompletedProcess[str]:
        """The same packages by dpkg alone, from files that apt has downloaded."""
        version = version.replace(":", "%3a")
        names = [f"{package}_{version}_amd64.deb" for package in QEMU_PACKAGES]
        return self.root.run("dpkg", "--install", *(f"/var/cache/apt/archives/{n}" for n in names))

    def full_upgrade(self) -> CompletedProcess[str]:
        """To the next release, if this is a copy of a `Crossing`'s base."""
        turn_to_the_next(self.root)
        return full_upgrade(self.root)

    def _install(self, version: str) -> CompletedProcess[str]:
        return self.root.apt("install", *(f"{package}={version}" for package in QEMU_PACKAGES))

    def path(self, inside: str) -> Path:
        """A path inside, as it works from outside, mounts included."""
        return self.root.inside / inside.lstrip("/")
