# SPDX-License-Identifier: Apache-2.0
"""What package managers other than apt say of a transaction, and what makes them say it."""

import ast
import json
import shlex
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.errors import UsageError
from holdover.packages import MANAGERS, Change, dnf4, libdnf5, load_adapter, pacman, rpm, zypp
from holdover.packages.rpmdb import Owned, ask_rpm, parse_answer

COMMAND = Path("/usr/bin/holdover")
# recorded from libzypp 17.25, dnf 5.4.6 and pacman 6.0.2
ZYPP = b"""{
"TransactionStepList": [{
"solvable": {
"a": "x86_64",
"n": "qemu-block-extra",
"r": "1",
"v": "2"
},
"type": "+"
}, {
"solvable": {
"a": "noarch",
"n": "old",
"r": "1",
"v": "2"
},
"type": "-"
}]
}"""
LIBDNF5 = (
    b'{ "op": "reply", "requested_op": "get", "domain": "trans_packages", "status": "OK", "return":'
    b' { "trans_packages": [ { "name": "qemu-block-extra" }, { "name": "qemu-block-extra" },'
    b' { "name": "other" } ] } }\n'
)
PACMAN = b"usr/lib/qemu/block-curl.so\nusr/bin/qemu-system-x86_64\n"


# -- what they say ---------------------------------------------------------------------------------


def seen(change: Change) -> tuple[tuple[str, ...], str]:
    return change.names, change.files


def test_rpm_gives_the_paths() -> None:
    assert seen(rpm.read_change((), b"/usr/bin/kvm\n/usr/lib64/a b.so\n")) == (
        (),
        "/usr/bin/kvm\n/usr/lib64/a b.so\n",
    )


@pytest.mark.parametrize("listing", [b"", b"\n", b"usr/bin/kvm\n", b"/usr/bin/kvm\n\n/usr\n"])
def test_list_of_rpm_that_is_not_made_of_paths_is_a_usage_error(listing: bytes) -> None:
    with pytest.raises(UsageError, match="no path"):
        rpm.read_change((), listing)


def test_pacman_gives_paths_without_their_slash() -> None:
    expected = "/usr/lib/qemu/block-curl.so\n/usr/bin/qemu-system-x86_64\n"
    assert seen(pacman.read_change((), PACMAN)) == ((), expected)


@pytest.mark.parametrize("listing", [b"", b"\n", b"usr/bin/kvm\n\nusr\n"])
def test_empty_line_of_pacman_is_a_usage_error(listing: bytes) -> None:
    with pytest.raises(UsageError, match="empty"):
        pacman.read_change((), listing)


def test_file_names_that_are_not_utf_8_stay_what_they_are() -> None:
    assert rpm.read_change((), b"/usr/\xff.so\n").files == "/usr/\udcff.so\n"
    assert pacman.read_change((), b"usr/\xff.so\n").files == "/usr/\udcff.so\n"


def test_dnf4_gives_names() -> None:
    assert dnf4.parse_names(b"other\nqemu-kvm-core\n") == ("other", "qemu-kvm-core")


@pytest.mark.parametrize("listing", [b"", b"\n", b" \n\n"])
def test_dnf4_that_names_nothing_is_a_usage_error(listing: bytes) -> None:
    with pytest.raises(UsageError, match="names no package"):
        dnf4.read_change((), listing)


def test_libdnf5_gives_each_name_once() -> None:
    assert libdnf5.parse_names(LIBDNF5) == ("qemu-block-extra", "other")


@pytest.mark.parametrize("listing", [b"", b"\n"])
def test_libdnf5_that_could_not_be_asked_says_nothing(listing: bytes) -> None:
    assert libdnf5.read_change((), listing) is None


@pytest.mark.parametrize(
    "listing",
    [
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b'{"status": "ERROR", "message": "Unknown domain"}',
        b'{"return": {"trans_packages": [{}]}}',
        b'{"return": {"trans_packages": [{"name": 1}]}}',
        b'{"return": {"trans_packages": [{"name": []}]}}',
        b"[" * 100_000,
    ],
)
def test_answer_of_libdnf5_that_makes_no_sense_is_a_usage_error(listing: bytes) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        libdnf5.read_change((), listing)


def test_libzypp_gives_steps() -> None:
    assert zypp.parse_steps(ZYPP) == {"qemu-block-extra": "+", "old": "-"}


