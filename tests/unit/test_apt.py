# SPDX-License-Identifier: Apache-2.0
"""What apt says it is about to change, protocol version 3."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.concern import names_any
from holdover.errors import UsageError
from holdover.packages.apt import Pending, archive_path, parse_simulation
from holdover.packages.aptlist import changed_files, parse_changes

HEAD = ["VERSION 3", "APT::Architecture=amd64", "Dir::Cache=var/cache/apt/", "DPkg=a b c", ""]
DEB = "/var/cache/apt/archives/qemu.deb"
UPGRADE = f"qemu-system-x86 1:7.2-7 amd64 foreign < 1:7.2-8 amd64 foreign {DEB}"


def changes(*lines: str) -> tuple[tuple[str, str], ...]:
    return parse_changes([*HEAD, *lines])


# -- parse_changes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "change"),
    [
        (UPGRADE, ("qemu-system-x86", "amd64")),
        (f"qemu 2.0 amd64 none > 1.0 amd64 none {DEB}", ("qemu", "amd64")),
        (f"qemu 2.0 amd64 none = 2.0 amd64 none {DEB}", ("qemu", "amd64")),
        (f"qemu - - none < 1.0 arm64 none {DEB}", ("qemu", "arm64")),
        ("qemu 1.0 amd64 none > - - none **REMOVE**", ("qemu", "amd64")),
        (f"libc6 2.36 i386 same < 2.37 i386 same {DEB}", ("libc6", "i386")),
        (f"qemu 1.0 amd64 none < 2.0 all none {DEB}", ("qemu", "amd64")),
        ("qemu 1 amd64 none < 2 amd64 none /tmp/a b/c d.deb", ("qemu", "amd64")),
        (f"libstdc++6 1 amd64 same < 2 amd64 same {DEB}", ("libstdc++6", "amd64")),
    ],
    ids=[
        "upgrade",
        "downgrade",
        "reinstall",
        "install",
        "removal",
        "multi-arch",
        "architecture changes",
        "blanks in the path",
        "plus signs",
    ],
)
def test_a_change_names_package_and_installed_architecture(
    line: str, change: tuple[str, str]
) -> None:
    assert changes(line) == (change,)


def test_a_package_that_is_only_configured_changes_no_file() -> None:
    configured = "qemu 1.0 amd64 none = 1.0 amd64 none **CONFIGURE**"
    assert changes(configured, UPGRADE) == (("qemu-system-x86", "amd64"),)


def test_all_changes_are_read_in_order() -> None:
    lines = [f"{name}1 1 amd64 none < 2 amd64 none {DEB}" for name in "cab"]
    assert [name for name, _ in changes(*lines)] == ["c1", "a1", "b1"]


def test_both_architectures_of_a_package_are_changes() -> None:
    lines = [f"libc6 1 {arch} same < 2 {arch} same {DEB}" for arch in ("amd64", "i386")]
    assert changes(*lines) == (("libc6", "amd64"), ("libc6", "i386"))


def test_no_packages_are_no_changes() -> None:
    assert changes() == ()


def test_lines_may_end_in_newlines() -> None:
    assert parse_changes(f"{line}\n" for line in [*HEAD, UPGRADE]) == changes(UPGRADE)


@pytest.mark.parametrize(
    "lines", [[], [""], ["VERSION 2"], ["VERSION 30"], ["/var/cache/apt/archives/qemu.deb"]]
)
def test_another_version_is_a_usage_error(lines: list[str]) -> None:
    with pytest.raises(UsageError, match="VERSION 3"):
        parse_changes([*lines, "", UPGRADE])


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_list_that_ends_in_the_configuration_is_a_usage_error(length: int) -> None:
    """It was cut off; what was to follow is not known, and may concern everything."""
    with pytest.raises(UsageError):
        parse_changes(HEAD[:length])


@pytest.mark.parametrize(
    "line",
    [
        "",
        " ",
        "qemu",
        UPGRADE.rpartition(" ")[0],
        " " + UPGRADE,
        UPGRADE.replace("qemu-system-x86", "../../etc/passwd"),
        UPGRADE.replace("qemu-system-x86", "q"),
        UPGRADE.replace("qemu-system-x86", "qemu\n"),
        UPGRADE.replace(" ", "\t"),
    ],
)
def test_a_line_that_makes_no_sense_is_a_usage_error(line: str) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        changes(UPGRADE, line)


def test_a_long_line_is_not_repeated_whole() -> None:
    with pytest.raises(UsageError) as caught:
        changes("x" * 10**6)
    assert len(caught.value.message) < 500


@given(st.lists(st.text(alphabet="aq1 -<>=*.:/\n\t\x00é", max_size=30)))
def test_any_lines_are_read_or_a_usage_error(lines: list[str]) -> None:
    try:
        changes(*lines)
    except UsageError:
        return


@given(st.text())
def test_any_text_is_read_or_a_usage_error(text: str) -> None:
    try:
        parse_changes(text.splitlines())
    except UsageError:
        return


# -- parse_simulation ------------------------------------------------------------------------------

SIMULATED = [
    "Inst libssh-4 [0.10.6-0+deb12u1] (0.10.6-0+deb12u2 Debian:12.12/stable [amd64])",
    "Inst libc6:i386 [2.36-9] (2.36-10 Debian:12.12/stable [i386]) [libc6:amd64 on libc6:i386]",
    "Inst hello (2.10-3 Debian:12.15/oldstable [amd64])",
    "Inst python3-jwt [2.6.0-1] (2.6.0-1+deb12u1 Debian:12.15/oldstable, Debian-Security:12 [all])",
    "Inst libstdc++6 [12.2.0-14] (12.2.0-14+deb12u1 Google LLC:1.0/stable [amd64]) []",
    "Inst qemu [1:7.2+dfsg-7] (1:7.2+dfsg-7+deb12u15 Debian:12.12/stable [amd64])",
    "Inst local [1.0] (2.0 [amd64])",
    "Remv librbd1 [16.2.11+ds-2]",
    "Remv libc6:i386 [2.36-9] [libc6:amd64 ]",
    "Purg qemu-utils [1:7.2+dfsg-7]",
]


def pending(
    name: str, version: str = "", *, new: bool = False, architecture: str = "amd64"
) -> Pending:
    return Pending(name, architecture, version, new)


FOUND = [
    pending("libssh-4", "0.10.6-0+deb12u2"),
    pending("libc6", "2.36-10", architecture="i386"),
    pending("hello", "2.10-3", new=True),
    pending("python3-jwt", "2.6.0-1+deb12u1", architecture="all"),
    pending("libstdc++6", "12.2.0-14+deb12u1"),
    pending("qemu", "1:7.2+dfsg-7+deb12u15"),
    pending("local", "2.0"),
    pending("librbd1"),
    pending("libc6", architecture="i386"),
    pending("qemu-utils"),
]


@pytest.mark.parametrize(
    ("line", "found"), list(zip(SIMULATED, FOUND, strict=True)), ids=lambda at: str(at)[:12]
)
def test_simulated_line_names_package_and_what_becomes_of_it(line: str, found: Pending) -> None:
    assert parse_simulation(line, "amd64") == (found,)


def test_only_lines_that_change_files_are_read_in_order() -> None:
    text = [
        "NOTE: This is only a simulation!",
        "Reading package lists...",
        "The following packages will be REMOVED:",
        "  librbd1",
        "Instead of this, that is installed.",
        SIMULATED[7],
        SIMULATED[0],
        "Conf libssh-4 (0.10.6-0+deb12u2 Debian:12.12/stable [amd64])",
        "",
    ]
    assert parse_simulation("\n".join(text), "amd64") == (FOUND[7], FOUND[0])


def test_nothing_to_do_is_no_package() -> None:
    assert parse_simulation("0 upgraded, 0 newly installed, 0 to remove\n", "amd64") == ()


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_removed_package_without_an_architecture_is_a_native_one(architecture: str) -> None:
    (found,) = parse_simulation("Remv librbd1 [16.2.11+ds-2]", architecture)
    assert (found.name, found.architecture) == ("librbd1", architecture)


@pytest.mark.parametrize(
    "line",
    [
        "Inst ",
        "Inst hello",
        "Inst hello [1.0]",
        "Inst hello (2.0",
        "Inst hello (2.0 Debian)",
        "Inst hello (2.0 Debian [amd64])x",
        "Inst Hello (2.0 Debian [amd64])",
        "Inst ../hello (2.0 Debian [amd64])",
        "Inst hello (../../2.0 Debian [amd64])",
        "Inst hello (2.0 Debian [../amd64])",
        "Remv ",
        "Remv hello (2.0 Debian [amd64])",
        "Purg hello:",
        "Purg \0",
    ],
)
def test_simulated_line_that_makes_no_sense_is_a_usage_error(line: str) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        parse_simulation(f"{SIMULATED[0]}\n{line}\n", "amd64")


def test_message_about_a_long_line_is_short() -> None:
    with pytest.raises(UsageError) as caught:
        parse_simulation("Inst " + "x" * 10_000, "amd64")
    assert len(caught.value.message) < 500


@given(st.lists(st.sampled_from(["Inst ", "Remv ", "a", "(", ")", "[", "]", " ", "1", "\n"])))
def test_any_simulation_is_read_or_a_usage_error(words: list[str]) -> None:
    try:
        found = parse_simulation("".join(words), "amd64")
    except UsageError:
        return
    assert all("/" not in archive_path(package).name for package in found)


@pytest.mark.parametrize(
    ("package", "name"),
    [
        (FOUND[0], "libssh-4_0.10.6-0+deb12u2_amd64.deb"),
        (FOUND[3], "python3-jwt_2.6.0-1+deb12u1_all.deb"),
        (FOUND[5], "qemu_1%3a7.2+dfsg-7+deb12u15_amd64.deb"),
    ],
    ids=["plain", "all", "epoch"],
)
def test_archive_is_called_as_apt_calls_it(package: Pending, name: str) -> None:
    assert archive_path(package) == Path("/var/cache/apt/archives") / name
    assert archive_path(package, Path("/elsewhere")) == Path("/elsewhere") / name


# -- changed_files ---------------------------------------------------------------------------------


@pytest.fixture
def info(tmp_path: Path) -> Path:
    (tmp_path / "qemu.list").write_text("/.\n/usr\n/usr/bin\n/usr/bin/kvm\n")
    (tmp_path / "libc6:amd64.list").write_text("/lib/amd64/libc.so.6\n")
    (tmp_path / "libc6:i386.list").write_text("/lib/i386/libc.so.6\n")
    return tmp_path


def test_files_are_those_of_the_installed_version(info: Path) -> None:
    found = changed_files([("qemu", "amd64")], str(info))
    assert found == "/.\n/usr\n/usr/bin\n/usr/bin/kvm\n"


def test_a_multi_arch_package_owns_the_files_of_its_architecture(info: Path) -> None:
    assert changed_files([("libc6", "i386")], str(info)) == "/lib/i386/libc.so.6\n"


def test_files_of_all_changes_come_together(info: Path) -> None:
    found = changed_files([("libc6", "i386"), ("libc6", "amd64")], str(info))
    assert found == "/lib/i386/libc.so.6\n/lib/amd64/libc.so.6\n"


def test_a_package_that_is_not_installed_owns_nothing(info: Path) -> None:
    assert changed_files([("nginx", "amd64")], str(info)) == ""


def test_without_dpkg_nothing_is_owned(tmp_path: Path) -> None:
    assert changed_files([("qemu", "amd64")], str(tmp_path / "missing")) == ""


def test_a_file_name_may_hold_anything_but_a_newline(info: Path) -> None:
    names = "/usr/a\x0bb\n/usr/c\u2028d\n/usr/e\x85f\n"
    (info / "odd.list").write_text(names)
    assert changed_files([("odd", "all")], str(info)) == names


def test_a_file_name_that_is_not_utf_8_is_the_files_own(info: Path) -> None:
    (info / "odd.list").write_bytes(b"/usr/a\xff\n")
    assert changed_files([("odd", "all")], str(info)) == "/usr/a\udcff\n"


@pytest.mark.parametrize("name", ["a" * 255, "a" * 5000])
def test_an_absurdly_long_name_owns_nothing_or_is_a_usage_error(info: Path, name: str) -> None:
    try:
        found = changed_files(changes(UPGRADE.replace("qemu-system-x86", name)), str(info))
    except UsageError:
        return
    assert found == ""


# -- names_any -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "named"),
    [
        ("qemu", True),
        ("qemu-system-x86", True),
        ("qemu-block-extra", True),
        ("qemu-efi-aarch64", False),
        ("libqemu-system-x86", False),
    ],
)
def test_packages_are_matched_whole(package: str, named: bool) -> None:
    patterns = ["qemu-system-*", "qemu-block-*", "qemu"]
    assert names_any(["bash", package], patterns) is named


def test_nothing_names_nothing() -> None:
    assert not names_any([], ["*"])
    assert not names_any(["qemu"], [])


def test_package_that_is_named_again_has_no_more_files(tmp_path: Path) -> None:
    (tmp_path / "qemu.list").write_text("/usr/bin/kvm\n")
    assert changed_files([("qemu", "amd64")] * 1000, str(tmp_path)) == "/usr/bin/kvm\n"
