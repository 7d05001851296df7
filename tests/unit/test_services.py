# SPDX-License-Identifier: Apache-2.0
"""The files that make timers and libvirt call holdover, and whom the timer leaves alone."""

import os
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest
from unit.factories import store_below

from holdover.cli import services
from holdover.cli.timer import _released
from holdover.cli.transactions import mark, marked, own, under_way, unmark
from holdover.errors import UsageError
from holdover.flow import Holdover
from holdover.identity import ProcessId
from holdover.packages.adapter import HookFile
from holdover.procfs import ProcFs

COMMAND = Path("/opt/venv/bin/holdover")
NAMESPACED = (
    *("PrivateTmp", "PrivateDevices", "PrivateMounts", "PrivateIPC"),
    *("ProtectSystem", "ProtectHome", "ProtectKernelTunables", "ProtectKernelModules"),
    *("ProtectKernelLogs", "ProtectControlGroups", "ProtectProc", "ProcSubset", "MountFlags"),
    *("ReadWritePaths", "ReadOnlyPaths", "InaccessiblePaths", "ExecPaths", "NoExecPaths"),
    *("TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths", "RootDirectory", "RootImage"),
    *("MountImages", "ExtensionImages", "DynamicUser", "PrivateUsers"),
)
"""Of systemd.exec(5): what gives a service a mount namespace or takes its rights over others."""


def written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *programs: str) -> dict[str, HookFile]:
    """What would be written on a system that has these programs, by file name."""
    for name in ("_LIBVIRT", "_PACKAGED"):
        monkeypatch.setattr(services, name, tmp_path / name)
    monkeypatch.setattr(services, "_CRON", tmp_path / "cron.d/holdover")
    (tmp_path / "cron.d").mkdir(exist_ok=True)
    monkeypatch.setattr(shutil, "which", lambda name: f"/{name}" if name in programs else None)
    return {file.path.name: file for file in services.service_files(COMMAND)}


def test_with_systemd_units_are_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = written(monkeypatch, tmp_path, "systemctl", "cron")
    assert set(found) == {"holdover.service", "holdover.timer", "holdover.conf"}
    assert f"ExecStart={COMMAND} hook timer\n" in found["holdover.service"].text
    assert "/usr/bin/holdover" not in found["holdover.service"].text


def test_units_of_a_package_are_not_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_PACKAGED").mkdir()
    (tmp_path / "_PACKAGED/holdover.timer").touch()
    assert written(monkeypatch, tmp_path, "systemctl") == {}


def test_without_systemd_cron_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (found,) = written(monkeypatch, tmp_path, "crond").values()
    assert found.path == tmp_path / "cron.d/holdover"
    assert f"root test ! -x {COMMAND} || {COMMAND} hook timer" in found.text
    assert list(services.advice()) == []


def test_without_either_the_operator_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert written(monkeypatch, tmp_path) == {}
    (line,) = services.advice()
    assert "call `holdover hook timer` every few minutes" in line


def test_where_libvirt_is_its_hook_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "_LIBVIRT").mkdir()
    (found,) = written(monkeypatch, tmp_path).values()
    assert found.path == Path("/etc/libvirt/hooks/qemu.d/holdover")
    assert (found.mode, f"holdover={COMMAND}\n" in found.text) == (0o755, True)


def test_a_path_that_a_shell_would_read_otherwise_is_refused() -> None:
    with pytest.raises(UsageError):
        list(services.service_files(Path("/opt/my venv/holdover")))


