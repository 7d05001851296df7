# SPDX-License-Identifier: Apache-2.0
"""What the kernel's policies allow, told from files of their kernels; none of them runs here."""

from pathlib import Path

import pytest

from holdover.cli.confinement import apparmor, ptrace_policy, selinux
from holdover.errors import RefusedError

STORE = Path("/usr/lib/holdover")


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.mark.parametrize("scope", ["0", "1", "2"])
def test_yama_lets_root_write_to_processes(tmp_path: Path, scope: str) -> None:
    write(tmp_path, "proc/sys/kernel/yama/ptrace_scope", f"{scope}\n")
    assert f"ptrace_scope is {scope}" in ptrace_policy(tmp_path)


def test_yama_may_forbid_it_to_everybody(tmp_path: Path) -> None:
    write(tmp_path, "proc/sys/kernel/yama/ptrace_scope", "3\n")
    with pytest.raises(RefusedError, match="not even root") as caught:
        ptrace_policy(tmp_path)
    assert "/etc/sysctl.d" in caught.value.hint


def test_without_yama_there_is_no_policy(tmp_path: Path) -> None:
    assert ptrace_policy(tmp_path) == "Yama is not in this kernel"


@pytest.mark.parametrize("text", [None, "N\n"])
def test_apparmor_that_is_off_is_in_nobodys_way(tmp_path: Path, text: str | None) -> None:
    if text:
        write(tmp_path, "sys/module/apparmor/parameters/enabled", text)
    assert "not in this kernel" in apparmor(Path("/srv/store"), tmp_path)


@pytest.mark.parametrize("store", [STORE, Path("/usr/lib64/holdover"), Path("/lib/holdover")])
def test_apparmor_lets_guests_map_what_lies_among_libraries(tmp_path: Path, store: Path) -> None:
    write(tmp_path, "sys/module/apparmor/parameters/enabled", "Y\n")
    assert f"below {store}" in apparmor(store, tmp_path)


@pytest.mark.parametrize("store", ["/srv/store", "/var/lib/holdover", "/usr/library/holdover"])
def test_apparmor_needs_a_rule_for_other_places(tmp_path: Path, store: str) -> None:
    write(tmp_path, "sys/module/apparmor/parameters/enabled", "Y\n")
    with pytest.raises(RefusedError, match="may not map files below") as caught:
        apparmor(Path(store), tmp_path)
    assert f"{store}/view/** mr," in caught.value.hint


def labelled(monkeypatch: pytest.MonkeyPatch, label: bytes | None) -> None:
    def getxattr(path: Path, name: str) -> bytes:
        assert (path, name) == (STORE, "security.selinux")
        if label is None:
            raise OSError
        return label

    monkeypatch.setattr("holdover.cli.confinement.os.getxattr", getxattr)


def test_selinux_that_is_not_there_is_in_nobodys_way(tmp_path: Path) -> None:
    assert "not in this kernel" in selinux(STORE, tmp_path)


@pytest.mark.parametrize("label", [b"system_u:object_r:lib_t:s0\0", b"system_u:object_r:usr_t:s0"])
def test_selinux_lets_guests_map_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: bytes
) -> None:
    write(tmp_path, "sys/fs/selinux/enforce", "1")
    labelled(monkeypatch, label)
    assert selinux(STORE, tmp_path).startswith("enforcing")


@pytest.mark.parametrize("label", [b"system_u:object_r:var_lib_t:s0", b"\xff", b"", None])
def test_selinux_needs_a_label_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: bytes | None
) -> None:
    write(tmp_path, "sys/fs/selinux/enforce", "1")
    labelled(monkeypatch, label)
    with pytest.raises(RefusedError, match="guests may not map it") as caught:
        selinux(STORE, tmp_path)
    assert "restorecon -R /usr/lib/holdover" in caught.value.hint


def test_selinux_that_only_complains_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "sys/fs/selinux/enforce", "0")
    labelled(monkeypatch, None)
    assert selinux(STORE, tmp_path).startswith("permissive")
