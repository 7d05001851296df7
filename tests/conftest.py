# SPDX-License-Identifier: Apache-2.0
"""Fixtures for systems that are thrown away, and the rule that not everything may be skipped."""

import getpass
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from lab import BootedLab, Lab
from lab.bases import base_directory
from lab.booted import RECIPE, build_booted_base
from lab.longer import LongRun
from lab.outcomes import Outcomes, Record
from lab.packaged import REPOSITORY, build_deb, later_version
from lab.postgres import RECIPE as POSTGRES
from lab.servers import SERVERS, DataServers, data_servers

from holdover.demo import archive
from holdover.demo.root import sweep
from holdover.errors import CommandError
from holdover.run import run

# a machine that is busy is no failure: two files of tests run side by side
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
KINDS = ("system", "e2e")
_results: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}


def namespaces_work() -> str:
    """Why root, mount and pid namespaces are not available here, or ""; found out by trying."""
    try:
        run("unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt")
    except CommandError as error:
        return f"{error.message}: {error.hint}"
    return "" if os.geteuid() == 0 else "not root"


@pytest.fixture(scope="session")
def namespaces() -> None:
    problem = namespaces_work()
    if problem:
        pytest.skip(problem)


@pytest.fixture(scope="session")
def cache(namespaces: None) -> Path:
    """Where bases are kept between runs; what killed runs left there goes first."""
    directory = archive.default_cache()
    sweep(directory / "runs")
    return directory


@pytest.fixture(scope="session")
def base(cache: Path) -> Path:
    return archive.prepare_base(cache, print)


@pytest.fixture(scope="session")
def postgres_base(cache: Path) -> Path:
    """PostgreSQL's older build, with the newer one and a third beside it."""
    return archive.prepare_base(cache, print, POSTGRES)


@pytest.fixture(scope="session")
def scratch(cache: Path) -> Path:
    """On the file system of the bases, so that copies can be links."""
    return cache / "runs"


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this tree."""
    return build_deb(REPOSITORY, tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def later(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This tree as a later version."""
    return later_version(tmp_path_factory.mktemp("later"))


@pytest.fixture(scope="session")
def later_deb(later: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_deb(later, tmp_path_factory.mktemp("later-deb"))


@pytest.fixture
def lab(base: Path, scratch: Path) -> Iterator[Lab]:
    """A system with holdover, hooks not enabled."""
    with Lab.with_holdover(base, scratch) as made:
        yield made


@pytest.fixture(scope="module")
def quiet(base: Path, scratch: Path) -> Iterator[Lab]:
    """One for all tests of a file that change no package; each leaves it as it was."""
    with Lab.with_holdover(base, scratch) as lab:
        yield lab


@pytest.fixture
def stock(base: Path, scratch: Path) -> Iterator[Lab]:
    """The same system without holdover."""
    with Lab.stock(base, scratch) as made:
        yield made


@pytest.fixture(scope="session")
def booted_base(cache: Path) -> Path:
    sources = archive.debian_sources(archive.RELEASE)
    directory = base_directory(cache, "booted", RECIPE + repr(sources))
    build_booted_base(directory, sources)
    return directory


@pytest.fixture(scope="session")
def servers(cache: Path, scratch: Path) -> Iterator[DataServers]:
    """Network disks for the guests of any other root; they serve from the first use on."""
    servers_base = archive.prepare_base(cache, print, SERVERS)
    with data_servers(servers_base, scratch) as made:
        yield made


@pytest.fixture
def booted(booted_base: Path, tmp_path: Path) -> Iterator[BootedLab]:
    with BootedLab(booted_base, tmp_path) as made:
        yield made


# -- longer runs than the usual, and what they show ----------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rounds", type=int, help="of tests that repeat something")
    parser.addoption("--report", type=Path, help="a page whose figures are to be replaced")


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> LongRun:
    return LongRun(request.config.getoption("rounds"), request.config.getoption("report"))


@pytest.fixture(scope="session")
def outcomes(long_run: LongRun) -> Iterator[Outcomes]:
    """What deliveries met in this run."""
    found = Outcomes()
    yield found
    if long_run.page:
        long_run.show("races", found.table())


@pytest.fixture
def record(outcomes: Outcomes, request: pytest.FixtureRequest) -> Record:
    """For a line that this test adds to the table."""
    return outcomes.recorder(f"{request.path.stem}::{request.function.__name__}")


# -- a run in which all tests of a kind were skipped has shown nothing ---------------------------


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for kind in KINDS:
        if kind in report.keywords and (report.when == "call" or report.skipped):
            _results[kind][report.outcome] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workerinput"):
        return  # who started this worker hears of all tests
    silent = [k for k, seen in _results.items() if seen["skipped"] and not seen["passed"]]
    if silent and session.exitstatus == pytest.ExitCode.OK and not namespaces_work():
        print(f"\nall {' and '.join(silent)} tests were skipped on a machine that can run them")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_unconfigure() -> None:
    """The directory of pytest's temporary ones, empty after a run that passed."""
    with suppress(OSError):
        (Path(tempfile.gettempdir()) / f"pytest-of-{getpass.getuser()}").rmdir()
