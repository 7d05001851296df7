# SPDX-License-Identifier: Apache-2.0
"""The definition of QEMU, and definitions that make no sense."""

import ast
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdover.programs
from holdover.concern import hints, names_any
from holdover.errors import MalformedError
from holdover.programs import (
    Program,
    load_programs,
    our_programs,
    own_programs,
    parse_program,
)

QEMU = next(p for p in load_programs() if p.name == "qemu")
HINT = next(hint for hint in hints() if hint.name == "qemu")
DEFINITION = Path(holdover.programs.__file__).with_name("qemu.toml").read_text()


def changed(old: str, new: str) -> str:
    assert old in DEFINITION
    return DEFINITION.replace(old, new)


def named(*arguments: str) -> str:
    words = ["/usr/bin/qemu-system-x86_64", *arguments, "-nodefaults"]
    return QEMU.guest_name(b"".join(word.encode() + b"\0" for word in words))


# -- executables and modules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "executable",
    [
        "/usr/bin/qemu-system-x86_64",
        "/usr/bin/qemu-system-aarch64",
        "/usr/bin/qemu-system-x86_64-microvm",
        "/usr/libexec/qemu-kvm",
        "/usr/bin/kvm",
        "/opt/qemu/bin/qemu-storage-daemon",
        "/usr/bin/qemu-nbd",
        "qemu-system-x86_64",
    ],
)
def test_executables_of_qemu_are_told_by_their_file_name(executable: str) -> None:
    assert QEMU.runs(executable)


@pytest.mark.parametrize(
    "executable",
    [
        "/usr/bin/qemu-img",
        "/usr/bin/qemu-x86_64-static",
        "/usr/bin/qemu-system-",
        "/usr/bin/qemu-system-x86_64.sh",
        "/usr/bin/qemu-system-x86_64 (deleted)",
        "/usr/bin/qemu-system-x86_64\n",
        "/usr/bin/my-qemu-system-x86_64",
        "/usr/bin/qemu-system-x86_64/helper",
        "/usr/bin/kvmtool",
        "",
    ],
)
def test_other_executables_are_not(executable: str) -> None:
    assert not QEMU.runs(executable)


@pytest.mark.parametrize("name", ["block-rbd", "hw-display-virtio-gpu", "ui-spice-core"])
def test_modules_are_told_by_their_name(name: str) -> None:
    assert QEMU.is_module(name)


@pytest.mark.parametrize("name", ["", "block", "libc", "block-", "block-rbd.so", "xblock-rbd", "é"])
def test_other_files_are_no_modules(name: str) -> None:
    assert not QEMU.is_module(name)


@given(st.text(alphabet=st.characters()))
def test_any_file_name_can_be_asked_about(name: str) -> None:
    QEMU.is_module(name)
    QEMU.runs(name)


# -- guest names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("-name", "guest=web01,debug-threads=on"), "web01"),
        (("-name", "debug-threads=on,guest=web01"), "web01"),
        (("-name", "guest=web01"), "web01"),
        (("-name", "web01"), "web01"),
        (("-name", "web01,process=x"), "web01"),
        (("--name", "web01"), "web01"),
        (("--name", "guest=web01,process=x"), "web01"),
        (("-name", "web 01"), "web 01"),
        (("-name", "wéb"), "wéb"),
        (("-S", "-name", "guest=web01", "-uuid", "guest=no"), "web01"),
        (("-name", "process=x"), ""),
        (("-name", "debug-threads=on"), ""),
        (("-name", ""), ""),
        (("-name", "process=x", "-name", "web01"), "web01"),
        (("-names", "web01"), ""),
        (("-smbios", "type=1,guest=web01"), ""),
        ((), ""),
    ],
)
def test_the_guest_is_named_as_on_the_command_line(arguments: tuple[str, ...], name: str) -> None:
    assert named(*arguments) == name


@given(st.binary())
def test_any_command_line_has_a_name_or_none(line: bytes) -> None:
    assert "\0" not in QEMU.guest_name(line)


@given(st.binary())
def test_any_bytes_after_the_option_are_a_name_or_none(line: bytes) -> None:
    assert "\0" not in QEMU.guest_name(b"qemu\0-name\0" + line)


# -- definitions -----------------------------------------------------------------------------------


def test_the_definition_is_of_qemu() -> None:
    assert QEMU.name == "qemu"
    assert QEMU.environment == "QEMU_MODULE_DIR"
    assert "qemu-block-*" in QEMU.packages


