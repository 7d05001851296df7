# SPDX-License-Identifier: Apache-2.0
"""The lab: real Debian systems that can be upgraded and thrown away, and real guests in them.

Two backends: `Lab` (a chroot in namespaces of its own, fast) and `BootedLab` (systemd, libvirt).
"""

from lab.booted import BootedLab
from lab.chroot import Lab

__all__ = ["BootedLab", "Lab"]
