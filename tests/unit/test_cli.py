# SPDX-License-Identifier: Apache-2.0
"""The command line: what it takes, what it answers, and with which exit code."""

import errno
import importlib
import json
import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.factories import (
    OTHER_STAMP,
    VIEWS,
    build,
    held_file,
    holding,
    lease,
    modules,
    process,
    scan,
    snapshot,
    store_below,
)
from unit.schemas import check

from holdover import cli
from holdover.answers import Explanation
from holdover.cli.arguments import parse_arguments
from holdover.cli.explain import _module_json
from holdover.cli.main import main
from holdover.cli.protect import _plan_json
from holdover.cli.snapshots import _listed, _listed_json
from holdover.cli.status import _status_code, _status_json
from holdover.flow import Holdover
from holdover.held import Holding, Purpose
from holdover.model import Delivery, Item, Scan, State, Unreadable
from holdover.procfs import ProcFs
from holdover.steps.plan import Aim, plan

BOTH = (Delivery.ENVIRONMENT, Delivery.MOUNT)
HELD = holding(snapshot("qemu-held", [held_file("block-rbd")]))
DECOYS = holding(snapshot("qemu-decoys", purpose=Purpose.DEFUSE), inode=902)


def parsed(*words: str) -> Namespace:
    return parse_arguments(words)


# -- what it takes -----------------------------------------------------------------------------

COMMANDS = [
    "status",
    "status 1 2",
    "status -v",
    "protect",
    "protect 1 --dry-run",
    "protect 1 --rehearse",
    "rehearse 1",
    "protect --delivery mount",
    "protect --delivery environment",
    "protect --delivery preload",
    "release 1",
    "release 1 --force",
    "defuse 1",
    "defuse 1 2 --dry-run",
    "rescue 1 2 -v",
    "rescue --all",
    "rescue 1 --from somewhere --no-rehearsal",
    "explain 1",
    "explain 1 block-rbd block-ssh -v",
    "preview",
    "preview install libssh-4",
    "list",
    "show qemu-a",
    "pin qemu-a",
    "unpin qemu-a",
    "gc",
    "gc --dry-run",
    "doctor",
    "enable",
    "enable --refresh",
    "disable",
    "disable --release",
    "demo",
]
STARTS = "run -o deliveries=run -- qemu-system-x86_64"
"""The command that becomes another: it has nothing to say in JSON."""
DESIGNED = {
    *("status", "protect", "explain", "rehearse", "defuse", "rescue", "preview", "list", "show"),
    *("pin", "unpin", "release", "gc", "run", "hook", "doctor", "demo"),
}


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_can_answer_in_json(line: str) -> None:
    assert parsed(*line.split()).json is False
    assert parsed(*line.split(), "--json").json is True


@pytest.mark.parametrize(
    ("line", "name", "expected"),
    [
        ("explain 1 -v block-rbd block-ssh", "name", ["block-rbd", "block-ssh"]),
        ("explain 1 block-rbd -v block-ssh", "name", ["block-rbd", "block-ssh"]),
        ("preview install -v libssh-4", "apt", ["install", "libssh-4"]),
        ("status 1 -v 2", "pid", [1, 2]),
        ("protect 1 --dry-run 2", "pid", [1, 2]),
        ("defuse 1 --dry-run 2", "pid", [1, 2]),
    ],
)
def test_options_may_stand_anywhere(line: str, name: str, expected: list[object]) -> None:
    assert getattr(parsed(*line.split()), name) == expected


@pytest.mark.parametrize("line", [*COMMANDS, STARTS])
def test_every_command_is_served(line: str) -> None:
    options = parsed(*line.split())
    module = importlib.import_module(f"holdover.cli.{options.module}")
    assert callable(getattr(module, f"run_{options.command}"))


def test_no_command_is_left_out_of_these_tests() -> None:
    tested = {line.split()[0] for line in COMMANDS}
    files = Path(str(cli.__file__)).parent.glob("*.py")
    defined = re.findall(r"^def run_(\w+)", "".join(f.read_text() for f in files), re.MULTILINE)
    served = set(defined) - {"hook", "words"}
    assert served == tested | {parsed(*STARTS.split()).command}
    assert tested - {"enable", "disable"} <= DESIGNED