@pytest.mark.parametrize(
    "listing",
    [
        b"",
        b"{}",
        b"[]",
        ZYPP[:-1],
        ZYPP.replace(b'"n"', b'"name"'),
        ZYPP.replace(b'"old"', b"1"),
        ZYPP.replace(b'"old"', b"[]"),
        ZYPP.replace(b'"-"', b"null"),
        ZYPP.replace(b'"type"', b'"stage"'),
        b"[" * 100_000,
    ],
)
def test_list_of_libzypp_that_makes_no_sense_is_a_usage_error(listing: bytes) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        zypp.read_change((), listing)


def test_apk_says_nothing() -> None:
    assert load_adapter("apk").read_change((), b"anything") is None


WITHOUT_RPM: dict[str, Callable[[bytes], object]] = {
    "rpm": lambda listing: rpm.read_change((), listing),
    "pacman": lambda listing: pacman.read_change((), listing),
    "apk": lambda listing: load_adapter("apk").read_change((), listing),
    "dnf4": dnf4.parse_names,
    "libdnf5": libdnf5.parse_names,
    "zypp": zypp.parse_steps,
}
"""What each of them does with its list before rpm is asked."""
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner)
    | st.dictionaries(
        st.sampled_from(
            ["return", "trans_packages", "TransactionStepList", "solvable", "n", "name"]
        ),
        inner,
    ),
)


