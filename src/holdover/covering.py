# SPDX-License-Identifier: Apache-2.0
"""When a directory of another process may be covered by a mount, as the kernel's tables tell.

A mount hits every process of its namespace, and through shared mounts other namespaces as well.
So it is refused unless the namespace holds nothing but instances of the one executable, and the
mount that holds the directory has no peer anywhere else.
"""

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from holdover import linux
from holdover.errors import ProcessError, VanishedError
from holdover.identity import FileId
from holdover.mounted import is_of_root
from holdover.mounts import Mount, parse_mountinfo, sharing_refusal
from holdover.procfs import ProcFs

__all__ = ["MountTables", "FOREIGN"]

FOREIGN = (
    "its mount namespace is a user's: whoever made that is root in it, and can change its mounts"
)


@dataclass
class MountTables:
    """All mount namespaces as they are at one moment; each table is read once.

    A namespace without a process (held by a descriptor or a bind mount) cannot be seen.
    """

    proc: ProcFs
    _tables: dict[int, tuple[Mount, ...]] = field(default_factory=dict)

    def refusal(self, pid: int, executable: FileId, directory: Path) -> str:
        """Why `directory` must not be covered for process `pid`, or "" if it may be."""
        namespace = self.proc.namespace(pid)
        if namespace == self.proc.namespace(self.proc.own_pid):
            return "it lives in the host's mount namespace: a mount would hit every process"
        with self.proc.open(pid, "ns/mnt") as file:
            if not is_of_root(self.proc, file.fileno()):
                return FOREIGN
        members, unreadable = self._census
        if unreadable:
            return f"process {unreadable[0]} cannot be read: it may live in the same namespace"
        strangers = [other for other in members[namespace] if not self._runs(other, executable)]
        if strangers:
            others = ", ".join(map(str, strangers[:5]))
            return f"its mount namespace also holds processes of another build ({others})"
        return self._mount_refusal(pid, namespace, directory)

    def _mount_refusal(self, pid: int, namespace: int, directory: Path) -> str:
        try:
            target = os.open(self.proc.at(pid, f"root{directory}"), os.O_PATH | os.O_DIRECTORY)
        except OSError as error:
            return f"it has no directory {directory} that could be covered ({error.strerror})"
        try:
            holding = linux.mount_id(target)
        finally:
            os.close(target)
        mount = next((m for m in self._table(pid, namespace) if m.id == holding), None)
        if mount is None:
            return f"the mount that holds {directory} is not in its mount table"
        there = self._by_group.get(mount.peer_group, [])
        return sharing_refusal(mount, tuple(m for other, m in there if other != namespace))

    def _runs(self, pid: int, executable: FileId) -> bool:
        try:
            return self.proc.file_of(pid, "exe") == executable
        except ProcessError:
            return False

    @cached_property
    def _census(self) -> tuple[dict[int, list[int]], list[int]]:
        """Who lives in which namespace, and of whom that cannot be told."""
        members: dict[int, list[int]] = defaultdict(list)
        unreadable = []
        for pid in self.proc.pids():
            try:
                self.proc.link(pid, "exe")
                members[self.proc.namespace(pid)].append(pid)
            except VanishedError:
                continue  # kernel threads and zombies open no files
            except ProcessError:
                unreadable.append(pid)
        return members, unreadable

    @cached_property
    def _by_group(self) -> dict[int | None, list[tuple[int, Mount]]]:
        """For each peer group the mounts that are in it or get what happens in it, of everybody."""
        found: dict[int | None, list[tuple[int, Mount]]] = defaultdict(list)
        for namespace, pids in self._census[0].items():
            for mount in self._table_of_any(pids):
                for group in {mount.peer_group, mount.master} - {None}:
                    found[group].append((namespace, mount))
        return found

    def _table_of_any(self, pids: list[int]) -> tuple[Mount, ...]:
        for pid in pids:
            with suppress(VanishedError):
                return self._table(pid, self.proc.namespace(pid))
        return ()  # all have ended, and the namespace with them

    def _table(self, pid: int, namespace: int) -> tuple[Mount, ...]:
        if namespace not in self._tables:
            self._tables[namespace] = parse_mountinfo(self.proc.read(pid, "mountinfo"))
        return self._tables[namespace]