def test_a_run_of_the_service_ends_before_anybody_is_released(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    called: list[str] = []
    monkeypatch.setattr(services, "run", lambda *words, check=True: called.append(" ".join(words)))
    monkeypatch.setattr(services, "_has_systemd", lambda: True)
    monkeypatch.setattr(services, "_PACKAGED", tmp_path)
    monkeypatch.setattr(services, "_is_booted", lambda: True)
    (tmp_path / "holdover.timer").touch()
    assert list(services.stop()) == [(Path("holdover.timer"), "disabled")]
    disabled = "systemctl disable --now holdover.timer"
    assert called == [disabled, "systemctl stop holdover.service"]


def test_whatever_can_be_written_can_be_removed() -> None:
    everything = {file.path.name for file in services.all_service_files()}
    assert {"holdover", "holdover.service", "holdover.timer", "holdover.conf"} == everything


@pytest.mark.parametrize("option", NAMESPACED)
def test_the_service_stays_in_the_hosts_mount_namespace(option: str) -> None:
    unit = files("holdover").joinpath("data/systemd/holdover.service").read_text()
    assert not [line for line in unit.splitlines() if line.startswith(f"{option}=")]


def test_what_the_service_complains_of_is_not_lost() -> None:
    """Else stderr goes where stdout goes; systemd.exec(5)."""
    unit = files("holdover").joinpath("data/systemd/holdover.service").read_text()
    assert "StandardError=journal" in unit.splitlines()


# -- the libvirt hook is a shell script that never waits -------------------------------------------


@pytest.fixture
def hook(tmp_path: Path) -> Path:
    """It calls a holdover that writes down its arguments, and waits for a file to go."""
    holdover = tmp_path / "holdover"
    holdover.write_text(f"""#!/bin/sh
for word in "$@"; do echo "$word" >> {tmp_path}/called; done
echo noise; echo noise >&2
while test -e {tmp_path}/busy; do sleep 0.05; done
echo ended >> {tmp_path}/called
""")
    holdover.chmod(0o755)
    text = files("holdover").joinpath("data/libvirt/holdover").read_text()
    script = tmp_path / "hook"
    script.write_text(text.replace("/usr/bin/holdover", str(holdover)))
    script.chmod(0o755)
    return script


def called(hook: Path, last: str) -> list[str]:
    """Once it has written `last`."""
    while True:
        lines = (hook.parent / "called").read_text().split("\n") if _is_there(hook) else []
        if last in lines:
            return lines[:-1]


def _is_there(hook: Path) -> bool:
    return (hook.parent / "called").exists()


def test_libvirt_is_let_go_before_holdover_ends(hook: Path) -> None:
    busy = hook.parent / "busy"
    busy.touch()
    name = "a 'guest' $(reboot) -x"
    done = subprocess.run(
        [hook, name, "started", "begin", "-"], input=b"<domain/>", capture_output=True, check=True
    )  # returns when the pipes are closed
    assert (done.stdout, done.stderr) == (b"", b"")
    assert called(hook, "-") == ["hook", "libvirt", name, "started", "begin", "-"]
    busy.unlink()
    assert called(hook, "ended")[-1] == "ended"


@pytest.mark.parametrize(
    "words", [("prepare", "begin"), ("started", "end"), ("stopped", "end"), ("reconnect", "begin")]
)
def test_other_events_concern_nobody(hook: Path, words: tuple[str, str]) -> None:
    subprocess.run([hook, "guest", *words, "-"], check=True, stdin=subprocess.DEVNULL)
    assert not _is_there(hook)


def test_a_holdover_that_is_missing_stops_no_guest(hook: Path) -> None:
    (hook.parent / "holdover").unlink()
    done = subprocess.run([hook, "guest", "started", "begin", "-"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


# -- whom the timer leaves alone -------------------------------------------------------------------


def test_a_transaction_is_under_way_while_its_process_lives(tmp_path: Path) -> None:
    marker, proc = tmp_path / "run/transaction", ProcFs()
    me = proc.identity(proc.own_pid)
    assert under_way(proc, marker) is None
    mark(me, proc, marker)
    assert (marked(marker), under_way(proc, marker)) == ((me,), me)
    marker.write_text(f"{me.pid} {me.start_time + 1}\n")
    assert under_way(proc, marker) is None
    mark(None, proc, marker)
    assert (marker.exists(), marked(marker), under_way(proc, marker)) == (True, (), None)


def test_the_end_of_one_transaction_is_not_the_end_of_another(tmp_path: Path) -> None:
    marker, proc = tmp_path / "transaction", ProcFs()
    above, other = proc.identity(os.getppid()), proc.identity(proc.own_pid)
    mark(other, proc, marker)
    assert own(proc, marker) is None
    mark(ProcessId(other.pid, other.start_time + 1), proc, marker)
    mark(above, proc, marker)
    mark(above, proc, marker)
    assert marked(marker) == (other, above)  # and nobody who is gone
    assert own(proc, marker) == above
    unmark(proc, marker)
    assert marked(marker) == (other,)
    unmark(proc, marker)  # of one that had no work
    assert under_way(proc, marker) == other
    marker.write_text(f"{other.pid} {other.start_time + 1}\n")
    unmark(proc, marker)  # the next run makes good what a killed one left
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_a_marker_of_another_kind_names_nobody(tmp_path: Path, kind: str) -> None:
    marker, proc, target = tmp_path / "transaction", ProcFs(), tmp_path / "target"
    me = proc.identity(proc.own_pid)
    match kind:
        case "fifo":
            os.mkfifo(marker)
        case "link":
            marker.symlink_to(target)
        case "directory":
            marker.mkdir()
    assert marked(marker) == ()
    if kind == "directory":
        with pytest.raises(OSError, match="directory"):
            mark(me, proc, marker)
        assert [path.name for path in tmp_path.iterdir()] == ["transaction"]
    else:
        mark(me, proc, marker)
        assert marked(marker) == (me,)
        assert not target.exists()


def test_who_was_released_is_remembered_until_it_is_forgotten(tmp_path: Path) -> None:
    released = store_below(tmp_path).released
    assert released.all() == frozenset()
    released.forget(ProcessId(1, 2))
    released.add(ProcessId(1, 2))
    released.add(ProcessId(3, 4))
    (released.directory / "garbage").touch()
    (released.directory / "5-x").touch()
    assert released.all() == {ProcessId(1, 2), ProcessId(3, 4)}
    released.forget(ProcessId(1, 2))
    assert released.all() == {ProcessId(3, 4)}


def test_timer_forgets_that_the_dead_were_released(tmp_path: Path) -> None:
    """It has to do so at each run: as long as nobody needs anything it does nothing else."""
    holdover = Holdover(store=store_below(tmp_path), programs=())
    me = holdover.proc.identity(os.getpid())
    for process in (me, ProcessId(os.getpid(), me.start_time + 1)):
        holdover.store.released.add(process)
    assert _released(holdover) == holdover.store.released.all() == {me}
