# SPDX-License-Identifier: Apache-2.0
"""Preloading: which sockets, which commands, what is never sent, what becomes of it."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qemu.qmp import QMPClient
from unit.factories import (
    OTHER_STAMP,
    VIEWS,
    holding,
    modules,
    process,
    scan,
    snapshot,
    store_below,
)

from holdover.errors import HoldoverError, RefusedError, VanishedError
from holdover.flow import Holdover
from holdover.held import Purpose
from holdover.identity import ProcessId
from holdover.judging import no_preload
from holdover.model import Capture, Delivery, Item, LateLoad, Outcome, Plan, Process, Scan, State
from holdover.monitors import qmp_sockets
from holdover.preloading import preload_modules
from holdover.procfs import ProcFs
from holdover.programs import load_programs
from holdover.qmp import Monitor
from holdover.steps.deliver import preload
from holdover.steps.plan import Aim, plan

QEMU = next(p for p in load_programs() if p.name == "qemu")
NEVER = (Delivery.ENVIRONMENT, Delivery.MOUNT)
ALL = (Delivery.PRELOAD, *NEVER)
STUCK = process(no_environment="no room", no_mount="shared")
OWN = modules("block-curl", "block-rbd", "hw-usb-host", "ui-curses")

# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("-qmp unix:/run/a,server=on,wait=off", ("/run/a",)),
        ("--qmp unix:a,server,nowait", ("a",)),
        ("-qmp-pretty unix:path=/run/a,server=on", ("/run/a",)),
        ("-qmp unix:/run/a,,b,server=on", ("/run/a,b",)),
        ("-qmp unix:/run/a,server=on,abstract=on", ()),
        ("-qmp unix:/run/a,server=on,abstract=off", ("/run/a",)),
        ("-qmp tcp:localhost:4444,server=on -qmp stdio", ()),
        ("-monitor unix:/run/a,server=on", ()),
        ("-chardev socket,id=c,path=/run/a,server=on -mon chardev=c,mode=control", ("/run/a",)),
        ("-mon c,mode=control -chardev socket,path=/run/a,id=c", ("/run/a",)),
        ("-chardev socket,id=c,path=/run/a -mon chardev=c", ()),
        ("-chardev socket,id=c,path=/run/a -mon chardev=c,mode=readline", ()),
        ("-chardev socket,id=c,fd=30,server=on -mon chardev=c,id=m,mode=control", ()),
        ("-chardev file,id=c,path=/run/a -mon chardev=c,mode=control", ()),
        ("--chardev socket,id=c,addr.type=unix,addr.path=/run/a --monitor c", ("/run/a",)),
        ("--chardev socket,id=c,path=/run/a --monitor chardev=c", ("/run/a",)),
        ("-qmp unix:/a -qmp unix:/b -qmp unix:/a", ("/a", "/b")),
        ("-qmp", ()),
        ("", ()),
    ],
)
def test_sockets_are_those_on_which_qmp_is_spoken(line: str, paths: tuple[str, ...]) -> None:
    assert qmp_sockets(["qemu-system-x86_64", *line.split()]) == paths


@given(st.lists(st.sampled_from(["-qmp", "-mon", "-chardev", "unix:", ",,", "="]) | st.text()))
def test_no_command_line_is_an_error(words: list[str]) -> None:
    assert all(qmp_sockets(words))


# -- when it is possible ---------------------------------------------------------------------------


def decided(guest: Process, deliveries: tuple[Delivery, ...], aim: Aim = Aim.PROTECT) -> Item:
    (item,) = plan(scan(guest, modules=OWN), (), deliveries, VIEWS, aim).items
    return item


def test_it_is_the_last_resort_wherever_it_is_listed() -> None:
    item = decided(STUCK, ALL)
    assert (item.deliver, item.source) == (Delivery.PRELOAD, "")
    assert decided(process(), ALL).deliver is Delivery.ENVIRONMENT
    assert decided(STUCK, NEVER).problem == "environment: no room; mount: shared"


def test_nobody_is_asked_who_is_protected_or_of_whom_something_was_replaced() -> None:
    current = Item(STUCK, State.CURRENT, "")
    assert no_preload(current) == ""
    for guest in (
        replace(STUCK, replaced=True),
        replace(STUCK, look_alike=True),
        replace(STUCK, unforeseen="too many"),
        replace(STUCK, unheard="its stderr is /dev/null"),
    ):
        assert no_preload(replace(current, process=guest))
    for state in set(State) - {State.CURRENT}:
        assert no_preload(replace(current, state=state))


@pytest.mark.parametrize("stamp", [OTHER_STAMP, ""])
def test_one_module_of_another_build_is_enough_to_send_nothing(stamp: str) -> None:
    on_disk = OWN[1:] + modules("block-curl", stamp=stamp)
    seen = scan(STUCK, modules=on_disk)
    for aim in (Aim.PROTECT, Aim.CATCH_UP):
        (item,) = plan(seen, (), (Delivery.PRELOAD,), VIEWS, aim).items
        assert (item.state, item.deliver) == (State.AT_RISK, None)
        assert "only before anything of it is replaced" in item.problem


def test_what_would_be_refused_by_a_view_is_not_asked_for() -> None:
    held = holding(snapshot("qemu-held"))
    guest = replace(STUCK, chosen=(held.view,))
    (item,) = plan(scan(guest, modules=OWN), (held,), (Delivery.PRELOAD,), VIEWS, Aim.PROTECT).items
    assert item.deliver is None


# -- what is sent ----------------------------------------------------------------------------------


def guest_with(directory: Path, *names: str, loaded: tuple[str, ...] = ()) -> Process:
    own = tuple(LateLoad(name, directory / f"{name}.so") for name in names)
    return replace(STUCK, own=own, loaded=frozenset(loaded))


def test_only_what_is_there_and_would_load_and_is_not_loaded_is_asked_for() -> None:
    guest = guest_with(Path("/m"), "block-curl", "block-rbd", "hw-a", "ui-b", loaded=("block-rbd",))
    broken = LateLoad("block-ssh", Path("/m/x.so"), problem="no libssh")
    other = LateLoad("hw-s390x", Path("/m/y.so"), other=True)
    guest = replace(guest, own=(*guest.own, broken, other))
    asked = list(preload.missing(guest, QEMU.preload))
    assert [json.loads(t).get("arguments", {}).get("driver") for t in asked] == ["https", None]


def test_every_command_of_the_definition_fails_or_can_be_undone() -> None:
    for command in QEMU.preload:
        told = json.loads(command.text)
        if told["execute"] == "blockdev-add":
            name = told["arguments"]["node-name"]
            assert json.loads(command.undo)["arguments"] == {"node-name": name}
        else:
            assert told == {"execute": "qom-list-types"}


class Way:
    """Answers as it is told to, and remembers what it was asked."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer, self.asked = answer, list[str]()

    def ask(self, command: Any) -> str:
        self.asked.append(command["execute"])
        return self.answer(command["execute"])


