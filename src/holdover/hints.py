# SPDX-License-Identifier: Apache-2.0
"""Written by `make generated`: change the definitions in holdover/programs.

Name, packages, executable, directory: to parse the definitions takes as long as all else that most
hooks do.
"""

__all__ = ["HINTS"]

HINTS = (
    (
        "postgresql",
        (
            "postgresql",
            "postgresql-*",
            "postgresql[0-9]*",
        ),
        r"postgres",
        r"(/usr/(?:lib(?:64)?/(?:postgresql(?:/?[0-9]+(?:/lib)?)?|pgsql)|pgsql-[0-9]+/lib))",
    ),
    (
        "qemu",
        (
            "qemu-system-*",
            "qemu-kvm*",
            "qemu",
            "qemu-common",
            "qemu-utils",
            "qemu-tools",
            "qemu-img",
            "qemu-module*",
            "qemu-accel-*",
            "qemu-audio-*",
            "qemu-block-*",
            "qemu-char-*",
            "qemu-chardev-*",
            "qemu-device-*",
            "qemu-hw-*",
            "qemu-ui-*",
            "qemu-arm",
            "qemu-extra",
            "qemu-ppc",
            "qemu-s390x",
            "qemu-x86",
        ),
        r"qemu-system-[a-z0-9_]+(-[a-z0-9]+)?|qemu-kvm|kvm|qemu-storage-daemon|qemu-nbd",
        r"(/usr/(?:local/)?lib(?:64|exec)?(?:/[a-z0-9_]+-linux-[a-z0-9]+)?/qemu(?:-kvm)?)",
    ),
)
