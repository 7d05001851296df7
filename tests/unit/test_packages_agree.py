# SPDX-License-Identifier: Apache-2.0
"""What the files of the packages say twice, they say alike."""

import re
import subprocess
from pathlib import Path

import pytest

from holdover import __version__
from holdover.cli.leftovers import BootCleanup
from holdover.packages import apt, dpkg
from holdover.store import Store

REPOSITORY = Path(__file__).parents[2]
DEBIAN, SPEC = REPOSITORY / "debian", REPOSITORY / "packaging/holdover.spec"
SCRIPTS = [*sorted(DEBIAN.glob("holdover.p*")), *sorted((REPOSITORY / "packaging").glob("*-*"))]


def test_all_say_the_same_version() -> None:
    first = (DEBIAN / "changelog").read_text().splitlines()[0]
    assert re.match(r"holdover \(([^)]*)\)", first).group(1) == __version__  # type: ignore[union-attr]
    spec = SPEC.read_text()
    assert f"\nVersion: {__version__}\n" in spec
    assert f"- {__version__}-1\n" in spec


def test_hooks_go_even_if_holdover_cannot_remove_them() -> None:
    """The others say that holdover did not run, and do no harm."""
    removed = set(re.findall(r"/etc/[\w./-]+", (DEBIAN / "holdover.postrm").read_text()))
    assert {str(apt.HOOK_PATH), str(dpkg.HOOK_PATH)} <= removed


def test_purge_knows_where_things_are() -> None:
    text, store = (DEBIAN / "holdover.postrm").read_text(), Store()
    for path in (store.objects, store.state, store.run / "lease", BootCleanup().path):
        assert str(path) in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_shell(script: Path) -> None:
    text = script.read_text()
    assert text.startswith("#!/bin/sh\n# SPDX-License-Identifier: Apache-2.0\n")
    assert re.search(r"^set -eu?$", text, re.MULTILINE)
    subprocess.run(["sh", "-n", script], check=True)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) == 7
