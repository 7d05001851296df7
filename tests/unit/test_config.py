# SPDX-License-Identifier: Apache-2.0
"""What the operator can set: where a value comes from, and what becomes of nonsense."""

import os
import string
from argparse import Namespace
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdover.cli.arguments import parse_arguments
from holdover.cli.setup import make_holdover, make_programs, read_config
from holdover.config import SETTINGS, Config, Setting, load_config
from holdover.errors import UsageError
from holdover.kinds import parse_bytes, parse_path, parse_seconds, parse_switch, parse_words, show
from holdover.model import Delivery

KEYS = [setting.key for setting in SETTINGS]


class Etc:
    """The directory of configuration files."""

    def __init__(self, root: Path) -> None:
        self.main, self.drop_ins = root / "holdover.toml", root / "holdover.toml.d"
        self.drop_ins.mkdir()

    def load(self, *words: str, **environment: str) -> Config:
        return load_config(words, environment, self.main, self.drop_ins)


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Etc:
    """Below a directory that anybody may write to, as /tmp is: only the files themselves count."""
    monkeypatch.setattr(
        "holdover.config.distrust", lambda path: "" if _is_ours(path) else "not ours"
    )
    return Etc(tmp_path)


def _is_ours(path: Path) -> bool:
    return not path.exists() or not path.stat().st_mode & 0o022


# -- the table -------------------------------------------------------------------------------------


def test_every_setting_has_a_field_a_variable_and_help() -> None:
    assert len(set(KEYS)) == len(KEYS) > 10
    assert len({setting.variable for setting in SETTINGS}) == len(KEYS)
    names = {field.name for field in fields(Config)}
    for setting in SETTINGS:
        assert setting.attribute in names
        assert setting.help
        assert setting.help[0].islower() or setting.help[0] == '"'


@pytest.mark.parametrize("setting", SETTINGS, ids=KEYS)
def test_default_can_be_written_down_and_read_again(setting: Setting, etc: Etc) -> None:
    default = getattr(Config(), setting.attribute)
    table, _, name = setting.key.rpartition(".")
    etc.main.write_text(
        f"[{table}]\n{name} = {show(default)}\n" if table else f"{name} = {show(default)}\n"
    )
    config = etc.load()
    assert config.problems == ()
    assert getattr(config, setting.attribute) == default
    assert config.origin(setting.key) == str(etc.main)


def test_nothing_set_is_what_is_built_in(etc: Etc) -> None:
    config = etc.load()
    assert config == Config()
    assert {config.origin(key) for key in KEYS} == {"built in"}


def test_the_later_source_wins_and_is_named(etc: Etc) -> None:
    etc.main.write_text(
        "[hook]\nbudget = 1\nveto = true\n[lock]\ntimeout = 1\n[look]\nbudget = 1\n"
    )
    (etc.drop_ins / "20.toml").write_text("[lock]\ntimeout = 3\n")
    (etc.drop_ins / "10.toml").write_text("[lock]\ntimeout = 2\n[hook]\nbudget = 2\n")
    (etc.drop_ins / "30.toml.dpkg-new").write_text("[lock]\ntimeout = 9\n")
    config = etc.load("look.budget=5 min", HOLDOVER_LOOK_BUDGET="4", HOLDOVER_LOCK_TIMEOUT="4 s")
    assert (config.hook_veto, config.origin("hook.veto")) == (True, str(etc.main))
    assert (config.hook_budget, config.origin("hook.budget")) == (2, str(etc.drop_ins / "10.toml"))
    assert (config.lock_timeout, config.origin("lock.timeout")) == (4, "HOLDOVER_LOCK_TIMEOUT")
    assert (config.look_budget, config.origin("look.budget")) == (300, "command line")


def test_a_drop_in_beats_the_main_file_and_later_names_beat_earlier_ones(etc: Etc) -> None:
    etc.main.write_text("deliveries = ['mount', 'environment']\n")
    assert etc.load().deliveries == ("mount", "environment")
    (etc.drop_ins / "a.toml").write_text("deliveries = ['environment']\n")
    (etc.drop_ins / "b.toml").write_text("deliveries = ['mount']\n")
    assert etc.load().deliveries == ("mount",)


