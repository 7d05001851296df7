# SPDX-License-Identifier: Apache-2.0
"""A program that holdover does not know, by the page that leads through the making of a definition.

MariaDB over a point update of Debian 12: every command of docs/adding-a-program.md, in the order of
the page, and what it shows. The definitions are those on the page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab
from lab.mariadb import PACKAGES, RECIPE, Server
from lab.packaged import REPOSITORY
from lab.walkthrough import Step, answers, definition, is_shown, script, steps

from holdover.demo import archive
from holdover.demo.archive import builds
from holdover.demo.root import install_holdover

pytestmark = pytest.mark.e2e

PAGE = REPOSITORY / "docs/adding-a-program.md"
PROGRAM = "mariadb"
TWIN = steps(PAGE, "First see it fail")
FOLLOWED = [
    *steps(PAGE, "Find the keys"),
    *steps(PAGE, "Check it"),
    *steps(PAGE, "Prove it"),
]
REFUSED = "not supported by this version of the server"
"""What a server says of a plugin of another build."""
_PERMIT = """
printf 'auth required pam_permit.so\\naccount required pam_permit.so\\n' >/etc/pam.d/mariadb
useradd --no-create-home reader
"""
LOGIN = "CREATE USER reader IDENTIFIED VIA pam USING 'mariadb'"
WHO = ("--user=reader", "--password=x")


@dataclass
class Followed:
    lab: Lab
    server: Server
    said: dict[Step, str]


@pytest.fixture(scope="module")
def two_builds(cache: Path) -> Path:
    return archive.prepare_base(cache, print, RECIPE)


@pytest.fixture(scope="module")
def protected(two_builds: Path, scratch: Path) -> Iterator[Followed]:
    with Lab.with_holdover(two_builds, scratch) as lab:
        define(lab)
        yield followed(lab, FOLLOWED)


@pytest.fixture(scope="module")
def twin(two_builds: Path, scratch: Path) -> Iterator[Followed]:
    """holdover comes to it when all is over."""
    with Lab.stock(two_builds, scratch) as lab:
        seen = followed(lab, TWIN)
        install_holdover(lab.root.root)
        define(lab)
        yield seen


def define(lab: Lab) -> None:
    path = lab.path(f"/etc/holdover/programs/{PROGRAM}.toml")
    path.parent.mkdir(parents=True)
    path.write_text(definition(PAGE, PROGRAM))


def followed(lab: Lab, wanted: list[Step]) -> Followed:
    """As one who reads the page does it, and says yes to apt."""
    lab.path("/etc/apt/apt.conf.d/yes").write_text('APT::Get::Assume-Yes "true";\n')
    server = Server.start(lab.root)
    done = lab.run("sh", "-c", f"exec 2>&1\n{script(wanted)}")
    return Followed(lab, server, dict(zip(wanted, answers(done.stdout), strict=False)))


# -- the page --------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", FOLLOWED, ids=[step.command[:60] for step in FOLLOWED])
def test_page_shows_what_is_so(protected: Followed, step: Step) -> None:
    for line in step.shown:
        assert is_shown(line, protected.said[step]), protected.said[step]
    if step.command.startswith(("mariadb", "apt-get")):
        assert ("ERROR" in protected.said[step]) is ("ERROR" in "".join(step.shown))


@pytest.mark.parametrize("step", TWIN, ids=[step.command[:60] for step in TWIN])
def test_twin_fails_as_the_page_says(twin: Followed, step: Step) -> None:
    for line in step.shown:
        assert is_shown(line, twin.said[step]), twin.said[step]


def test_server_is_the_one_that_was_started(protected: Followed, twin: Followed) -> None:
    assert protected.server.lives
    assert twin.server.lives


# -- what the page tells beside that ---------------------------------------------------------------


def test_every_plugin_is_found_by_the_protected(protected: Followed, twin: Followed) -> None:
    """Those that are not of the server itself are refused, and stay so."""
    lost = [name for name in plugins(twin) if REFUSED in install(twin, name)]
    assert len(lost) > 10
    assert not [name for name in lost if REFUSED in install(protected, name)]


def plugins(seen: Followed) -> list[str]:
    found = seen.lab.path("/usr/lib/mysql/plugin").glob("*.so")
    return sorted(path.stem for path in found)


def install(seen: Followed, name: str) -> str:
    return seen.server.ask(f"INSTALL SONAME '{name}'")


def test_helper_that_stays_in_place_is_found(protected: Followed) -> None:
    protected.lab.root.run("sh", "-c", _PERMIT)
    install(protected, "auth_pam")
    assert protected.server.ask(LOGIN) == ""
    assert protected.lab.status(protected.server.pid)["state"] == "protected"
    assert protected.server.ask("SELECT current_user()", *WHO) == "reader@%"


def test_who_came_too_late_is_told(twin: Followed) -> None:
    found = twin.lab.status(twin.server.pid)
    assert found["state"] == "at-risk"
    assert "it is of another build" in found["reason"]
    done = twin.lab.holdover("protect")
    assert done.returncode == 1
    assert "gets them back" in done.stdout


def test_server_that_is_started_anew_is_current(protected: Followed) -> None:
    protected.lab.root.run("mariadb-admin", "shutdown")
    server = Server.start(protected.lab.root)
    assert protected.lab.status(server.pid)["state"] == "current"
    assert server.ask("INSTALL SONAME 'metadata_lock_info'; UNINSTALL SONAME 'sql_errlog'") == ""
    assert protected.lab.holdover("gc").returncode == 0
    assert protected.lab.held() == []


def test_twin_gets_its_own_back(twin: Followed) -> None:
    wanted = steps(PAGE, "After the fact")
    done = twin.lab.run("sh", "-c", f"exec 2>&1\n{script(wanted)}")
    for step, said in zip(wanted, answers(done.stdout), strict=False):
        for line in step.shown:
            assert is_shown(line, said), said
    assert "ERROR" not in done.stdout
    assert twin.server.lives


# -- before any update -----------------------------------------------------------------------------


@pytest.fixture
def older(two_builds: Path, scratch: Path) -> Iterator[Followed]:
    with Lab.with_holdover(two_builds, scratch) as lab:
        define(lab)
        yield Followed(lab, Server.start(lab.root), {})


def test_same_build_installed_once_more_changes_nothing(older: Followed) -> None:
    """Its modules are refused by a build, not by a file."""
    version = builds(older.lab.root, PACKAGES[0])[0]
    older.lab.root.apt("install", "--reinstall", *(f"{name}={version}" for name in PACKAGES))
    executable = older.lab.run("readlink", f"/proc/{older.server.pid}/exe").stdout
    assert "(deleted)" in executable
    found = older.lab.status(older.server.pid)
    assert (found["state"], found["reason"]) == ("current", "the modules on disk are its own")
    assert install(older, "ha_archive") == ""


def test_definition_that_was_changed_counts_for_what_is_taken_then(older: Followed) -> None:
    """The page's way: release, gc, protect."""
    lab, pid = older.lab, str(older.server.pid)
    path = lab.path(f"/etc/holdover/programs/{PROGRAM}.toml")
    path.write_text(path.read_text().replace("in_place", "# in_place"))
    assert lab.holdover("protect", pid).returncode == 0
    assert not has_link(lab)
    path.write_text(definition(PAGE, PROGRAM))
    for words in (("release", pid), ("gc",), ("protect", pid)):
        assert lab.holdover(*words).returncode == 0
    assert len(lab.held()) == 1
    assert has_link(lab)


def has_link(lab: Lab) -> bool:
    (view,) = lab.path("/usr/lib/holdover/view").iterdir()
    return (view / "auth_pam_tool_dir").is_symlink()