@pytest.mark.parametrize(
    "name",
    [
        *("qemu-system-x86", "qemu-system-modules-spice", "qemu-block-extra", "qemu-utils"),
        *("qemu-system-x86-core", "qemu-common", "qemu-img", "qemu-device-usb-redirect"),
        *("qemu-char-baum", "qemu-audio-pipewire", "qemu-ui-opengl", "qemu-block-ssh"),
        *("qemu-kvm-core", "qemu-kvm-block-rbd", "qemu-kvm-device-display-virtio-vga"),
        *("qemu-x86", "qemu-tools", "qemu-hw-display-virtio-gpu-pci", "qemu-accel-tcg-x86"),
        *("qemu-chardev-spice", "qemu-hw-usb-host", "qemu-modules", "qemu"),
    ],
)
def test_packages_with_executables_or_modules_are_known_by_name(name: str) -> None:
    """Of Debian; Fedora; RHEL; openSUSE; Arch and Alpine."""
    assert names_any([name], QEMU.packages)


@pytest.mark.parametrize("name", ["qemu-guest-agent", "qemu-seabios", "qemu-docs", "qemu-user"])
def test_other_packages_are_not(name: str) -> None:
    assert not names_any([name], QEMU.packages)


@pytest.mark.parametrize(
    "directory",
    [
        "/usr/lib/x86_64-linux-gnu/qemu",
        "/usr/lib64/qemu",
        "/usr/lib64/qemu-kvm",
        "/usr/lib/qemu",
        "/usr/local/lib/qemu",
    ],
)
def test_module_directory_of_each_distribution_is_known(directory: str) -> None:
    """Of Debian; Fedora and openSUSE; RHEL; Arch and Alpine; one's own."""
    found = QEMU.directory.search(b"lib\0%s\0rest" % directory.encode())
    assert found is not None
    assert found[1].decode() == directory
    assert HINT.is_among(f"/usr/bin/env\n{directory}/block-curl.so\n")


def written(directory: Path, name: str, text: str = DEFINITION) -> None:
    """A definition of the operator's, which root made."""
    (directory / f"{name}.toml").write_text(text.replace('name = "qemu"', f'name = "{name}"'))


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the operator's definitions are; whoever runs the tests may be no root."""
    monkeypatch.setattr("holdover.programs.distrust", lambda _: "")
    monkeypatch.setattr("holdover.concern.OWN", str(tmp_path))
    return tmp_path


def test_definitions_of_the_operator_come_with_ours_by_name(own: Path) -> None:
    written(own, "b")
    written(own, "a")
    (own / "notes.txt").write_text("not a definition")
    assert [program.name for program in load_programs(own)] == ["a", "b", "postgresql", "qemu"]
    assert {hint.name for hint in hints()} == {"a", "b", "postgresql", "qemu"}
    assert {hint.name for hint in hints(but=["a", "qemu"])} == {"b", "postgresql"}


def test_a_definition_of_the_operator_takes_the_place_of_ours(own: Path) -> None:
    written(own, "mine", DEFINITION.replace("qemu-kvm|kvm|", "my-kvm|", 1))
    (own / "mine.toml").rename(own / "other.toml")
    text = (own / "other.toml").read_text().replace('name = "mine"', 'name = "qemu"')
    (own / "other.toml").write_text(text)
    (found,) = [program for program in load_programs(own) if program.name == "qemu"]
    assert found.runs("/usr/bin/my-kvm")
    assert any(hint.runs("/usr/bin/my-kvm") for hint in hints())
    assert not any(hint.runs("/usr/libexec/qemu-kvm") for hint in hints())


