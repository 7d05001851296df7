# SPDX-License-Identifier: Apache-2.0
"""What is written to the system's log, and to whom if there is no journal."""

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.journal import Entry, Journal, in_native_protocol, in_syslog_protocol
from holdover.notify import ask_for_time, notify, notify_status

ID = "b946be0bd003408cba962f085ef6882a"
ENTRY = Entry(ID, 6, "web01 (4711) is protected", {"HOLDOVER_GUEST": "web01"})


def parse_native(message: bytes) -> dict[str, bytes]:
    """As journald does: a name and a newline, eight bytes of length, the value, a newline."""
    fields = {}
    while message:
        name, _, message = message.partition(b"\n")
        assert b"=" not in name
        (length,) = struct.unpack_from("<Q", message)
        assert message[8 + length : 9 + length] == b"\n"
        assert name.decode() not in fields
        fields[name.decode()], message = message[8 : 8 + length], message[9 + length :]
    return fields


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(10)
        yield listener


def test_a_message_has_its_identifier_and_fields() -> None:
    assert parse_native(in_native_protocol(ENTRY)) == {
        "MESSAGE": b"web01 (4711) is protected",
        "MESSAGE_ID": ID.encode(),
        "PRIORITY": b"6",
        "SYSLOG_IDENTIFIER": b"holdover",
        "HOLDOVER_GUEST": b"web01",
    }


@pytest.mark.parametrize(
    "name",
    ["a\nPRIORITY=0", "a\nMESSAGE\n" + "\0" * 8 + "\n", "a=b", "\0", "\n", "\udcff", "ü" * 5000],
)
def test_no_name_of_a_guest_makes_a_field(name: str) -> None:
    fields = parse_native(in_native_protocol(Entry(ID, 4, name, {"HOLDOVER_GUEST": name})))
    assert fields["PRIORITY"] == b"4"
    assert set(fields) == {
        *("MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", "HOLDOVER_GUEST")
    }
    assert len(fields["HOLDOVER_GUEST"]) <= 4096
    fields["HOLDOVER_GUEST"].decode()  # whole characters


@given(st.text(), st.text())
def test_any_text_is_a_value_and_nothing_else(text: str, value: str) -> None:
    fields = parse_native(in_native_protocol(Entry(ID, 6, text, {"HOLDOVER_REASON": value})))
    assert fields.get("HOLDOVER_REASON", b"").decode() == value.encode()[:4096].decode(
        "utf-8", "ignore"
    )


def test_empty_fields_are_left_out() -> None:
    assert "HOLDOVER_X" not in parse_native(
        in_native_protocol(Entry(ID, 6, "x", {"HOLDOVER_X": ""}))
    )


@given(st.text())
def test_syslog_gets_one_line_whatever_the_text_is(text: str) -> None:
    line = in_syslog_protocol(Entry(ID, 4, text), 12, 0.0)
    assert line.startswith(b"<28>")
    assert b" holdover[12]: " in line
    assert b"\n" not in line
    assert b"\0" not in line
    assert len(line) <= 1024


def test_the_journal_is_preferred(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "native", tmp_path / "log")
    with listening(journal.native) as native, listening(journal.syslog) as syslog:
        assert journal.write(ENTRY)
        assert parse_native(native.recv(65536))["HOLDOVER_GUEST"] == b"web01"
        syslog.setblocking(False)
        with pytest.raises(BlockingIOError):
            syslog.recv(1)


def test_syslog_serves_where_there_is_no_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "native", tmp_path / "log")
    with listening(journal.syslog) as syslog:
        assert journal.write(ENTRY)
        assert syslog.recv(65536).endswith(b"]: web01 (4711) is protected")


def test_without_either_nothing_happens(tmp_path: Path) -> None:
    assert not Journal(tmp_path / "native", tmp_path / "log").write(ENTRY)


def test_a_journal_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "native", tmp_path / "log")
    with listening(journal.native):
        assert not all(journal.write(ENTRY) for _ in range(10_000))


# -- the service manager ---------------------------------------------------------------------------


def test_the_service_manager_is_told(tmp_path: Path) -> None:
    with listening(tmp_path / "notify") as manager:
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        assert notify_status("2 guests\nREADY=1", environment)
        assert manager.recv(100) == b"STATUS=2 guests READY=1"
        assert ask_for_time(1.5, environment)
        assert manager.recv(100) == b"EXTEND_TIMEOUT_USEC=1500000"


def test_an_abstract_socket_is_told() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the kernel chooses an abstract name
        name = manager.getsockname()[1:].decode()
        assert notify("READY=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/no/such/socket", "vsock:2:1"])
def test_nobody_to_tell_is_no_error(address: str | None) -> None:
    assert not notify("READY=1", {} if address is None else {"NOTIFY_SOCKET": address})
