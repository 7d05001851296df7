# SPDX-License-Identifier: Apache-2.0
"""Bases: which sources they get, and that each recipe looks after its own directory only."""

import fcntl
import os
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from lab.distributions import BULLSEYE, CROSSINGS, SID

from holdover.demo import archive
from holdover.demo.archive import RELEASE, Recipe, prepare_base
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress

MAIN, SECURITY = "mirror://here/debian/", "mirror://here/security/"


def fill(_root: ThrowawayRoot, _progress: Progress) -> None:
    """Never called: nothing is built here."""


ONE = Recipe("one", RELEASE, fill)
OTHER = Recipe("other", SID, fill)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Debian 12 with an archive of its own, and without mmdebstrap."""

    def index_targets(*_command: object) -> CompletedProcess[str]:
        listed = f"{MAIN} bookworm\n{SECURITY} bookworm-security\n"
        return CompletedProcess((), 0, listed, "")

    monkeypatch.setattr(archive, "run", index_targets)
    monkeypatch.setattr(archive, "_own_release", lambda: "bookworm")
    monkeypatch.setattr(archive, "NEEDED_TOOLS", {})
    monkeypatch.setattr(archive, "_build", lambda directory, *_: Path(directory).mkdir())


def silent(_text: str) -> None:
    pass


def test_sources_of_a_release_are_at_this_machines_mirror() -> None:
    assert archive.debian_sources(RELEASE) == [
        f"deb {MAIN} bookworm main",
        f"deb {SECURITY} bookworm-security main",
    ]


def test_unstable_has_no_security_updates_and_may_be_expired() -> None:
    assert archive.debian_sources(SID) == [f"deb [check-valid-until=no] {MAIN} sid main"]


@pytest.mark.parametrize(("exists", "count"), [(True, 2), (False, 1)])
def test_old_release_does_without_security_updates_that_are_gone(
    monkeypatch: pytest.MonkeyPatch, exists: bool, count: int
) -> None:
    monkeypatch.setattr(archive, "_exists", lambda uri, suite: exists)
    assert len(archive.existing_sources(BULLSEYE, silent)) == count
    assert len(archive.existing_sources(RELEASE, silent)) == 2


def test_base_is_built_once(tmp_path: Path) -> None:
    first = prepare_base(tmp_path, silent, ONE)
    (first / "mark").touch()
    assert prepare_base(tmp_path, silent, ONE) == first
    assert (first / "mark").exists()


def test_base_replaces_its_own_older_ones_only(tmp_path: Path) -> None:
    for name in ("one-0123456789ab", "one-building"):  # an older one, and what is half built
        (tmp_path / name).mkdir()
    other = prepare_base(tmp_path, silent, OTHER)
    one = prepare_base(tmp_path, silent, ONE)
    assert {path for path in tmp_path.iterdir() if path.is_dir()} == {one, other}


def test_base_does_not_wait_for_another_one_that_is_built(tmp_path: Path) -> None:
    with (tmp_path / f"{OTHER.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert prepare_base(tmp_path, silent, ONE).is_dir()


def test_base_that_is_too_old_is_built_again(tmp_path: Path) -> None:
    base = prepare_base(tmp_path, silent, ONE)
    (base / "mark").touch()
    os.utime(base, (0, 0))
    assert prepare_base(tmp_path, silent, ONE) == base
    assert not (base / "mark").exists()


def test_no_recipe_sweeps_another_ones_base() -> None:
    names = [archive.TWO_BUILDS.name, *CROSSINGS]
    for one in names:
        assert [name for name in names if name.startswith(one)] == [one]
