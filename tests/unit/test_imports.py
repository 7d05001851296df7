# SPDX-License-Identifier: Apache-2.0
"""What a command loads before it does anything: modules are counted, for times would be noise."""

import subprocess
import sys
from pathlib import Path

import pytest

import holdover

SOURCES = Path(holdover.__file__).parents[1]
HEAVY = frozenset(
    (
        *("argparse", "asyncio", "ctypes", "dataclasses", "inspect", "json", "pathlib"),
        *("subprocess", "tomllib", "typing", "urllib"),
    )
)
"""Each takes milliseconds, with what it loads itself."""
ELSEWHERE = frozenset(
    (
        *(
            "asyncio",
            "email",
            "http",
            "prometheus_client",
            "qemu",
            "rich",
            "subprocess",
            "tempfile",
        ),
        *("hashlib", "holdover.rewrite", "holdover.steps.capture", "holdover.pending"),
    )
)
"""For some commands only, for a terminal, or for what is held."""
LISTING = "VERSION 3\n\nnginx 1 amd64 none < 2 amd64 none /x.deb\n"
GLANCE = """
from holdover.cli import glance
from holdover.cli.main import main
records = []
glance.write_record = lambda *record: records.append(record)
assert main(["hook", "apt", "before", "1"]) == 0
assert [(name, result) for name, _, result in records] == [("apt-before", "done")]
"""


def loaded(code: str, *, text: str = "") -> set[str]:
    """What a fresh Python loads to run this, beyond what it starts with."""
    program = f"""
import sys
sys.path.insert(0, {str(SOURCES)!r})
before = set(sys.modules)
{code}
print(*sorted(set(sys.modules) - before))
"""
    command = (sys.executable, "-I", "-S", "-c", program)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_transaction_that_concerns_nobody_loads_next_to_nothing() -> None:
    names = loaded(GLANCE, text=LISTING)
    ours = {name for name in names if name.startswith("holdover")}
    assert not names & HEAVY
    assert len(ours) <= 12, sorted(ours)
    assert len(names - ours) <= 36, sorted(names - ours)


@pytest.mark.parametrize("module", ["status", "protect", "hooks", "timer"])
def test_what_looks_at_processes_loads_what_others_need_only_for_them(module: str) -> None:
    names = loaded(f"import holdover.cli.{module}, holdover.flow")
    assert not names & ELSEWHERE
    assert len([name for name in names if name.startswith("holdover")]) <= 84


def test_what_is_heavy_would_be_seen() -> None:
    assert "dataclasses" in loaded("import holdover.cli.hooks")
