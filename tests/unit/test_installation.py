# SPDX-License-Identifier: Apache-2.0
"""Which installations die of the distribution's own change of Python."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.cli.enabling import is_current, refresh
from holdover.cli.installation import Installation
from holdover.packages.adapter import HookFile

SITE = "lib/python3.11/site-packages/holdover"


@pytest.mark.parametrize(
    ("modules", "prefix", "base"),
    [
        ("/usr/share/holdover/holdover", "/usr", "/usr"),
        ("/usr/lib/python3/dist-packages/holdover", "/usr", "/usr"),
        ("/usr/lib/python3.13/site-packages/holdover", "/usr", "/usr"),
        ("/usr/lib64/python3.13/site-packages/holdover", "/usr", "/usr"),
        (f"/opt/holdover/{SITE}", "/opt/holdover", "/opt/python"),
        (f"/opt/holdover/{SITE}", "/opt/holdover", "/usr/local"),
        (f"/usr/local/{SITE}", "/usr/local", "/usr/local"),
    ],
)
def test_packages_and_interpreters_of_ones_own_outlive_it(
    modules: str, prefix: str, base: str
) -> None:
    assert Installation(Path(modules), prefix, base).problem == ""


@pytest.mark.parametrize(
    ("modules", "prefix", "base", "named"),
    [
        (f"/opt/holdover/{SITE}", "/opt/holdover", "/usr", "virtual environment /opt/holdover"),
        ("/srv/src/holdover", "/opt/holdover", "/", "virtual environment /opt/holdover"),
        ("/usr/local/lib/python3.11/dist-packages/holdover", "/usr", "/usr", "/usr/local/lib"),
        (f"/root/.local/{SITE}", "/usr", "/usr", "/root/.local"),
    ],
)
def test_what_is_bound_to_the_distributions_python_does_not(
    modules: str, prefix: str, base: str, named: str
) -> None:
    assert named in Installation(Path(modules), prefix, base).problem


def test_virtual_environment_is_told_by_what_python_says_of_itself(tmp_path: Path) -> None:
    """A real one, of the interpreter of these tests."""
    base = sys.base_prefix
    python = next(p for p in Path(base, "bin").glob("python3") if os.access(p, os.X_OK))
    subprocess.run([python, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    code = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix]))"
    command = (str(tmp_path / "env/bin/python"), "-I", "-c", code)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = Installation(tmp_path / "env" / SITE, *json.loads(done.stdout))
    assert bool(found.problem) == (base in ("/usr", "/"))


def test_refresh_leaves_disabled_what_is_disabled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("holdover.cli.enabling._all_paths", lambda: [tmp_path / "hook"])
    changes = [(tmp_path / "hook", "updated")]
    monkeypatch.setattr("holdover.cli.enabling.enable", lambda *, again: changes if again else [])
    assert refresh() == []
    (tmp_path / "hook").touch()
    assert refresh() == [(tmp_path / "hook", "updated")]


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"something else\n"])
def test_a_hook_file_that_is_anything_is_not_current(tmp_path: Path, content: bytes) -> None:
    file = HookFile(tmp_path / "hook", "text\n")
    file.path.write_bytes(content)
    assert not is_current(file)
    file.path.write_text(file.text)
    file.path.chmod(0o644)
    assert is_current(file)
    file.path.chmod(0o755)
    assert not is_current(file)
