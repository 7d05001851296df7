# SPDX-License-Identifier: Apache-2.0
"""A program that keeps a pointer to its module directory's name: Asterisk, over 11 to 12.

By the definition in docs/adding-a-program.md. Debian 12 has no Asterisk: the old one stays and runs
on, and the libraries of its modules are another release's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.asterisk import RECIPE, Exchange
from lab.packaged import REPOSITORY
from lab.walkthrough import definition

from holdover.demo import archive

pytestmark = [pytest.mark.e2e, pytest.mark.distributions]

PAGE = REPOSITORY / "docs/adding-a-program.md"
LOST = ("res_config_pgsql", "res_config_ldap")
"""Their libraries want a newer libc than an exchange has that was started before."""
KEPT = ("res_crypto", "func_strings")


@dataclass
class Crossed:
    """A system that was upgraded under two exchanges; the twin is not protected any more."""

    lab: Lab
    protected: Exchange
    twin: Exchange
    pids: tuple[int, int]
    code: int
    """Of apt."""


@pytest.fixture(scope="module")
def crossed(cache: Path, scratch: Path, base: Path) -> Iterator[Crossed]:
    own_base = archive.prepare_base(cache, print, RECIPE)
    with Lab.with_holdover(own_base, scratch, base) as lab:
        path = lab.path("/etc/holdover/programs/asterisk.toml")
        path.parent.mkdir(parents=True)
        path.write_text(definition(PAGE, "asterisk"))
        lab.root.run("holdover", "enable")
        protected, twin = (Exchange.start(lab.root, name) for name in ("protected", "twin"))
        done = lab.full_upgrade()
        lab.root.run("holdover", "release", "--force", str(twin.pid))
        yield Crossed(lab, protected, twin, (protected.pid, twin.pid), done.returncode)


def test_upgrade_is_complete_and_nobody_was_restarted(crossed: Crossed) -> None:
    assert crossed.code == 0
    assert "bookworm" in crossed.lab.path("/etc/os-release").resolve().read_text()
    running = crossed.lab.run("pidof", "asterisk").stdout.split()
    assert {str(pid) for pid in crossed.pids} <= set(running)


@pytest.mark.parametrize("module", LOST)
def test_protected_loads_what_its_twin_cannot(crossed: Crossed, module: str) -> None:
    assert f"Unable to load module {module}" in crossed.twin.load(module)
    assert f"Loaded {module}" in crossed.protected.load(module)


@pytest.mark.parametrize("module", KEPT)
def test_both_load_what_needs_nothing_new(crossed: Crossed, module: str) -> None:
    for exchange in (crossed.protected, crossed.twin):
        assert f"Loaded {module}" in exchange.load(module)


def test_status_tells_them_apart(crossed: Crossed) -> None:
    protected, twin = (crossed.lab.status(pid) for pid in crossed.pids)
    assert (protected["state"], protected["delivery"]) == ("protected", "variable")
    assert twin["state"] == "at-risk"
    assert "the libc.so.6 in the process has only" in twin["reason"]


def test_exchange_itself_says_where_it_looks(crossed: Crossed) -> None:
    own = "/usr/lib/asterisk/modules"
    for exchange, rest in ((crossed.protected, f"{own}/../../../../usr"), (crossed.twin, own)):
        (line,) = [
            line
            for line in exchange.ask("core show settings").splitlines()
            if "Module directory" in line
        ]
        assert line.split()[-1].startswith(rest)
        assert ("/holdover/view/" in line) is (exchange is crossed.protected)


def test_release_brings_the_failure_back(crossed: Crossed) -> None:
    pid, module = str(crossed.protected.pid), "res_curl"
    assert crossed.lab.holdover("release", pid).returncode == 1
    assert crossed.lab.holdover("release", "--force", pid).returncode == 0
    assert f"Unable to load module {module}" in crossed.protected.load(module)
    assert crossed.lab.holdover("protect", pid).returncode == 0
    assert f"Loaded {module}" in crossed.protected.load(module)
