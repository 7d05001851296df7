# SPDX-License-Identifier: Apache-2.0
"""The kinds of guest that are met in the field, as ways to start one."""

from collections.abc import Sequence
from dataclasses import dataclass

from holdover.demo.guest import Guest
from holdover.demo.root import ThrowawayRoot

__all__ = ["KINDS", "Kind"]

_LIBVIRT_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Kind:
    """How such a guest is started: by what, and with which options of QEMU."""

    wrapper: Sequence[str] = ()
    extra: Sequence[str] = ()
    name_option: str = ""

    def start(self, root: ThrowawayRoot, name: str) -> Guest:
        option = self.name_option.format(name=name)
        return Guest.start(root, name, wrapper=self.wrapper, extra=self.extra, name_option=option)


KINDS = {
    "host-namespace": Kind(),
    "own-namespace": Kind(wrapper=("unshare", "--mount")),
    "unprivileged": Kind(wrapper=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")),
    "sandboxed": Kind(extra=("-sandbox", _LIBVIRT_SANDBOX)),
    "renamed": Kind(name_option="guest={name},process=not-qemu-at-all"),
    "iothreads": Kind(extra=("-object", "iothread,id=io1", "-object", "iothread,id=io2")),
}