@pytest.mark.parametrize(
    "line",
    [
        "",
        "no-such-command",
        "status -1",
        "status 0",
        "status x",
        "status 1.5",
        "status ²",
        "status --no-such-option",
        "status 1 -v x",
        "rehearse 1 --json 2",
        "explain 1 -v block-rbd -x",
        "status --dry-run",
        "protect --delivery",
        "protect --delivery carrier-pigeon",
        "run",
        "run --",
        "run -x",
        "run -o",
        "protect --delivery ''",
        "release",
        "protect --rehearse --dry-run",
        "rehearse",
        "rehearse 1 2",
        "release 1 2",
        "release x",
        "defuse",
        "defuse x",
        "show",
        "show a b",
        "list 1",
        "gc 1",
        "doctor 1",
        "enable x",
        "demo --cache",
        f"status {'9' * 5000}",
    ],
)
def test_line_that_makes_no_sense_is_refused_with_2(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: holdover" in shown.err


@pytest.mark.parametrize("line", ["--help", "--version", "status --help", "protect --help"])
def test_question_about_the_command_itself_is_answered(
    capsys: pytest.CaptureFixture[str], line: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 0
    assert "holdover" in capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("apt",), ("apt", "before", "x"), ("yum", "--json")])
def test_hook_is_never_an_error(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert main(["hook", *words]) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no such hook" in shown.err
    assert "the transaction goes on" in shown.err


# -- status ------------------------------------------------------------------------------------


@pytest.fixture
def holdover(tmp_path: Path) -> Holdover:
    """One that looks at nothing of this machine."""
    boot_id = tmp_path / "proc" / "sys/kernel/random/boot_id"
    boot_id.parent.mkdir(parents=True)
    boot_id.write_text("b007\n")
    return Holdover(proc=ProcFs(tmp_path / "proc"), store=store_below(tmp_path))


def status(holdover: Holdover, seen: Scan) -> Any:
    """The answer as it is printed, for what was seen."""
    items = plan(seen, (HELD, DECOYS), BOTH, VIEWS, Aim.LOOK).items
    answer = json.loads(json.dumps(_status_json(holdover, seen, items)))
    check(answer)
    return answer


def test_status_of_nothing_has_all_its_keys(holdover: Holdover) -> None:
    assert status(holdover, scan()) == {
        "schema": "holdover.status/1",
        "host": {"boot_id": "b007"},
        "processes": [],
        "foreign": 0,
        "unreadable": [],
    }


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "current"),
        ({"build": build(stamp=None)}, "current"),
        ({"chosen": (HELD.view,)}, "protected"),
        ({"covered_by": HELD.view_file}, "protected"),
        ({"chosen": (DECOYS.view,)}, "defused"),
        ({"build": build("bb", OTHER_STAMP)}, "at-risk"),
        ({"poisoned_by": "block-curl", "chosen": (HELD.view,)}, "poisoned"),
        ({"unheard": "its stderr is /dev/null"}, "current"),
        ({"unsupported": "it has changed its root directory"}, "unsupported"),
        ({"name": '\udcff"\x1b'}, "current"),
        ({"loaded": frozenset({"block-gone"})}, "current"),
    ],
    ids=str,
)
def test_status_of_a_process_in_any_state_has_all_its_keys(
    holdover: Holdover, changes: dict[str, Any], state: str
) -> None:
    seen = scan(process(**changes), modules=modules("block-rbd", "block-curl"))
    (entry,) = status(holdover, seen)["processes"]
    assert (entry["pid"], entry["start_time"], entry["state"]) == (4711, 123456, state)


def test_status_tells_what_was_not_seen(holdover: Holdover) -> None:
    seen = replace(scan(unreadable=(Unreadable(7, "no rights"),)), foreign=3)
    answer = status(holdover, seen)
    assert answer["foreign"] == 3
    assert [(entry["pid"], entry["reason"]) for entry in answer["unreadable"]] == [(7, "no rights")]


def test_status_tells_which_modules_would_load(holdover: Holdover) -> None:
    on_disk = (*modules("block-rbd", "block-curl"), *modules("block-ssh", stamp=OTHER_STAMP))
    seen = scan(process(loaded=frozenset({"block-curl"})), modules=on_disk)
    (entry,) = status(holdover, seen)["processes"]
    assert {module["name"]: module["state"] for module in entry["modules"]} == {
        "block-curl": "loaded",
        "block-rbd": "loads",
        "block-ssh": "blocked",
    }


UNREAD = (Unreadable(7, "no rights"),)


