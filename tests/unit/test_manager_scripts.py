# SPDX-License-Identifier: Apache-2.0
"""The scripts that package managers run, run as they would, on what was recorded of them.

holdover is a stand-in here that notes how it was called, with which input, by whose child.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdover.packages import apk, dnf4, libdnf5, pacman, rpm, zypp
from holdover.packages.adapter import HookFile
from holdover.packages.guard import VETO

COMPLAINT = "did not run, live guests were not looked at"
STEPS = b'{\n"TransactionStepList": [{\n"solvable": {\n"n": "kvm"\n},\n"type": "+"\n}]\n}'
ANSWER = b'{ "op": "reply", "return": { "trans_packages": [ { "name": "a\\"\\\\n" } ] } }\n'
ME = str(os.getpid())


@dataclass
class Stage:
    """A directory that is what /run/holdover is otherwise, and a holdover."""

    directory: Path
    exit_code: int = 0

    def __post_init__(self) -> None:
        self.run.mkdir()
        self.command.write_text(
            f'#!/bin/sh\necho "$*" >>{self.directory}/calls\n'
            f"test $3 != before || cat >{self.directory}/input\n"
            f"echo said by holdover\nexit $(cat {self.directory}/code)\n"
        )
        self.command.chmod(0o755)
        self.ends_with(0)

    @property
    def command(self) -> Path:
        return self.directory / "holdover"

    @property
    def run(self) -> Path:
        return self.directory / "run"

    @property
    def marker(self) -> Path:
        return self.run / "transaction"

    @property
    def calls(self) -> list[str]:
        file = self.directory / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def given(self) -> bytes:
        """What the last call before a transaction got on stdin."""
        return (self.directory / "input").read_bytes()

    def ends_with(self, code: int) -> None:
        (self.directory / "code").write_text(f"{code}\n")

    def text(self, text: str) -> str:
        return text.replace("/run/holdover/", f"{self.run}/").replace(
            "mkdir -p /run/holdover", f"mkdir -p {self.run}"
        )

    def script(self, file: HookFile) -> str:
        """A hook file as a script of this stage."""
        path = self.directory / f"hook-{file.path.name}"
        path.write_text(self.text(file.text))
        path.chmod(file.mode)
        return str(path)

    def sh(self, *words: str, given: bytes = b"", **variables: str) -> "Ran":
        """Run something as a package manager would: this process is its parent."""
        environment = {"PATH": os.environ["PATH"], **variables}
        done = subprocess.run(
            words, input=given, capture_output=True, env=environment, check=False, timeout=60
        )
        return Ran(done.returncode, done.stdout, done.stderr.decode())


@dataclass(frozen=True)
class Ran:
    code: int
    stdout: bytes
    stderr: str


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def note_of(pid: int) -> str:
    """What a manager that asked leaves for rpm."""
    start_time = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{pid} {start_time}\n"


BROKEN = pytest.mark.parametrize("broken", ["missing", "fails", "dies"])


def break_holdover(stage: Stage, broken: str) -> None:
    if broken == "missing":
        stage.command.unlink()
    elif broken == "fails":
        stage.ends_with(1)
    else:
        stage.command.write_text("#!/bin/sh\nkill -KILL $$\n")


# -- apk -------------------------------------------------------------------------------------------


def run_apk(stage: Stage, when: str) -> Ran:
    (file,) = apk.hook_files(stage.command)
    return stage.sh(stage.script(file), when, given=b"an answer to apk's own question")


def test_apk_calls_before_a_commit_and_after_one_that_mattered(stage: Stage) -> None:
    assert run_apk(stage, "pre-commit").code == 0
    assert run_apk(stage, "post-commit").code == 0
    stage.marker.touch()
    assert run_apk(stage, "post-commit").code == 0
    assert stage.calls == [f"hook apk before {ME}", "hook apk after"]
    assert stage.given == b""


def test_apk_is_stopped_by_a_veto_only(stage: Stage) -> None:
    stage.ends_with(VETO)
    assert run_apk(stage, "pre-commit").code == 1


@BROKEN
def test_apk_goes_on_without_holdover(stage: Stage, broken: str) -> None:
    break_holdover(stage, broken)
    stage.marker.touch()
    for when in ("pre-commit", "post-commit"):
        done = run_apk(stage, when)
        assert (done.code, COMPLAINT in done.stderr) == (0, True)


# -- pacman ----------------------------------------------------------------------------------------


def run_pacman(stage: Stage, when: int, given: bytes = b"") -> Ran:
    text = stage.text(pacman.hook_files(stage.command)[when].text)
    (line,) = [line for line in text.splitlines() if line.startswith("Exec = ")]
    return stage.sh(*shlex.split(line)[2:], given=given)


def test_pacman_calls_with_its_paths(stage: Stage) -> None:
    assert run_pacman(stage, 0, b"usr/lib/a.so\n").code == 0
    assert stage.given == b"usr/lib/a.so\n"
    assert run_pacman(stage, 1).code == 0
    stage.marker.touch()
    assert run_pacman(stage, 1).code == 0
    assert stage.calls == [f"hook pacman before {ME}", "hook pacman after"]


@BROKEN
def test_pacman_goes_on_without_holdover(stage: Stage, broken: str) -> None:
    break_holdover(stage, broken)
    done = run_pacman(stage, 0)
    assert (done.code, COMPLAINT in done.stderr) == (0, True)


# -- libzypp ---------------------------------------------------------------------------------------


def frames(*commands: str) -> bytes:
    body = {"COMMITBEGIN": STEPS, "COMMITEND": STEPS}
    return b"".join(f"{c}\n\n".encode() + body.get(c, b"") + b"\0" for c in commands)


COMMIT = ("PLUGINBEGIN", "COMMITBEGIN", "COMMITEND", "PLUGINEND", "_DISCONNECT")


def run_zypp(stage: Stage, *commands: str) -> Ran:
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    (file,) = zypp.hook_files(stage.command)
    return stage.sh(stage.script(file), given=frames(*commands))


def answers(count: int) -> bytes:
    return b"ACK\n\n\0" * count


def test_libzypp_gets_an_answer_to_each_frame_and_holdover_the_steps(stage: Stage) -> None:
    done = run_zypp(stage, *COMMIT)
    assert (done.code, done.stdout) == (0, answers(5))
    assert json.loads(stage.given) == json.loads(STEPS)
    assert stage.calls == [f"hook zypp before {ME}"]
    assert "said by holdover" in done.stderr  # which goes to zypper's log
    assert (stage.run / "asked").read_text() == note_of(os.getpid())


@pytest.mark.parametrize("commands", [COMMIT, COMMIT[:2], COMMIT[:1]])
def test_end_of_a_commit_is_noticed_however_it_comes(
    stage: Stage, commands: tuple[str, ...]
) -> None:
    stage.marker.touch()
    run_zypp(stage, *commands)
    assert "hook zypp after" in stage.calls


def test_libzypp_in_another_program_than_zypper_is_not_interrupted(stage: Stage) -> None:
    stage.ends_with(VETO)
    done = run_zypp(stage, *COMMIT)
    assert (done.code, done.stdout) == (0, answers(5))
    assert "does not let itself be stopped" in done.stderr


@BROKEN
def test_libzypp_gets_its_answers_without_holdover(stage: Stage, broken: str) -> None:
    break_holdover(stage, broken)
    stage.marker.touch()
    done = run_zypp(stage, *COMMIT)
    assert (done.code, done.stdout) == (0, answers(5))
    assert COMPLAINT in done.stderr


# -- libdnf5 ---------------------------------------------------------------------------------------


def run_libdnf5(stage: Stage, *words: str, given: bytes = b"") -> Ran:
    _, file = libdnf5.hook_files(stage.command)
    return stage.sh("/bin/sh", stage.script(file), *words, given=given)


def test_libdnf5_is_asked_and_its_answer_handed_on_as_it_is(stage: Stage) -> None:
    done = run_libdnf5(stage, "before", "json", given=ANSWER)
    (request,) = done.stdout.splitlines()
    assert json.loads(request)["domain"] == "trans_packages"
    assert stage.given == ANSWER
    assert stage.calls == [f"hook libdnf5 before {ME}"]
    assert (stage.run / "asked").read_text() == note_of(os.getpid())


def test_libdnf5_that_cannot_be_asked_gets_no_request(stage: Stage) -> None:
    done = run_libdnf5(stage, "before")
    assert (done.code, done.stdout, stage.given) == (0, b"", b"\n")


def test_libdnf5_is_called_after_what_mattered(stage: Stage) -> None:
    assert run_libdnf5(stage, "after").stdout == b""
    stage.marker.touch()
    assert run_libdnf5(stage, "after").stdout == b""
    assert stage.calls == ["hook libdnf5 after"]


@pytest.mark.parametrize("mode", [("json",), ()])
def test_libdnf5_is_stopped_by_a_veto_only(stage: Stage, mode: tuple[str, ...]) -> None:
    stage.ends_with(VETO)
    last = run_libdnf5(stage, "before", *mode, given=ANSWER).stdout.splitlines()[-1]
    if mode:
        assert json.loads(last)["op"] == "stop"
    else:
        assert last.startswith(b"stop=holdover: ")


@BROKEN
def test_libdnf5_goes_on_without_holdover(stage: Stage, broken: str) -> None:
    break_holdover(stage, broken)
    done = run_libdnf5(stage, "before", "json", given=ANSWER)
    assert (done.code, COMPLAINT in done.stderr) == (0, True)
    assert b"stop" not in done.stdout


# -- dnf 4 -----------------------------------------------------------------------------------------


class DnfError(Exception):
    pass


@dataclass(frozen=True)
class DnfPackage:
    name: str


@dataclass
class DnfTransaction:
    install_set: list[DnfPackage]
    remove_set: list[DnfPackage]


@dataclass
class DnfBase:
    transaction: Any
    conf: Any = field(default_factory=lambda: types.SimpleNamespace(installroot="/"))


UPGRADE = DnfTransaction([DnfPackage("kvm"), DnfPackage("new")], [DnfPackage("kvm")])


def plugin(stage: Stage, base: DnfBase, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin, loaded by something that looks like dnf to it."""
    dnf = types.ModuleType("dnf")
    dnf.Plugin = type("Plugin", (), {"__init__": lambda self, base: setattr(self, "base", base)})  # type: ignore[attr-defined]
    dnf.exceptions = types.SimpleNamespace(Error=DnfError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dnf", dnf)
    packages = stage.directory / "usr/lib/python3.12/site-packages/dnf"
    packages.mkdir(parents=True)
    (packages / "plugin.py").touch()
    (file,) = dnf4.hook_files(stage.command, stage.directory)
    loaded: dict[str, Any] = {}
    exec(stage.text(file.text), loaded)  # noqa: S102
    return loaded["Holdover"](base)


def test_dnf4_calls_with_the_names_of_what_comes_and_goes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plugin(stage, DnfBase(UPGRADE), monkeypatch)
    made.pre_transaction()
    assert stage.given == b"kvm\nnew\n"
    assert (stage.run / "asked").read_text() == note_of(os.getpid())
    made.transaction()
    stage.marker.touch()
    made.transaction()
    assert stage.calls == [f"hook dnf4 before {ME}", "hook dnf4 after"]


@pytest.mark.parametrize(
    "base",
    [DnfBase(None), DnfBase(UPGRADE, types.SimpleNamespace(installroot="/srv/image"))],
    ids=["nothing", "elsewhere"],
)
def test_dnf4_does_not_call_where_no_package_of_this_system_changes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, base: DnfBase
) -> None:
    stage.marker.touch()
    made = plugin(stage, base, monkeypatch)
    made.pre_transaction()
    made.transaction()
    assert stage.calls == []