@pytest.fixture
def way(monkeypatch: pytest.MonkeyPatch) -> Way:
    made = Way(lambda name: "it failed" if name == "blockdev-add" else "")

    @contextmanager
    def open_way(_: ProcFs, __: Process) -> Iterator[Way]:
        yield made

    monkeypatch.setattr(preload, "_way", open_way)
    monkeypatch.setattr(preload, "read_module_stamp", lambda file, _: file.read().decode())
    return made


@pytest.fixture
def guest(tmp_path: Path) -> Process:
    """This very process, with two modules that lie on disk."""
    names = ("block-curl", "hw-a")
    for name in names:
        (tmp_path / f"{name}.so").write_text(STUCK.build.stamp or "")
    proc = ProcFs()
    file = proc.file_of(os.getpid(), "exe")
    return replace(
        guest_with(tmp_path, *names), id=proc.identity(os.getpid()), executable_file=file
    )


def test_each_command_is_sent_once(guest: Process, way: Way) -> None:
    assert preload.deliver(ProcFs(), guest, QEMU) == []
    assert way.asked == ["blockdev-add", "qom-list-types"]


def test_nothing_is_opened_if_there_is_nothing_to_send(guest: Process, way: Way) -> None:
    everything = replace(guest, loaded=frozenset(late.name for late in guest.own))
    assert preload.deliver(ProcFs(), everything, QEMU) == []
    assert way.asked == []