# -- nonsense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[hook]\nbudgit = 5\n", "no setting 'hook.budgit'"),
        ("hook = 5\n", "no setting 'hook'"),
        ("[hook]\nbudget = 'soon'\n", "a time"),
        ("[hook]\nbudget = -1\n", "a time"),
        ("[hook]\nbudget = inf\n", "a time"),
        ("[hook]\nbudget = true\n", "a time"),
        ("[hook]\nbudget = 0\n", "at least 0.01 s"),
        ("[hook]\nveto = 5\n", "true or false"),
        ("[store]\nobjects = 'here'\n", "an absolute path"),
        ("[store]\nobjects = '/usr/../tmp'\n", "an absolute path"),
        ("[store]\nbudget = '2 GB'\n", "a size"),
        (
            "deliveries = ['carrier pigeon']\n",
            "'carrier pigeon' is none of run, environment, variable, mount, fallback-dir, preload",
        ),
        ("deliveries = 5\n", "a list of words"),
        ("deliveries = [5]\n", "a list of words"),
    ],
)
def test_a_value_that_makes_no_sense_is_ignored_alone_and_told(
    etc: Etc, text: str, problem: str
) -> None:
    etc.main.write_text("[lock]\ntimeout = 3\n")
    (etc.drop_ins / "a.toml").write_text(text)
    config = etc.load()
    (told,) = config.problems
    assert problem in told
    assert str(etc.drop_ins / "a.toml") in told
    assert config.lock_timeout == 3
    assert Config().hook_budget == config.hook_budget


@pytest.mark.parametrize(
    "content", [b"[hook\n", b"\xff\xfe", b"a = " + b"[" * 9999, b"\0", b"a=1\na=2\n"]
)
def test_a_file_that_cannot_be_parsed_is_ignored_whole_and_told(etc: Etc, content: bytes) -> None:
    etc.main.write_bytes(content)
    (etc.drop_ins / "a.toml").write_text("[hook]\nbudget = 7\n")
    config = etc.load()
    (told,) = config.problems
    assert told.startswith(f"{etc.main} is ignored: ")
    assert config.hook_budget == 7


def test_a_file_that_others_can_write_is_ignored_and_told(etc: Etc) -> None:
    etc.main.write_text("[hook]\nbudget = 7\n")
    etc.main.chmod(0o666)
    config = etc.load()
    assert config.hook_budget == Config().hook_budget
    assert config.problems == (f"{etc.main} is ignored: not ours",)


def test_a_file_below_a_directory_of_a_user_is_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "holdover.toml").write_text("[hook]\nbudget = 7\n")
    (tmp_path / "holdover.toml").chmod(0o666)
    config = load_config((), {}, tmp_path / "holdover.toml", tmp_path / "none")
    assert "others can write to it" in config.problems[0]
    assert config.hook_budget == Config().hook_budget


def test_a_file_that_is_a_directory_is_told(etc: Etc) -> None:
    etc.main.mkdir()
    assert "is ignored: it " in etc.load().problems[0]


def test_what_cannot_be_read_in_a_moment_is_not_waited_for(etc: Etc) -> None:
    """A transaction waits for it, and no budget is known yet."""
    os.mkfifo(etc.main)
    (etc.drop_ins / "a.toml").touch()
    os.truncate(etc.drop_ins / "a.toml", 1 << 40)
    (etc.drop_ins / "b.toml").write_text("[hook]\nbudget = 7\n")
    config = etc.load()
    assert config.hook_budget == 7
    assert [problem.partition(" is ignored: ")[2] for problem in config.problems] == [
        "it is no regular file",
        "it has more than 64 KiB",
    ]


@given(st.binary(max_size=200))
def test_no_file_is_ever_an_error(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("holdover.config.distrust", lambda _: "")
        file = Path(f"/proc/self/fd/{os.memfd_create('config')}")
        try:
            file.write_bytes(content)
            config = load_config((), {}, file, Path("/nonexistent"))
        finally:
            os.close(int(file.name))
    assert config.problems or config == Config() or config.origins


@given(st.sampled_from(KEYS), st.text(max_size=40))
def test_no_variable_is_ever_an_error(key: str, value: str) -> None:
    variable = next(setting.variable for setting in SETTINGS if setting.key == key)
    config = load_config((), {variable: value}, Path("/nonexistent"), Path("/nonexistent"))
    assert len(config.problems) + len(config.origins) == 1


# -- kinds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(5, 5), (0.5, 0.5), ("30", 30), ("30 s", 30), ("5min", 300), ("2 h", 7200), ("90 d", 7776000)],
)
def test_times(value: object, seconds: float) -> None:
    assert parse_seconds(value) == seconds


