# SPDX-License-Identifier: Apache-2.0
"""`holdover run`: what is started, with which environment, whatever goes wrong."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from unit.elf_images import PF_R, Image, build_id_note

from holdover.cli import running
from holdover.cli.main import main
from holdover.places import place_name

STAMP = "qemu_stamp_" + "0123456789abcdef" * 2 + "01234567"
VARIABLE = b"QEMU_MODULE_DIR"


class Started(BaseException):
    """Instead of the program."""

    def __init__(self, path: bytes, command: list[bytes], environment: dict[bytes, bytes]) -> None:
        self.path, self.command, self.environment = path, command, environment


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that is not there yet; nothing is executed."""

    def execve(path: bytes, command: list[bytes], environment: dict[bytes, bytes]) -> None:
        raise Started(path, command, environment)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(running, "_given_environment", lambda: {b"PATH": os.fsencode(tmp_path)})
    monkeypatch.setenv("HOLDOVER_STORE_OBJECTS", str(tmp_path / "store"))
    monkeypatch.setattr("holdover.trust.distrust_file", lambda _: "")
    return tmp_path / "store"


def program(directory: Path, name: str = "qemu-system-x86_64", stamp: str = STAMP) -> Path:
    path = directory / name
    notes = [build_id_note(b"\xab\xcd")]
    path.write_bytes(bytes(Image(constants=f"\0{stamp}\0".encode(), flags=PF_R, notes=notes)))
    path.chmod(0o755)
    return path


def started(*words: str) -> Started:
    with pytest.raises(Started) as caught:
        main(["run", *words])
    return caught.value


def test_program_is_pointed_at_the_directory_of_its_build(store: Path, tmp_path: Path) -> None:
    path = program(tmp_path)
    for words in (("--", path.name, "-x", "--"), (path.name, "-x", "--")):
        seen = started(*words)
        assert seen.path == os.fsencode(path)
        assert seen.command == [os.fsencode(path.name), b"-x", b"--"]
        assert seen.environment[VARIABLE] == os.fsencode(store / "run/qemu-abcd")
    assert not store.exists()


def test_nothing_is_said_when_all_is_well(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    started(str(program(tmp_path)))
    assert capfd.readouterr() == ("", "")


def test_what_was_found_through_library_path_has_a_directory_of_its_own(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_given_environment", lambda: {b"LD_LIBRARY_PATH": b"/o\xff"})
    name = place_name("qemu", "abcd", os.fsdecode(b"/o\xff"))
    assert name != place_name("qemu", "abcd") == "qemu-abcd"
    seen = started(str(program(tmp_path)))
    assert seen.environment[VARIABLE] == os.fsencode(store / "run" / name)


@pytest.mark.parametrize(
    ("prepare", "words", "reason"),
    [
        (lambda at: program(at, "vi"), ("vi",), "no program that holdover knows"),
        (lambda at: program(at, stamp="none"), ("qemu-system-x86_64",), "loads no modules"),
        (lambda at: (at / "kvm").write_text("#!/bin/sh\n"), ("kvm",), "it is a script"),
        (lambda at: (at / "kvm").write_text(""), ("kvm",), "kvm: started as it is: "),
        (program, ("-o", "deliveries=mount", "qemu-system-x86_64"), "the configuration asks"),
        (program, ("-o", "programs.disabled=qemu", "qemu-system-x86_64"), "the configuration asks"),
    ],
)
def test_program_that_is_not_pointed_is_started_as_it_is(  # type: ignore[no-untyped-def]
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], prepare, words, reason: str
) -> None:
    prepare(tmp_path)
    assert VARIABLE not in started(*words).environment
    said = capfd.readouterr().err
    assert reason in said
    assert (said.startswith("holdover: "), said.count("\n")) == (True, 1)


@pytest.mark.parametrize("setting", ["nonsense=1", "deliveries=pigeon"])
def test_setting_that_makes_no_sense_is_told_and_ignored(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], setting: str
) -> None:
    assert VARIABLE in started("-o", setting, str(program(tmp_path))).environment
    assert "holdover: command line: " in capfd.readouterr().err


def test_program_is_started_whatever_goes_wrong_with_us(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("holdover.programs.load_programs", lambda: 1 / 0)
    assert VARIABLE not in started(str(program(tmp_path))).environment
    assert "unexpected: ZeroDivisionError" in capfd.readouterr().err


def test_directory_that_was_chosen_before_counts(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for value, said in ((b"/opt", "is set already"), (os.fsencode(store / "run/qemu-abcd"), "")):
        monkeypatch.setattr(running, "_given_environment", lambda v=value: {VARIABLE: v})
        assert started(str(program(tmp_path))).environment[VARIABLE] == value
        assert said in capfd.readouterr().err


def test_store_that_others_can_write_to_is_not_used(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("holdover.trust.distrust", lambda _: "others can write to it")
    assert VARIABLE not in started(str(program(tmp_path))).environment
    assert f"{store / 'run'} is not used: " in capfd.readouterr().err


# -- real programs ---------------------------------------------------------------------------------


def run(*words: str, **more: object) -> "subprocess.CompletedProcess[str]":
    command: Sequence[str] = (sys.executable, "-m", "holdover", "run", *words)
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("sh", "-c", "exit 7"), 7),
        (("--", "sh", "-c", "exit 7"), 7),
        (("--", "sh", "-c", "kill -TERM $$"), -15),
        (("no-such-program",), 127),
        (("/no/such/program",), 127),
        (("/etc",), 126),
        (("--", "/etc/passwd"), 126),
        (("--", "--"), 127),
        (("--",), 2),
        ((), 2),
        (("--nonsense", "sh"), 2),
        (("--help",), 0),
    ],
)
def test_exit_code_is_that_of_the_program(words: tuple[str, ...], code: int) -> None:
    assert run(*words).returncode == code


def test_program_gets_what_it_would_have_got_without_us() -> None:
    """No locale is made up for it, signals and the mask of new files are as they were."""
    script = "umask; env -u _ | sort; grep Sig[BI] /proc/self/status; trap; echo $0 $@"
    words = ("sh", "-c", script, "zero", "a b", "\udcff")
    environment = {"PATH": os.environ["PATH"], "EMPTY": "", "LANG": "C"}
    plain = subprocess.run(
        words, capture_output=True, env=environment, umask=0o027, restore_signals=True, check=True
    )
    through = subprocess.run(
        (sys.executable, "-m", "holdover", "run", "--", *words),
        capture_output=True,
        env=environment,
        umask=0o027,
        check=True,
    )
    assert through.stdout == plain.stdout


def test_file_without_an_interpreter_is_given_to_the_shell(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('echo "$1"\n')
    script.chmod(0o755)
    assert run(str(script), "told").stdout == "told\n"


def test_descriptors_are_handed_on() -> None:
    reader, writer = os.pipe()
    run("sh", "-c", f"echo told >/dev/fd/{writer}", pass_fds=[writer])
    os.close(writer)
    with open(reader) as told:
        assert told.read() == "told\n"


def test_path_is_searched_as_execvp_does(tmp_path: Path) -> None:
    for name, content in (("first", None), ("second", "#!/bin/sh\necho it\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool").write_text(content or "no program")
        (tmp_path / name / "tool").chmod(0o755 if content else 0o644)
    path = f"{tmp_path}/none:{tmp_path}/first:{tmp_path}/second"
    assert run("tool", env={"PATH": path}).stdout == "it\n"
    assert run("tool", env={"PATH": f"{tmp_path}/first"}).returncode == 126
