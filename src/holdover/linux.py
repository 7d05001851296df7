# SPDX-License-Identifier: Apache-2.0
"""The system calls that Python has no function for. Nothing else in holdover calls libc.

Constants are named as in <linux/mount.h>, <sched.h>, <fcntl.h> and <linux/nsfs.h>; every failure is
an `OSError`. Source: open_tree(2), move_mount(2), mount_setattr(2), setns(2), umount2(2),
ioctl_ficlone(2), statx(2), ioctl_ns(2).
"""

import ctypes
import fcntl
import os
import struct

__all__ = ["clone_directory", "attach", "enter_mount_namespace", "unmount", "reflink", "mount_id"]
__all__ += ["birth", "owner_of_namespace"]

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MS_PRIVATE = 1 << 18
CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8
FICLONE = 0x40049409
NS_GET_USERNS = 0xB701
STATX_BTIME = 0x00000800
STATX_SIZE = 256  # of struct statx
STATX_BTIME_AT = 80  # its stx_btime
# numbers of calls since 5.1 are the same on every architecture
SYS_OPEN_TREE, SYS_MOVE_MOUNT, SYS_MOUNT_SETATTR = 428, 429, 442


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(call: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def clone_directory(path: str) -> int:
    """A detached, private, read-only mount of the directory `path`; returns its descriptor."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC
    tree = _libc().syscall(SYS_OPEN_TREE, AT_FDCWD, os.fsencode(path), flags)
    _check("open_tree", tree)
    attributes = struct.pack(
        "<QQQQ",
        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV,
        MOUNT_ATTR_NOEXEC,  # cleared: modules are mapped for execution
        MS_PRIVATE,
        0,
    )
    try:
        size = len(attributes)
        done = _libc().syscall(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, attributes, size)
        _check("mount_setattr", done)
    except OSError:
        os.close(tree)
        raise
    return int(tree)


def attach(tree: int, target: int) -> None:
    """Mount the detached `tree` on the directory behind the descriptor `target`."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check("move_mount", _libc().syscall(SYS_MOVE_MOUNT, tree, b"", target, b"", flags))


def enter_mount_namespace(namespace: int) -> None:
    """Join the namespace; only for a child that ends soon: root and cwd become the namespace's."""
    _check("setns", _libc().setns(namespace, CLONE_NEWNS))


def unmount(name: str) -> None:
    """Take away the topmost mount on `name`, relative to the current directory."""
    _check("umount2", _libc().umount2(os.fsencode(name), MNT_DETACH | UMOUNT_NOFOLLOW))


def reflink(source: int, target: int) -> None:
    """Make the empty file `target` share the data of `source` (btrfs, xfs)."""
    _check("ioctl(FICLONE)", _libc().ioctl(target, ctypes.c_ulong(FICLONE), source))


def mount_id(descriptor: int) -> int:
    """Which line of mountinfo the open file lies on; source: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        fields = dict(line.split(":", 1) for line in file if ":" in line)
    return int(fields["mnt_id"])


def birth(descriptor: int) -> float | None:
    """When the open file was made, in seconds of the epoch; None if its file system forgets."""
    found = ctypes.create_string_buffer(STATX_SIZE)
    _check("statx", _libc().statx(descriptor, b"", AT_EMPTY_PATH, STATX_BTIME, found))
    (known,) = struct.unpack_from("=I", found)
    seconds, nanoseconds = struct.unpack_from("=qI", found, STATX_BTIME_AT)
    return float(seconds + nanoseconds / 1e9) if known & STATX_BTIME else None


def owner_of_namespace(namespace: int) -> int:
    """The inode of the user namespace in which the open namespace was made.

    Fails with EPERM if that is none of ours or of those below.
    """
    owner = fcntl.ioctl(namespace, NS_GET_USERNS)
    try:
        return os.fstat(owner).st_ino
    finally:
        os.close(owner)