def test_dnf4_is_stopped_by_a_veto_only(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.ends_with(VETO)
    with pytest.raises(DnfError, match=r"hook\.veto"):
        plugin(stage, DnfBase(UPGRADE), monkeypatch).pre_transaction()


@BROKEN
def test_dnf4_goes_on_without_holdover(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], broken: str
) -> None:
    break_holdover(stage, broken)
    plugin(stage, DnfBase(UPGRADE), monkeypatch).pre_transaction()
    assert COMPLAINT in capfd.readouterr().err


def test_dnf4_whose_inside_has_changed_goes_on_and_says_so(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin(stage, DnfBase(object()), monkeypatch).pre_transaction()
    assert stage.given == b""  # then everything is protected
    assert "does not say what it changes" in capfd.readouterr().err


# -- rpm -------------------------------------------------------------------------------------------


def run_rpm(stage: Stage, when: str, given: bytes = b"", **variables: str) -> Ran:
    """Run one of the triggers as rpm does, which has read the percent signs."""
    scripts: dict[str, str] = {}
    for part in rpm.spec_fragment(stage.command).split("%transfiletrigger")[1:]:
        head, _, body = part.partition("\n")
        scripts[head.partition(" ")[0]] = stage.text(body.replace("%%", "%"))
    return stage.sh("/bin/sh", "-c", scripts[when], given=given, **variables)


RELEVANT = b"/usr/bin/qemu-system-x86_64\n/usr/lib64/qemu/block-curl.so\n/usr/lib64/libz.so.1.2\n"
REST = b"/usr/bin/qemu-img\n/usr/lib64/qemu\n/usr/lib/x.so.conf\n/usr/bin/so\n/usr/lib64/a\\n.py\n"


def test_rpm_calls_with_the_paths_that_may_matter(stage: Stage) -> None:
    assert run_rpm(stage, "un", REST + RELEVANT).code == 0
    assert stage.given == RELEVANT
    assert stage.calls == [f"hook rpm before {ME}"]


def test_rpm_starts_nothing_for_other_paths(stage: Stage) -> None:
    done = run_rpm(stage, "un", REST)
    assert (done.code, done.stderr, stage.calls) == (0, "", [])


@pytest.mark.parametrize("when", ["in", "postun"])
def test_rpm_calls_after_what_mattered(stage: Stage, when: str) -> None:
    assert run_rpm(stage, when, RELEVANT).code == 0
    assert stage.calls == []
    stage.marker.touch()
    assert run_rpm(stage, when, RELEVANT).code == 0
    assert stage.calls == ["hook rpm after"]


@pytest.mark.parametrize("when", ["un", "in", "postun"])
@pytest.mark.parametrize("driver", ["dnf", "zypper"])
def test_rpm_does_not_call_again_for_whom_has_called(stage: Stage, when: str, driver: str) -> None:
    """dnf has rpm in itself, zypper starts it."""
    above = os.getpid() if driver == "dnf" else os.getppid()
    (stage.run / "asked").write_text(note_of(above))
    stage.marker.touch()
    variables = {"ZYPP_IS_RUNNING": str(above)} if driver == "zypper" else {}
    assert run_rpm(stage, when, RELEVANT, **variables).code == 0
    assert stage.calls == []


@pytest.mark.parametrize(
    "note",
    ["", "\n", f"{ME} 1\n", f"{ME}\n", note_of(os.getpid()).strip() + "0\n", note_of(os.getppid())],
    ids=["empty", "blank", "another start", "no start", "longer", "another"],
)
def test_rpm_calls_if_the_note_is_of_somebody_else(stage: Stage, note: str) -> None:
    (stage.run / "asked").write_text(note)
    assert run_rpm(stage, "un", RELEVANT, ZYPP_IS_RUNNING="1; exit *").code == 0
    assert stage.calls == [f"hook rpm before {ME}"]


@BROKEN
def test_rpm_goes_on_without_holdover(stage: Stage, broken: str) -> None:
    break_holdover(stage, broken)
    done = run_rpm(stage, "un", RELEVANT)
    assert (done.code, COMPLAINT in done.stderr) == (0, True)


def test_rpm_says_that_a_veto_does_not_stop_it(stage: Stage) -> None:
    stage.ends_with(VETO)
    done = run_rpm(stage, "un", RELEVANT)
    assert (done.code, "rpm does not let itself be stopped" in done.stderr) == (0, True)