@example(93750000.0)  # more than a million minutes
@given(st.floats(0, 3e9, allow_nan=False))
def test_a_time_is_shown_so_that_it_can_be_read_again(seconds: float) -> None:
    shown = show(seconds).strip('"')
    assert parse_seconds(shown) == pytest.approx(seconds, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("value", "count"),
    [(0, 0), ("512", 512), ("1.5 KiB", 1536), ("2 GiB", 2 << 30), ("1TiB", 1 << 40)],
)
def test_sizes(value: object, count: int) -> None:
    assert parse_bytes(value) == count


@pytest.mark.parametrize(
    ("value", "words"), [("a,b", ("a", "b")), ("a b", ("a", "b")), ("", ()), ([], ())]
)
def test_words(value: object, words: tuple[str, ...]) -> None:
    assert parse_words(value) == words


def test_switches_and_paths() -> None:
    assert [parse_switch(value) for value in (True, "yes", "1", "False", "no")] == [True] * 3 + [
        False
    ] * 2
    assert parse_path("/a/b") == Path("/a/b")


@given(
    st.sampled_from([parse_seconds, parse_bytes, parse_switch, parse_path, parse_words]),
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(),
        st.text(string.digits + ".eE sminhdKMGTiB"), st.lists(st.text()), st.dictionaries(
            st.text(), st.text()),
    ),
)  # fmt: skip
def test_no_value_is_anything_but_a_value_error(parse: object, value: object) -> None:
    assert callable(parse)
    try:
        found = show(parse(value))
    except ValueError as error:
        found = str(error)
    assert found


# -- what comes of it ------------------------------------------------------------------------------


def options(*words: str) -> Namespace:
    return parse_arguments(words)


def test_holdover_keeps_to_the_configuration() -> None:
    words = ["store.objects=/a", "store.state=/b", "store.budget=5", "deliveries=mount"]
    config = load_config([*words, "look.budget=6", "pins.lifetime=7", "lock.timeout=8"], {})
    holdover = make_holdover(config)
    assert (holdover.store.objects, holdover.store.state) == (Path("/a"), Path("/b"))
    assert (holdover.store.budget, holdover.deliveries) == (5, (Delivery.MOUNT,))
    assert (holdover.patience, holdover.pin_lifetime, holdover.lock_timeout) == (6, 7, 8)
    assert make_holdover(config, lock_timeout=1.0).lock_timeout == 1


def test_a_disabled_program_is_looked_at_and_no_hook_cares_for_it() -> None:
    config = load_config(["programs.disabled=qemu,postgresql"], {})
    assert [program.name for program in make_holdover(config).programs] == ["postgresql", "qemu"]
    assert make_holdover(config).disabled == ("qemu", "postgresql")
    assert make_programs(config) == ()


def test_a_flag_is_its_setting() -> None:
    assert read_config(options("protect", "--delivery", "mount")).deliveries == ("mount",)
    assert read_config(options("protect", "-o", "deliveries=mount")).deliveries == ("mount",)
    default = ("run", "environment", "variable", "mount", "fallback-dir")
    assert read_config(options("protect")).deliveries == default


@pytest.mark.parametrize("word", ["hook.budgit=5", "hook.budget=soon", "hook.budget", "=5", ""])
def test_what_is_wrong_on_the_command_line_is_a_usage_error(word: str) -> None:
    with pytest.raises(UsageError, match="command line"):
        read_config(options("status", "-o", word))


def test_what_is_wrong_elsewhere_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDOVER_HOOK_BUDGET", "soon\x1b[31m")
    assert read_config(options("status")).hook_budget == Config().hook_budget
    told = capsys.readouterr().err
    assert told.startswith("holdover: HOLDOVER_HOOK_BUDGET: hook.budget is ignored: a time")


def test_a_program_that_is_not_known_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    read_config(options("status", "-o", "programs.disabled=qemu,qmeu"))
    told = capsys.readouterr().err
    assert told == "holdover: command line: programs.disabled names 'qmeu', which is not known\n"


def test_line_without_end_is_not_read(etc: Etc) -> None:
    """A name of many thousand parts would be compared with itself again and again."""
    etc.main.write_text("a." * 3000 + "a = 1\n")
    config = etc.load()
    (problem,) = config.problems
    assert problem.endswith("it has a line of more than 4 KiB")


def test_who_has_read_fifty_problems_has_read_enough(etc: Etc) -> None:
    etc.main.write_text("".join(f"a{number} = 1\n" for number in range(4000)))
    assert len(etc.load().problems) == 50
