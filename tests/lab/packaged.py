# SPDX-License-Identifier: Apache-2.0
"""Packages of holdover itself: of this tree, and of a later version of it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from holdover.run import run

__all__ = ["REPOSITORY", "LATER", "build_deb", "build_rpm", "build_wheel", "later_version"]

REPOSITORY = Path(__file__).parents[2]
LATER = "99.0"
_PARTS = (
    *("src", "debian", "packaging", "share", "docs"),
    *("README.md", "CHANGELOG.md", "pyproject.toml"),
)


def build_deb(tree: Path, output: Path) -> Path:
    """What `make deb` makes of a tree."""
    run(tree / "packaging/build-deb", output)
    (built,) = output.glob("*.deb")
    return built


def build_rpm(tree: Path, output: Path) -> Path:
    """What `make rpm` makes of a tree."""
    run(tree / "packaging/build-rpm", output)
    (built,) = output.glob("*.rpm")
    return built


def build_wheel(directory: Path) -> Path:
    """What `make dist` makes; from a copy, because setuptools leaves things beside its sources."""
    tree, output = directory / "tree", directory / "dist"
    _copy(tree)
    words = ("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(output), str(tree))
    # with the environment of the tests: that says where pip finds setuptools
    subprocess.run([sys.executable, "-m", *words], stdin=subprocess.DEVNULL, check=True)
    (built,) = output.glob("*.whl")
    return built


def later_version(directory: Path) -> Path:
    """A copy of this tree that calls itself later, and whose hook for apt has another text."""
    _copy(directory)
    _edit(directory / "src/holdover/__init__.py", r'(?<=__version__ = ").*(?=")', LATER)
    _edit(
        directory / "src/holdover/packages/apt.py",
        r"(?<=Written by `holdover enable`)",
        f" {LATER}",
    )
    _edit(directory / "debian/changelog", r"(?<=\Aholdover \()[^)]*", LATER)
    _edit(directory / "packaging/holdover.spec", r"(?<=^Version: ).*", LATER)
    return directory


def _copy(directory: Path) -> None:
    unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in _PARTS:
        source = REPOSITORY / part
        if source.is_dir():
            shutil.copytree(source, directory / part, ignore=unwanted)
        elif source.exists():
            shutil.copy(source, directory / part)


def _edit(file: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, file.read_text(), count=1, flags=re.MULTILINE)
    assert count == 1, f"{file} has no {pattern}"
    file.write_text(text)