@pytest.mark.parametrize("read", WITHOUT_RPM.values(), ids=WITHOUT_RPM)
@given(listing=st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_list_is_read_or_a_usage_error(read: Callable[[bytes], object], listing: bytes) -> None:
    try:
        read(listing)
    except UsageError as error:
        assert len(error.message) < 500  # noqa: PT017


# -- what rpm's database says ----------------------------------------------------------------------


def test_answer_of_rpm_is_told_apart_by_its_lines() -> None:
    answer = "a\n/usr/bin/a\n/usr/lib64/liba.so.1\npackage b is not installed\nc\n"
    expected = Owned(frozenset({"a", "c"}), "/usr/bin/a\n/usr/lib64/liba.so.1\n")
    assert parse_answer(("a", "b", "c"), answer) == expected


def test_no_names_own_nothing() -> None:
    assert ask_rpm(()) == Owned(frozenset(), "")


@pytest.mark.parametrize("name", ["", "-e", "--all", "a b", "a/b", "a\n", "a*", "é", "a" * 300])
def test_what_is_no_name_is_never_given_to_rpm(name: str) -> None:
    with pytest.raises(UsageError, match="no name of a package"):
        ask_rpm(("fine", name))


@pytest.mark.parametrize(
    "name", ["qemu-kvm-core", "libstdc++", "java-1.8.0-openjdk", "a", "gtk+", "rubygem-x~y"]
)
def test_names_of_packages_are_known_as_such(name: str) -> None:
    try:
        assert ask_rpm((name,)).installed == frozenset()
    except UsageError as error:  # there is no rpm here
        assert error.message == "rpm is not installed"  # noqa: PT017


# -- what makes them say it ------------------------------------------------------------------------


@pytest.mark.parametrize("manager", MANAGERS)
def test_hook_files_are_absolute_and_say_where_they_come_from(manager: str) -> None:
    files = load_adapter(manager).hook_files(COMMAND)
    assert all(file.path.is_absolute() for file in files)
    assert all("Written by `holdover enable`" in file.text for file in files)
    assert len({file.path for file in files}) == len(files)
    assert all(file.text.endswith("\n") and "\n\n\n" not in file.text for file in files)


@pytest.mark.parametrize("manager", sorted(set(MANAGERS) - {"rpm", "dnf4"}))
def test_command_that_a_shell_would_read_otherwise_is_refused(manager: str) -> None:
    with pytest.raises(UsageError, match="configuration of a package manager"):
        load_adapter(manager).hook_files(Path("/opt/a b/holdover"))


def test_triggers_of_rpm_refuse_it_too() -> None:
    with pytest.raises(UsageError, match="configuration of a package manager"):
        rpm.spec_fragment(Path("/opt/100%/holdover"))


@pytest.mark.parametrize("manager", MANAGERS)
def test_presence_of_each_manager_can_be_asked(manager: str) -> None:
    assert load_adapter(manager).is_here() in (True, False)


def test_triggers_of_rpm_cover_where_programs_and_modules_are() -> None:
    first = rpm.spec_fragment(COMMAND).splitlines()[0]
    assert first == "%transfiletriggerun -- /lib /usr/bin /usr/lib /usr/pgsql-"


def targets(text: str) -> list[str]:
    return [line.removeprefix("Target = ") for line in text.splitlines() if "Target =" in line]


@pytest.mark.parametrize(
    ("path", "matters"),
    [
        ("usr/lib/qemu/block-curl.so", True),
        ("usr/lib/libcurl.so.4.8.0", True),
        ("usr/bin/qemu-system-x86_64", True),
        ("usr/bin/qemu-img", False),
        ("usr/share/qemu/bios.bin", False),
        ("usr/lib/modules/6.12/kernel/fs/nfs.ko.zst", False),
    ],
)
def test_pacman_itself_decides_whether_a_path_matters(path: str, matters: bool) -> None:
    for file in pacman.hook_files(COMMAND):
        assert any(fnmatchcase(path, target) for target in targets(file.text)) is matters


def test_hooks_of_pacman_are_the_first_and_the_last() -> None:
    before, after = pacman.hook_files(COMMAND)
    assert before.path.name < "01-any.hook" < "systemd-update.hook" < after.path.name
    assert "When = PreTransaction\n" in before.text
    assert "When = PostTransaction\n" in after.text
    assert ("AbortOnFail\n" in before.text, "AbortOnFail" in after.text) == (True, False)
    for file in (before, after):
        (line,) = [line for line in file.text.splitlines() if line.startswith("Exec = ")]
        assert shlex.split(line)[2:4] == ["/bin/sh", "-c"]
        assert len(shlex.split(line)) == 5
        assert len(line) < 1024  # libalpm's limit is 4096


def python(root: Path, *, version: str, has_dnf: bool) -> Path:
    packages = root / f"usr/lib/python{version}/site-packages"
    packages.mkdir(parents=True)
    if has_dnf:
        (packages / "dnf").mkdir()
        (packages / "dnf/plugin.py").touch()
    return packages / "dnf-plugins/holdover.py"


def test_plugin_of_dnf4_goes_to_each_python_that_has_dnf(tmp_path: Path) -> None:
    old, new = (python(tmp_path, version=version, has_dnf=True) for version in ("3.11", "3.12"))
    python(tmp_path, version="3.13", has_dnf=False)
    assert [file.path for file in dnf4.hook_files(COMMAND, tmp_path)] == [old, new]


def test_plugin_that_an_earlier_python_has_left_is_known(tmp_path: Path) -> None:
    left = python(tmp_path, version="3.11", has_dnf=False)
    left.parent.mkdir()
    left.touch()
    assert [file.path for file in dnf4.hook_files(COMMAND, tmp_path)] == [left]


def test_plugin_of_dnf4_is_read_by_the_python_of_rhel_8(tmp_path: Path) -> None:
    python(tmp_path, version="3.6", has_dnf=True)
    (file,) = dnf4.hook_files(COMMAND, tmp_path)
    ast.parse(file.text, feature_version=(3, 6))


@pytest.mark.parametrize(
    ("contents", "mode"),
    [
        ([], ""),
        ([b'...Unknown mode "{}"...'], " mode=json"),
        ([b"an older one"], ""),
        ([b'...Unknown mode "{}"...', b"an older one"], ""),
    ],
    ids=["none", "new", "old", "both"],
)
def test_libdnf5_is_given_no_option_that_its_plugin_does_not_know(
    tmp_path: Path, contents: list[bytes], mode: str
) -> None:
    for lib, content in zip(("lib64", "lib/x86_64-linux-gnu"), contents, strict=False):
        plugin = tmp_path / "usr" / lib / "libdnf5/plugins/actions.so"
        plugin.parent.mkdir(parents=True)
        plugin.write_bytes(content)
    lines, _ = libdnf5.hook_files(COMMAND, tmp_path)
    (line,) = [line for line in lines.text.splitlines() if line.startswith("pre_transaction:")]
    assert line.startswith(f"pre_transaction:::enabled=host-only{mode}:/bin/sh /etc/dnf/libdnf5-")
    assert line.endswith(".sh before json" if mode else ".sh before")