def test_command_that_succeeds_by_surprise_is_undone_and_told(guest: Process, way: Way) -> None:
    way.answer = lambda _: ""
    (note,) = preload.deliver(ProcFs(), guest, QEMU)
    assert way.asked == ["blockdev-add", "blockdev-del", "qom-list-types"]
    assert note.startswith("it carried out what should have failed: ")
    assert note.endswith("; that was undone")
    way.answer = lambda name: "no" if name == "blockdev-del" else ""
    assert preload.deliver(ProcFs(), guest, QEMU)[0].endswith("; that stays: no")


def test_file_that_is_replaced_meanwhile_ends_it(guest: Process, way: Way, tmp_path: Path) -> None:
    def answer(name: str) -> str:
        (tmp_path / "hw-a.so").write_text(OTHER_STAMP)
        return "it failed"

    way.answer = answer
    with pytest.raises(RefusedError, match=r"hw-a\.so was replaced in this moment"):
        preload.deliver(ProcFs(), guest, QEMU)
    assert way.asked == ["blockdev-add"]


def test_successor_of_the_process_is_not_asked(guest: Process, way: Way) -> None:
    earlier = replace(guest, id=replace(guest.id, start_time=1))
    with pytest.raises(VanishedError):
        preload.deliver(ProcFs(), earlier, QEMU)
    assert way.asked == []


# -- what becomes of it ----------------------------------------------------------------------------


def outcome(guest: Process, after: Process, state: State = State.CURRENT) -> Any:
    looks = iter([Item(guest, state, ""), Item(after, State.CURRENT, "")])
    return preload_modules(ProcFs(), guest, QEMU, lambda _: next(looks))


def test_what_is_loaded_and_what_is_not_is_told(guest: Process, way: Way) -> None:
    more = replace(guest, own=(*guest.own, LateLoad("ui-z", Path("/z"))))
    made = outcome(more, replace(more, loaded=frozenset({"block-curl", "hw-a"})))
    assert (made.delivery, made.changed, made.failed) == (Delivery.PRELOAD, True, False)
    assert (made.snapshot, made.reason) == ("", "2 of 3 modules are loaded, not ui-z")


def test_module_that_was_asked_for_in_vain_is_a_failure(guest: Process, way: Way) -> None:
    made = outcome(guest, replace(guest, loaded=frozenset({"hw-a"})))
    assert (made.changed, made.failed) == (True, True)


def test_nothing_is_sent_if_something_was_replaced_since_the_plan(guest: Process, way: Way) -> None:
    with pytest.raises(RefusedError, match="nothing was sent: that is possible only before"):
        outcome(guest, guest, State.AT_RISK)
    assert way.asked == []


# -- QMP -------------------------------------------------------------------------------------------

GREETING = b'{"QMP": {"version": {"qemu": {"major": 7}, "package": ""}, "capabilities": []}}\n'


