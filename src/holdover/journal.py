# SPDX-License-Identifier: Apache-2.0
"""The system's log: the journal with structured fields, or syslog where there is no journal.

Nobody is waited for: what the log does not take at once is lost, as a hook must not hang because
a log does. Source: systemd's JOURNAL_NATIVE_PROTOCOL, systemd.journal-fields(7), RFC 3164.
"""

import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Entry", "Journal", "in_native_protocol", "in_syslog_protocol"]

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6  # LOG_ERR and so on of <syslog.h>
IDENTIFIER = "holdover"
_DAEMON = 3 << 3  # LOG_DAEMON of <syslog.h>
_MAX_VALUE = 4096  # bytes; twenty such fields fit into one datagram
_MAX_LINE = 1024  # bytes, of RFC 3164


@dataclass(frozen=True, slots=True)
class Entry:
    """One message; `id` is its MESSAGE_ID, the names of `fields` are as journald allows them."""

    id: str
    priority: int
    text: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Journal:
    """Where messages go."""

    native: Path = Path("/run/systemd/journal/socket")
    syslog: Path = Path("/dev/log")

    def write(self, entry: Entry) -> bool:
        """Whether somebody took it. Never fails, never waits."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            return _sent(channel, self.native, in_native_protocol(entry)) or _sent(
                channel, self.syslog, in_syslog_protocol(entry, os.getpid(), time.time())
            )


def _sent(channel: socket.socket, to: Path, message: bytes) -> bool:
    with suppress(OSError):
        channel.sendto(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, str(to))
        return True
    return False


def in_native_protocol(entry: Entry) -> bytes:
    """Each value comes with its length, so that none can be taken for another field."""
    return b"".join(
        b"%s\n%s%s\n" % (name.encode("ascii"), struct.pack("<Q", len(value)), value)
        for name, value in _fields(entry)
    )


def _fields(entry: Entry) -> Iterator[tuple[str, bytes]]:
    own = {
        "MESSAGE": entry.text,
        "MESSAGE_ID": entry.id,
        "PRIORITY": str(entry.priority),
        "SYSLOG_IDENTIFIER": IDENTIFIER,
    }
    for name, value in (own | dict(entry.fields)).items():
        if value:
            yield name, _cut(value, _MAX_VALUE)


def in_syslog_protocol(entry: Entry, pid: int, now: float) -> bytes:
    """One line; who reads it knows neither identifiers nor fields."""
    stamp = time.strftime("%b %e %H:%M:%S", time.localtime(now))
    line = " ".join(entry.text.splitlines()).replace("\0", " ")
    return _cut(f"<{_DAEMON | entry.priority}>{stamp} {IDENTIFIER}[{pid}]: {line}", _MAX_LINE)


def _cut(text: str, most: int) -> bytes:
    """At most so many bytes, and no half a character: journald would take it for binary data."""
    return text.encode("utf-8", "replace")[:most].decode("utf-8", "ignore").encode()
