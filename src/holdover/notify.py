# SPDX-License-Identifier: Apache-2.0
"""Tell the service manager how it goes, if one wants to know. Source: sd_notify(3)."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

__all__ = ["notify", "notify_status", "ask_for_time"]


def notify_status(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """One line that `systemctl status` shows."""
    return notify(f"STATUS={' '.join(text.split())}", environment)


def ask_for_time(seconds: float, environment: Mapping[str, str] = os.environ) -> bool:
    """Not to be ended for that long, whatever the unit says."""
    return notify(f"EXTEND_TIMEOUT_USEC={int(seconds * 1_000_000)}", environment)


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether it was taken; nothing without NOTIFY_SOCKET, and nothing if nobody listens."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.sendto(message.encode("utf-8", "replace"), socket.MSG_DONTWAIT, address)
        return True
    return False