@pytest.mark.parametrize("text", ["", "schema = 5", "\0", 'name = "b"'])
def test_one_that_makes_no_sense_is_left_out_and_told(own: Path, text: str) -> None:
    written(own, "a")
    (own / "b.toml").write_text(text)
    found, problems = own_programs(own)
    assert [program.name for program in found] == ["a"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{own}/b.toml is left out: ")
    assert "b" not in {hint.name for hint in hints()}


def test_one_that_others_could_have_written_is_left_out(tmp_path: Path) -> None:
    written(tmp_path, "a")
    (tmp_path / "a.toml").chmod(0o666)
    found, problems = own_programs(tmp_path)
    assert not found
    assert "is left out: " in problems[0]


def test_without_a_directory_there_are_ours(tmp_path: Path) -> None:
    assert load_programs(tmp_path / "none") == our_programs()
    assert own_programs(tmp_path / "none") == ((), ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "schema = ",
        'schema = "holdover.program/2"',
        'schema = "holdover.program/1"',
        changed("[build]", "[other]"),
        changed("executable = '", "executable = '("),
        changed("stamp = '", "stamp = '*"),
        changed("packages = [", "packages = 3 # ["),
        changed("guest = '", "guest = 5 # '"),
        changed("[[rehearse]]", "# ").replace("[build]", "rehearse = 3\n[build]"),
        changed("complaint = '", "complaint = 'x' # '"),
        changed("[build]", "build = 3\n[other]"),
        changed("(?P<name>", "("),
        changed("goes_on = '", "goes_on = 5 # '"),
        changed("[fallback]\n", "[other]\n").replace("schema =", "fallback = 3\nschema =", 1),
    ],
)
def test_a_definition_that_makes_no_sense_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError, match="program definition"):
        parse_program(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('packages = ["qemu-system-*", ', 'packages = "qemu-system-*" # '),
        ('installed = ["', 'installed = "/usr/bin/*" # "'),
        ('name = "qemu"', "name = 5"),
        ('environment = "QEMU_MODULE_DIR"', "environment = 5"),
        ('deliveries = ["run", ', 'deliveries = ["pigeon", '),
        ('packages = ["qemu-system-*", ', "packages = [5, "),
        ('since = "7.2"', "since = 7.2"),
        ('since = "7.2"', 'since = "seven"'),
        ('path = "/var', 'path = "{}/var'),
        ('qemu/{}.log"', 'qemu/{}{}.log"'),
        ('qemu/{}.log"', 'qemu/{name}.log"'),
        ("[[log]]", "[log]"),
    ],
)
def test_a_value_of_the_wrong_type_is_malformed(old: str, new: str) -> None:
    with pytest.raises(MalformedError):
        parse_program(changed(old, new))


@pytest.mark.parametrize("key", ["version", "directory", "modules", "message", "begins"])
def test_an_expression_without_its_group_is_malformed(key: str) -> None:
    lines = [f"{key} = 'x'" if li.startswith(f"{key} =") else li for li in DEFINITION.splitlines()]
    with pytest.raises(MalformedError):
        parse_program("\n".join(lines))


@given(st.text())
def test_any_text_is_a_definition_or_malformed(text: str) -> None:
    try:
        assert isinstance(parse_program(text), Program)
    except MalformedError:
        return


@pytest.mark.parametrize(
    ("files", "is_there"),
    [
        ("/.\n/usr/bin\n/usr/bin/qemu-system-x86_64\n", True),
        ("/usr/bin/kvm", True),
        ("/usr/bin/kvm-ok\n/usr/share/doc/kvm/copyright\n", False),
        ("/usr/share/qemu-system-x86_64.txt\n", False),
        ("", False),
    ],
)
def test_a_list_of_files_names_an_executable_or_not(files: str, is_there: bool) -> None:
    assert HINT.is_among(files) is is_there


# -- what it says ------------------------------------------------------------------------------


def test_a_definition_needs_no_poison_and_no_log() -> None:
    start, end = DEFINITION.index("\n[poison]"), DEFINITION.index("\n[build]")
    plain = parse_program(DEFINITION[:start] + DEFINITION[end:])
    assert (plain.poison, plain.logs) == (None, ())


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--export", "type=nbd,id=vol1,node-name=disk"), "vol1"),
        (("--export", "id=vol1,type=vhost-user-blk"), "vol1"),
        (("--export=type=nbd,id=vol1",), "vol1"),
        (("--export", "type=nbd,node-name=disk"), ""),
        (("--socket=/run/n.sock", "--export-name=vol1", "/srv/disk.raw"), "vol1"),
        (("-x", "vol1", "/srv/disk.raw"), "vol1"),
        (("--export-name", "vol1"), "vol1"),
        (("-xen-domid", "4"), ""),
        (("/srv/disk.raw",), ""),
    ],
)
def test_an_export_gives_its_name_to_who_has_no_other(words: tuple[str, ...], name: str) -> None:
    assert named(*words) == name


def test_definition_without_a_fallback_has_none() -> None:
    head, _, rest = DEFINITION.partition("[fallback]\n")
    without = head + rest[rest.index("[[rehearse]]") :]
    assert parse_program(without).fallback is None


# -- rehearsals --------------------------------------------------------------------------------

SHARED = """
[[rehearse]]
arguments = {'one' = ["-a"], 't.*' = []}
input = "text"
[[rehearse]]
arguments = {'two' = ["-b", "-c"]}
"""


def with_rehearsals(text: str) -> str:
    return DEFINITION[: DEFINITION.index("# What only the start")] + text


