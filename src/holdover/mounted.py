# SPDX-License-Identifier: Apache-2.0
"""Whose word is the name of a mapped file? Root's, where root alone has mounted.

Any user may make a user namespace, and mount there: then a file has whatever name he likes. Whoever
he hands it to, open, maps it by that name, in whatever namespace that process lives. So it is the
mount of the file that counts, and not who has mapped it.
"""

import os

from holdover import linux
from holdover.errors import MalformedError, ProcessError, UnreadableError
from holdover.mounts import parse_mountinfo
from holdover.procfs import ProcFs

__all__ = ["mounts_of_root", "is_named_by_root", "is_of_root"]


def mounts_of_root(proc: ProcFs, pid: int) -> frozenset[int]:
    """Mounts, by their numbers in mountinfo, that root alone has made, of those a process may see.

    All of our own mount namespace are, and all of the process's, if that belongs to the user
    namespace we are in (as those do that libvirt and systemd make). Raises `ProcessError` or
    `MalformedError`.
    """
    ours = _mounts(proc, proc.own_pid)
    if proc.namespace(pid) == proc.namespace(proc.own_pid):
        return ours
    its = _mounts(proc, pid)
    # asked last: who has gone to a namespace of his own does not come back
    return ours | its if _is_of_root(proc, pid) else ours


def is_named_by_root(proc: ProcFs, pid: int, name: str) -> bool:
    """Whether root alone has named the file that a link in /proc leads to; in doubt not."""
    try:
        with proc.open(pid, name) as file:
            return linux.mount_id(file.fileno()) in mounts_of_root(proc, pid)
    except (ProcessError, MalformedError):
        return False


def _is_of_root(proc: ProcFs, pid: int) -> bool:
    try:
        with proc.open(pid, "ns/mnt") as namespace:
            return is_of_root(proc, namespace.fileno())
    except ProcessError:
        return False


def is_of_root(proc: ProcFs, namespace: int) -> bool:
    """Whether the open mount namespace belongs to the user namespace that we are in.

    In any other one somebody else is root, and can change what is mounted there.
    """
    try:
        return linux.owner_of_namespace(namespace) == proc.namespace(proc.own_pid, "user")
    except OSError:
        return False


def _mounts(proc: ProcFs, pid: int) -> frozenset[int]:
    listed = {mount.id for mount in parse_mountinfo(proc.read(pid, "mountinfo"))}
    return frozenset(listed | {_of_root(proc, pid)})  # that of a chroot is not listed


def _of_root(proc: ProcFs, pid: int) -> int:
    try:
        handle = os.open(proc.at(pid, "root"), os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise UnreadableError(f"process {pid}: root cannot be read: {error.strerror}") from error
    try:
        return linux.mount_id(handle)
    finally:
        os.close(handle)
