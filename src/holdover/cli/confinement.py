# SPDX-License-Identifier: Apache-2.0
"""What of the kernel's policies can be in the way: who may write to whom, and who may map what."""

import os
from contextlib import suppress
from pathlib import Path

from holdover.errors import RefusedError

__all__ = ["ptrace_policy", "apparmor", "selinux"]

# what abstractions/base lets every confined program map, at any depth
_APPARMOR_ALLOWED = (Path("/usr/lib"), Path("/lib"), Path("/usr/lib64"), Path("/lib64"))
_LIBRARY_TYPES = ("lib_t", "textrel_shlib_t", "usr_t")


def ptrace_policy(root: Path = Path("/")) -> str:
    """Yama's word; kernel/Documentation/admin-guide/LSM/Yama.rst.

    Raises `RefusedError` if not even root may write to another process.
    """
    try:
        scope = (root / "proc/sys/kernel/yama/ptrace_scope").read_text().strip()
    except OSError:
        return "Yama is not in this kernel"
    if scope == "3":
        raise RefusedError(
            "kernel.yama.ptrace_scope is 3: nobody may write to another process, not even root",
            hint="boot with less, and set it to 2 in /etc/sysctl.d; until then only mounts work",
        )
    return f"kernel.yama.ptrace_scope is {scope}: root may write to other processes"


def apparmor(objects: Path, root: Path = Path("/")) -> str:
    """Raises `RefusedError`, with the rule to add, if a confined guest may not map what is held."""
    try:
        enabled = (root / "sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except OSError:
        enabled = False
    if not enabled:
        return "not in this kernel, or switched off"
    if not any(objects.is_relative_to(place) for place in _APPARMOR_ALLOWED):
        raise RefusedError(
            f"guests under libvirt's profile may not map files below {objects}",
            hint=f"add to /etc/apparmor.d/local/abstractions/libvirt-qemu: {objects}/view/** mr,",
        )
    return f"active; abstractions/base lets guests map files below {objects}"


def selinux(objects: Path, root: Path = Path("/")) -> str:
    """Raises `RefusedError`, with the commands to run, if guests may not map what is held."""
    try:
        mode = (root / "sys/fs/selinux/enforce").read_text().strip()
    except OSError:
        return "not in this kernel, or switched off"
    label = b""
    with suppress(OSError):
        label = os.getxattr(objects, "security.selinux")
    kind = label.decode("utf-8", "replace").rstrip("\0").split(":")[2:3]
    if mode == "1" and (not kind or kind[0] not in _LIBRARY_TYPES):
        raise RefusedError(
            f"{objects} has the type {kind[0] if kind else 'of nothing'}: guests may not map it",
            hint=f"semanage fcontext -a -t lib_t '{objects}(/.*)?' && restorecon -R {objects}",
        )
    return f"{'enforcing' if mode == '1' else 'permissive'}; {objects} can be mapped by guests"