def test_run_has_arguments_for_each_kind_of_executable() -> None:
    first, second = parse_program(with_rehearsals(SHARED)).rehearse
    assert (first.input, second.input) == ("text", "")
    assert [first.arguments_of(name) for name in ("one", "two", "three")] == [("-a",), (), ()]
    assert second.arguments_of("two") == ("-b", "-c")


@pytest.mark.parametrize("name", ["two.sh", "xtwo", "one", ""])
def test_run_is_not_for_other_executables(name: str) -> None:
    (_, run) = parse_program(with_rehearsals(SHARED)).rehearse
    assert run.arguments_of(name) is None


def test_definition_needs_no_rehearsal() -> None:
    assert parse_program(with_rehearsals("")).rehearse == ()


@pytest.mark.parametrize(
    "text",
    [
        "[rehearse]",
        "[[rehearse]]",
        "[[rehearse]]\narguments = 3",
        "[[rehearse]]\narguments = ['-a']",
        "[[rehearse]]\narguments = {'x' = '-a'}",
        "[[rehearse]]\narguments = {'x' = [3]}",
        "[[rehearse]]\narguments = {'(' = []}",
        "[[rehearse]]\narguments = {'' = []}",
        "[[rehearse]]\narguments = {'x' = []}\ninput = 3",
        "[[rehearse]]\narguments = {'x' = []}\ninput = ''",
        "[[rehearse]]\narguments = {'x' = []}\nstdin = 'x'",
    ],
)
def test_rehearsal_that_makes_no_sense_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError, match="program definition"):
        parse_program(with_rehearsals(text))


@pytest.mark.parametrize("executable", ["qemu-system-x86_64", "qemu-kvm", "kvm"])
def test_emulator_is_rehearsed_without_any_device(executable: str) -> None:
    runs = [words for run in QEMU.rehearse if (words := run.arguments_of(executable)) is not None]
    assert [words for words in runs if words[-1] != "help"] == [
        runs[-1]
    ], "only one run is a machine"
    assert {"-nodefaults", "-no-user-config"} <= set(runs[-1])
    assert runs[-1][runs[-1].index("-machine") + 1] == "none"


@pytest.mark.parametrize("executable", ["qemu-storage-daemon", "qemu-nbd"])
def test_every_executable_of_qemu_can_be_rehearsed(executable: str) -> None:
    assert any(run.arguments_of(executable) is not None for run in QEMU.rehearse)


def test_what_is_sent_to_a_monitor_is_json_and_ends_it() -> None:
    for run in QEMU.rehearse:
        commands = [json.loads(line)["execute"] for line in run.input.splitlines()]
        assert commands[-1:] in ([], ["quit"])


@pytest.mark.parametrize(
    "line",
    [
        "failed to open module: why",
        "Failed to open module: why",
        "failed to initialize module: why",
    ],
)
def test_complaint_of_every_qemu_is_understood(line: str) -> None:
    found = QEMU.complaint.search(f'{{"error": {{"desc": "{line}"}}}}')
    assert found is not None
    assert found[1] == "why"


# -- nothing of a program is anywhere else ---------------------------------------------------------

SOURCES = Path(holdover.programs.__file__).parents[1]
NAMED = re.compile("qemu|postgres|pkglib", re.IGNORECASE)
NAME_PROGRAMS = {
    "cli/confinement.py": "libvirt's AppArmor profile",
    "cli/doctor.py": "tries fallback-dir in /run/qemu",
    "cli/services.py": "libvirt's hook",
    "config.py": "an example",
    "demo": "is about QEMU",
    "hints.py": "made of the definitions",
    "qmp.py": "the library that speaks QMP",
    "steps/deliver/preload.py": "libvirt's way to a monitor",
}


def named_in(text: str) -> list[str]:
    """Names of programs in the code, without what is said about it."""
    tree = ast.parse(text)
    said = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
    texts = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in said)
    names = (n.id for n in ast.walk(tree) if isinstance(n, ast.Name))
    return [word for word in (*(str(n.value) for n in texts), *names) if NAMED.search(word)]


def test_steps_know_definitions_only() -> None:
    found = {
        path.relative_to(SOURCES) for path in SOURCES.rglob("*.py") if named_in(path.read_text())
    }
    known = {place for path in found for place in map(str, (path, path.parent))}
    assert set(NAME_PROGRAMS) <= known
    assert not [p for p in found if not NAME_PROGRAMS.keys() & {str(p), str(p.parent)}]


@pytest.mark.parametrize("text", ['x = "/usr/lib/postgresql"', "QEMU = 5", 'f(b"qemu")'])
def test_a_name_in_the_code_would_be_seen(text: str) -> None:
    assert named_in(text)
    assert not named_in(f'"""About {text!r}."""')
