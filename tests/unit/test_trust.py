# SPDX-License-Identifier: Apache-2.0
"""What only root could have put there, and what others could."""

import os
from pathlib import Path

import pytest

from holdover.trust import distrust, distrust_file

NOBODY = 65534


@pytest.fixture
def root_made(tmp_path: Path) -> Path:
    """pytest's own directories are root's, mode 0700, below a sticky /tmp."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/module.so").touch()
    return tmp_path


def test_files_of_the_system_are_trusted() -> None:
    assert distrust(Path("/usr/bin/env")) == ""
    assert distrust(Path("/lib")) == ""


def test_what_root_made_below_a_sticky_directory_is_trusted(root_made: Path) -> None:
    assert distrust(root_made / "lib/module.so") == ""


@pytest.mark.parametrize("whose", ["lib", "lib/module.so"])
def test_what_belongs_to_another_is_not(root_made: Path, whose: str) -> None:
    os.chown(root_made / whose, NOBODY, NOBODY)
    assert distrust(root_made / "lib/module.so") == f"{root_made / whose}: it belongs to user 65534"


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o757])
def test_what_others_can_write_is_not(root_made: Path, mode: int) -> None:
    (root_made / "lib").chmod(mode)
    assert distrust(root_made / "lib/module.so") == f"{root_made / 'lib'}: others can write to it"
    (root_made / "lib").chmod(0o755)
    (root_made / "lib/module.so").chmod(mode)
    assert "others can write" in distrust_file((root_made / "lib/module.so").stat())


def test_links_of_root_are_followed_to_what_they_lead_to(root_made: Path) -> None:
    (root_made / "link").symlink_to("lib")
    (root_made / "absolute").symlink_to(root_made / "lib")
    assert distrust(root_made / "link/module.so") == ""
    assert distrust(root_made / "absolute/module.so") == ""
    os.chown(root_made / "lib", NOBODY, NOBODY)
    assert "belongs to user" in distrust(root_made / "link/module.so")
    assert "belongs to user" in distrust(root_made / "absolute/module.so")


def test_links_of_others_are_not_followed(root_made: Path) -> None:
    (root_made / "link").symlink_to("/usr/bin")
    os.chown(root_made / "link", NOBODY, NOBODY, follow_symlinks=False)
    assert "leads anywhere" in distrust(root_made / "link")


def test_links_that_go_round_end(root_made: Path) -> None:
    (root_made / "one").symlink_to("two")
    (root_made / "two").symlink_to("one")
    assert "too many links" in distrust(root_made / "one")


@pytest.mark.parametrize("path", ["relative", "", "/usr/../tmp", "./x"])
def test_names_that_mean_another_file_elsewhere_are_not_trusted(path: str) -> None:
    assert "no absolute path" in distrust(Path(path))


def test_what_is_not_there_is_as_good_as_where_it_would_be(root_made: Path) -> None:
    assert distrust(root_made / "gone/deep/down") == ""
    os.chown(root_made / "lib", NOBODY, NOBODY)
    assert distrust(root_made / "lib/gone") != ""


def test_what_is_not_there_can_be_made_by_anybody_in_a_directory_of_all(root_made: Path) -> None:
    (root_made / "lib").chmod(0o1777)
    assert distrust(root_made / "lib/module.so") == ""
    assert distrust(root_made / "lib/gone/x") == f"{root_made / 'lib/gone'}: anybody can make it"
    (root_made / "link").symlink_to("lib/gone")
    assert "anybody can make it" in distrust(root_made / "link")


def test_the_walk_stops_at_the_first_name_that_is_not_roots(root_made: Path) -> None:
    """Below may be a file system that never answers."""
    os.chown(root_made / "lib", NOBODY, NOBODY)
    problem = distrust(root_made / "lib/no-such-file")
    assert problem == f"{root_made / 'lib'}: it belongs to user 65534"