@pytest.mark.parametrize(
    ("states", "unreadable", "code"),
    [
        ((), (), 0),
        ((State.CURRENT, State.PROTECTED, State.DEFUSED), (), 0),
        ((State.PROTECTED, State.AT_RISK), (), 1),
        ((State.POISONED,), (), 1),
        ((State.CURRENT,), UNREAD, 3),
        ((State.AT_RISK,), UNREAD, 1),
    ],
)
def test_exit_code_of_status_tells_whether_all_is_well(
    states: tuple[State, ...], unreadable: tuple[Unreadable, ...], code: int
) -> None:
    items = tuple(Item(process(), state, "because") for state in states)
    assert _status_code(scan(unreadable=unreadable), items) == code


# -- list --------------------------------------------------------------------------------------


def listed(*entries: dict[str, object]) -> Any:
    answer = json.loads(json.dumps({"schema": "holdover.list/1", "snapshots": entries}))
    check(answer)
    return answer


PINNED = frozenset({DECOYS.snapshot.id})


def test_list_has_all_its_keys() -> None:
    users = (lease(1, "qemu-held"), lease(2, "qemu-decoys"))
    answer = listed(
        _listed_json(_listed(HELD, 4096, users, frozenset())),
        _listed_json(_listed(DECOYS, 0, (), PINNED)),
    )
    first, second = answer["snapshots"]
    assert first["leases"] == [{"pid": 1, "start_time": 123456, "name": "guest1"}]
    assert (first["files"], first["bytes_held"], first["bytes_written"]) == (1, 4096, 0)
    assert second["leases"] == []
    assert [first["pinned"], second["pinned"]] == [False, True]
    (gone,) = first["replaced"]
    assert (gone["path"], gone["now"]) == ("block-rbd.so", "gone")


def test_only_copies_cost_bytes() -> None:
    files = [held_file("a", "link"), held_file("b", "reflink"), held_file("c", "copy")]
    assert snapshot(files=files).bytes_written == 5


# -- the schema itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"more": 1}, {"foreign": "0"}, {"foreign": True}, {"schema": "x"}, {"host": {}}]
)
def test_schema_notices_what_is_not_promised(holdover: Holdover, change: dict[str, Any]) -> None:
    answer = status(holdover, scan())
    with pytest.raises(AssertionError):
        check(answer | change)


@pytest.mark.parametrize(
    "change", [{"state": "fine"}, {"delivery": "mail"}, {"reason": ""}], ids=str
)
def test_schema_notices_words_that_do_not_exist(holdover: Holdover, change: dict[str, Any]) -> None:
    answer = status(holdover, scan(process(chosen=(HELD.view,))))
    answer["processes"][0].update(change)
    with pytest.raises(AssertionError):
        check(answer)


# -- protect --dry-run -----------------------------------------------------------------------------


def planned_json(seen: Scan, *held: Holding) -> Any:
    """Of the one process in it."""
    answer: Any = _plan_json(plan(seen, held, BOTH, VIEWS, Aim.PROTECT))
    check(json.loads(json.dumps(answer)))
    (decided,) = json.loads(json.dumps(answer))["processes"]
    return decided


def test_plan_in_json_is_what_was_decided_and_not_all_that_was_seen() -> None:
    seen = scan(process(), modules=modules("block-rbd", "block-ssh"))
    decided = planned_json(seen)
    assert (decided["deliver"], decided["snapshot"]) == ("environment", None)
    assert decided["capture"]["modules"] == ["block-rbd", "block-ssh"]
    assert decided["pid"] == process().id.pid
    assert len(json.dumps(decided)) < 1000


def test_plan_in_json_names_the_snapshot_that_is_there() -> None:
    seen = scan(process(), modules=modules("block-rbd"))
    decided = planned_json(seen, HELD)
    assert (decided["snapshot"], decided["capture"]) == ("qemu-held", None)


# -- explain ---------------------------------------------------------------------------------------


def test_what_is_opened_by_name_has_a_name_in_json() -> None:
    opened = (("libgssapi.so.2", "libcurl.so.4"), ("", "libceph-common.so.2"))
    shown = _module_json(Explanation("block-rbd", "loads", "", other=False, by_name=opened))
    assert shown["by_name"] == [
        {"library": "libgssapi.so.2", "opened_by": "libcurl.so.4"},
        {"library": None, "opened_by": "libceph-common.so.2"},
    ]


def test_disk_that_fails_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_options: Namespace) -> int:
        raise OSError(errno.EIO, "Input/output error", "/usr/lib/holdover/view")

    monkeypatch.setattr(importlib.import_module("holdover.cli.snapshots"), "run_list", fail)
    assert main(["list"]) == 1
    said = capsys.readouterr().err
    assert said == "holdover: Input/output error (/usr/lib/holdover/view)\n"