@contextmanager
def server(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[None]:
    """A QMP server in this process."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            talk(client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(5)
        listener.close()


def honest(client: socket.socket) -> None:
    """Takes capabilities, fails each blockdev-add, and tells events in between."""
    client.sendall(GREETING)
    while line := client.recv(4096):  # one command at a time, and no newline
        told = json.loads(line)
        if told["execute"] != "qmp_capabilities":
            client.sendall(b'{"event": "X", "timestamp": {"seconds": 1, "microseconds": 1}}\n' * 3)
        answer: dict[str, Any] = {"return": {}}
        if told["execute"] == "blockdev-add":
            error = {"class": "GenericError", "desc": "no such thing"}
            answer = {"error": error}
        answer |= {"id": told["id"]} if "id" in told else {}
        client.sendall(json.dumps(answer).encode() + b"\n")


def test_answers_are_told_apart(tmp_path: Path) -> None:
    with server(tmp_path / "s", honest):
        monitor = Monitor(tmp_path / "s", os.getpid(), 10)
        monitor.open()
        assert monitor.ask({"execute": "blockdev-add", "arguments": {}}) == "no such thing"
        assert monitor.ask({"execute": "qom-list-types"}) == ""
        monitor.close()


def _silent(client: socket.socket) -> None:
    client.recv(1)


def _greets_and_hangs(client: socket.socket) -> None:
    client.sendall(GREETING)
    while client.recv(100):
        pass


def _never_ends(client: socket.socket) -> None:
    with suppress(OSError):  # it hangs up
        while True:
            client.sendall(b"x" * 65536)


@pytest.mark.parametrize(
    ("talk", "told"),
    [
        (_silent, "does not answer within 1 s"),
        (_greets_and_hangs, "does not answer within 1 s"),
        (lambda client: None, "makes no sense"),
        (lambda client: client.sendall(b"\xff\xfe{\n"), "makes no sense"),
        (lambda client: client.sendall(b"[" * 100000 + b"\n"), "makes no sense"),
        (_never_ends, "makes no sense"),
    ],
    ids=["silent", "greets", "hangs up", "garbage", "deep", "endless"],
)
def test_monitor_that_makes_no_sense_is_refused_in_time(
    tmp_path: Path, talk: Callable[[socket.socket], None], told: str
) -> None:
    with server(tmp_path / "s", talk):
        monitor = Monitor(tmp_path / "s", os.getpid(), 1)
        with pytest.raises(RefusedError, match=told):
            monitor.open()


def test_monitor_of_another_process_is_refused(tmp_path: Path) -> None:
    received = list[bytes]()
    monitor = Monitor(tmp_path / "s", os.getppid(), 10)
    told = f"is served by process {os.getpid()}, not"
    with (
        server(tmp_path / "s", lambda client: received.append(client.recv(100))),
        pytest.raises(RefusedError, match=told),
    ):
        monitor.open()
    assert received == [b""]


def test_monitor_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "nothing", tmp_path / "no/where", tmp_path / "file"):
        with pytest.raises(RefusedError, match="cannot be reached"):
            Monitor(path, os.getpid(), 1).open()


def test_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "qemu.qmp", None)
    with pytest.raises(HoldoverError) as caught:
        Monitor(tmp_path / "s", os.getpid(), 1)
    assert str(caught.value) == "the Python package qemu.qmp is not installed; pip install qemu.qmp"


# -- libvirt ---------------------------------------------------------------------------------------


@pytest.fixture
def virsh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """libvirt runs guest4711; virsh answers with what is in the file, and notes its arguments."""
    (tmp_path / "guest4711.pid").write_text("4711\n")
    (tmp_path / "77.pid").write_text("4711\n")
    monkeypatch.setattr(preload, "_DOMAINS", tmp_path)
    answer = tmp_path / "answer"
    script = tmp_path / "virsh"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {answer}\n')
    script.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    monkeypatch.setattr("holdover.run.ENVIRONMENT", environment)
    return answer


def test_guest_of_libvirt_is_asked_through_virsh(virsh: Path) -> None:
    virsh.write_text('{"error": {"desc": "no such thing"}}')
    with preload._way(ProcFs(), process()) as way:
        assert way.ask({"execute": "qom-list-types"}) == "no such thing"
        virsh.write_text('{"return": []}')
        assert way.ask({"execute": "qom-list-types"}) == ""
        for nonsense in ("", "[]", "{", '{"error": 1}'):
            virsh.write_text(nonsense)
            with pytest.raises(RefusedError, match="makes no sense"):
                way.ask({"execute": "qom-list-types"})
    asked = (virsh.parent / "asked").read_text()
    assert "qemu-monitor-command --domain guest4711 --cmd" in asked


def test_name_that_virsh_would_take_for_a_number_is_refused(virsh: Path) -> None:
    way = preload._way(ProcFs(), process(name="77"))
    with pytest.raises(RefusedError, match="would take the name 77"), way:
        pytest.fail("it was asked")


@pytest.mark.parametrize("name", ["", "../guest4711", "other", "a\0b"])
def test_name_that_is_not_libvirts_is_no_way_to_libvirt(virsh: Path, name: str) -> None:
    assert not preload._is_libvirts(process(name=name))
    assert not preload._is_libvirts(process(pid=5, name="guest4711"))


# -- when it is its turn ---------------------------------------------------------------------------


class Order(Holdover):
    """Serves nobody, and remembers who was to be served."""

    def __init__(self, store: Path, *guests: Process, deliver: dict[int, Delivery]) -> None:
        super().__init__(store=store_below(store))
        self.guests = guests
        self.deliver = deliver
        self.done: list[str] = []

    def _scan(
        self,
        pids: object = (),
        *,
        workers: bool = True,
        installed: bool = False,
        late: bool = True,
        ways: bool = True,
    ) -> Scan:
        return scan()

    def _decide(self, seen: Scan, aim: Aim, touches: object) -> Plan:
        items = (Item(g, State.CURRENT, "", deliver=self.deliver[g.id.pid]) for g in self.guests)
        wanted = Capture(STUCK.build, Purpose.HOLD, Path("/qemu"), (), "")
        return Plan(tuple(items), captures=(wanted,))

    def _serve(self, item: Item) -> Outcome:
        self.done.append(str(item.process.id.pid))
        return Outcome(item.process, item.state, "")

    def _hold_for(self, transaction: ProcessId, wanted: Capture) -> str:
        self.done.append("installed")
        return ""


def test_who_has_to_answer_comes_when_all_else_is_done(tmp_path: Path) -> None:
    """One that never does would use up the time of a hook."""
    ways = {1: Delivery.PRELOAD, 2: Delivery.ENVIRONMENT, 3: Delivery.PRELOAD, 4: Delivery.MOUNT}
    order = Order(tmp_path, *map(process, ways), deliver=ways)
    done = order.carry_out(Aim.PROTECT, transaction=ProcessId(5, 5))
    assert order.done == ["2", "4", "installed", "1", "3"]
    assert {outcome.process.id.pid for outcome in done.outcomes} == {1, 2, 3, 4}


@pytest.mark.parametrize("after", [0, 1])
def test_who_hangs_up_in_the_wrong_moment_is_refused(tmp_path: Path, after: int) -> None:
    """The library asserts that this does not happen."""

    def talk(client: socket.socket) -> None:
        client.sendall(GREETING)
        for _ in range(after):
            client.recv(4096)
        client.sendall(b'{"return": {}}\n' * 2)

    with server(tmp_path / "s", talk):
        monitor = Monitor(tmp_path / "s", os.getpid(), 10)
        with pytest.raises(RefusedError, match="makes no sense"):
            _open_and_ask(monitor)


def _open_and_ask(monitor: Monitor) -> None:
    monitor.open()
    monitor.ask({"execute": "qom-list-types"})


def test_who_answers_without_end_does_not_stop_the_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read at once would be worked off at once."""
    heard, count = [], 20_000

    async def note(_client: QMPClient, message: object) -> None:
        heard.append(message)
        time.sleep(0.0005)

    def talk(client: socket.socket) -> None:
        client.sendall(GREETING)
        client.recv(4096)
        client.sendall(b'{"return": {}}\n')
        client.recv(4096)
        with suppress(OSError):
            client.sendall(b'{"return": {}}\n' * count)

    with server(tmp_path / "s", talk):
        monitor = Monitor(tmp_path / "s", os.getpid(), 1)
        monitor.open()
        monkeypatch.setattr(QMPClient, "_on_message", note)
        with pytest.raises(RefusedError, match="does not answer within 1 s"):
            monitor.ask({"execute": "qom-list-types"})
        monitor.close()
    assert 0 < len(heard) < count
