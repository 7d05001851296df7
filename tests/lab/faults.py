# SPDX-License-Identifier: Apache-2.0
"""What is done to holdover, and when: the rows and the columns of the table of faults."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Step", "Fault", "STEPS", "FAULTS", "STORE"]

STORE = ("/usr/lib/holdover", "/var/lib/holdover", "/run/holdover")
_VIEWS, _MODULES = "/usr/lib/holdover/view", "/usr/lib/x86_64-linux-gnu/qemu"
Scene = Literal["protect", "mount", "release", "collect", "rescue"]


@dataclass(frozen=True)
class Step:
    """A moment in one of the scenes, named as docs/store.md and docs/architecture.md name it."""

    scene: Scene
    name: str
    site: str
    """Function, and what it calls (injected.py)."""
    nth: int = 1
    also: tuple[str, ...] = ()
    """Other places that belong to the same step."""
    vanishes: str = f"{_MODULES}/block-curl.so"
    """The file that is needed next, as the shell names it."""

    @property
    def title(self) -> str:
        return f"{self.scene}: {self.name}"


_HELD = f"{_VIEWS}/*/block-curl.so"
_WRITE = "durable.py:write_atomically {}"

_TAKING = (
    ("a module is rewritten", "staging.py:Staging.hold_changed write", 5),
    ("its attributes are set", "staging.py:_copy_attributes chmod", 5),
    ("a library is linked", "staging.py:_hold link", 20),
    ("decoys are added", "staging.py:Staging.add_decoys link", 3),
    ("staging is synced", "durable.py:sync fsync", 1),
    ("the view is renamed", "store.py:Store.commit rename", 1),
    ("the manifest is written", _WRITE.format("write"), 1),
    ("the manifest is synced", _WRITE.format("fsync"), 1),
    ("the manifest is renamed: it counts", _WRITE.format("rename"), 1),
)

_FETCH = "packages/fetch"
_APT, _UNPACK = f"{_FETCH}/private.py:PrivateApt", f"{_FETCH}/unpacking.py"
_PACKAGE = "/var/cache/apt/archives/qemu-block-extra_*"
_PLACE = "/usr/lib/holdover/rescue"

_ATTRIBUTES = ("staging.py:_copy_attributes chown", "staging.py:_copy_attributes utime")
_STAGING = (
    *("store.py:Store.writing mkdir", "store.py:Store.staging chmod"),
    *("staging.py:Staging._target mkdir", "staging.py:Staging.add_decoys utime"),
    *("store.py:Store.staging unlink", "store.py:Store.staging rmdir"),  # if it is there already
)

STEPS = (
    Step(
        *("protect", "the transaction is marked", "cli/transactions.py:_write rename"),
        also=("cli/transactions.py:mark mkdir", "cli/transactions.py:_write write"),
    ),
    Step("protect", "the lock is taken", "locks.py:take"),
    Step("protect", "leftovers are swept", "store.py:Store._sweep"),
    Step("protect", "processes are looked at", "steps/scan.py:scan"),
    Step("protect", "staging is made", "store.py:Store.staging mkdir", also=_STAGING),
    *(Step("protect", *what, also=_ATTRIBUTES) for what in _TAKING),
    Step("protect", "the lease is written", "store.py:Store.add_lease", vanishes=_HELD),
    Step("protect", "memory is opened", "memory.py:Memory.__enter__", vanishes=_HELD),
    Step(
        *("protect", "a child is asked to touch it", "touching.py:_send sendmsg"),
        also=("touching.py:Toucher._start fork", "touching.py:_send send"),
        vanishes=_HELD,
    ),
    Step("protect", "room is marked", "memory.py:Memory.write", 1, vanishes=_HELD),
    Step("protect", "the array is written", "memory.py:Memory.write", 2, vanishes=_HELD),
    Step("protect", "the child stores it", "memory.py:Contents.write pwrite", 3, vanishes=_HELD),
    Step("protect", "the pointer is stored", "memory.py:Memory.write", 3, vanishes=_HELD),
    Step(
        *("protect", "it is read back", "steps/deliver/environment.py:_read_back"),
        vanishes=_HELD,
    ),
    Step("protect", "the guest is looked at again", "flow.py:Holdover._look_again", vanishes=_HELD),
    Step("protect", "its release is forgotten", "released.py:Released.forget unlink"),
    Step("protect", "the transaction gets a lease", "flow.py:Holdover._hold_for", vanishes=_HELD),
    Step(
        *("protect", "the way of `holdover run` is led there", "leads.py:Leads.lead rename"),
        also=("leads.py:Leads.lead unlink", "leads.py:Leads.lead symlink"),
    ),
    Step(
        *("protect", "how it ended is recorded", "cli/recording.py:write_record rename"),
        also=("cli/recording.py:write_record mkdir", "cli/recording.py:write_record write"),
    ),
    Step("mount", "the view is cloned", "linux.py:clone_directory", vanishes=_HELD),
    Step(
        *("mount", "the helper is started", "entering.py:Helper._start fork"),
        also=("entering.py:Helper._ask sendmsg",),
        vanishes=_HELD,
    ),
    Step("mount", "the helper mounts", "linux.py:attach", vanishes=_HELD),
    Step("mount", "the helper answers", "entering.py:_serve send", vanishes=_HELD),
    Step(
        *("mount", "the mount is checked", "steps/deliver/mount.py:Mounter._check"),
        vanishes=_HELD,
    ),
    Step("release", "room is marked", "memory.py:Memory.write", 1, vanishes=_HELD),
    Step("release", "the array is written", "memory.py:Memory.write", 2, vanishes=_HELD),
    Step("release", "the pointer is stored", "memory.py:Memory.write", 3, vanishes=_HELD),
    Step("release", "the lease is dropped", "store.py:Store.drop_lease unlink", vanishes=_HELD),
    Step(
        *("release", "the release is remembered", "released.py:Released.add utime"),
        also=("released.py:Released.add mkdir",),
        vanishes=_HELD,
    ),
    Step("collect", "who starts late is caught", "flow.py:Holdover.carry_out", vanishes=_HELD),
    Step("collect", "the manifest is removed", "store.py:Store.remove unlink", 1, vanishes=_HELD),
    Step("collect", "that is synced", "durable.py:sync fsync", 1, vanishes=_HELD),
    Step("collect", "the way of `holdover run` goes", "leads.py:Leads.drop unlink", vanishes=_HELD),
    Step("collect", "the view is being removed", "store.py:Store.remove unlink", 40),
    Step("collect", "the view is removed", "store.py:Store.remove rmdir", 2),
    Step("collect", "leases of the dead go", "store.py:Store.drop_lease unlink", 1),
    Step("collect", "the transaction's mark goes", "cli/transactions.py:unmark unlink"),
    Step("rescue", "decoys are delivered", "memory.py:Memory.write", 3, vanishes=_PACKAGE),
    Step(
        *("rescue", "a place is made", "store.py:Store.rescuing mkdir"),
        also=("store.py:Store.rescuing chmod", "rescuing.py:_Search.find mkdir"),
        vanishes=_PACKAGE,
    ),
    Step(
        *("rescue", "what is mapped is copied", "steps/holders.py:_copied write"),
        also=("steps/holders.py:modules_on_this_machine mkdir",),
        vanishes=_PACKAGE,
    ),
    Step(
        *("rescue", "apt gets a state of its own", f"{_APT}.__init__ mkdir"),
        also=(
            *(f"{_APT}.__init__ utime", f"{_APT}.__init__ write", f"{_APT}._write_sources write"),
            *(f"{_APT}.adopt_lists chmod", f"{_APT}.adopt_lists utime"),
            *("rescuing.py:_Search._fetch mkdir", f"{_FETCH}/indexes.py:Indexes._make mkdir"),
        ),
        vanishes=_PACKAGE,
    ),
    Step("rescue", "apt is asked", "run.py:run fork_exec", 5, vanishes=_PACKAGE),
    Step(
        *("rescue", "a package is copied", f"{_FETCH}/package_files.py:_copy write"),
        also=(
            f"{_FETCH}/package_files.py:Holdings.__init__ mkdir",
            f"{_FETCH}/package_files.py:Holdings.take mkdir",
        ),
        vanishes=f"{_PLACE}/*/*/packages/*",
    ),
    Step(
        *("rescue", "a package is unpacked", f"{_UNPACK}:_write write", 10),
        also=(
            *("run.py:reading fork_exec", "run.py:reading unlink"),
            *(f"{_UNPACK}:_make_root mkdir", f"{_UNPACK}:_make_root symlink"),
            *(f"{_UNPACK}:_make_directory mkdir", f"{_UNPACK}:_make unlink"),
            f"{_UNPACK}:_write fchmod",
        ),
        vanishes=f"{_PLACE}/*/*/packages/*",
    ),
    Step("rescue", *_TAKING[0], vanishes=f"{_PLACE}/*/*/*/usr/lib/*/qemu/*"),
    Step("rescue", "the manifest is renamed: it counts", _WRITE.format("rename"), 3),
    Step(
        *("rescue", "it is rehearsed", "run.py:watch fork_exec"),
        also=("run.py:watch write",),
        vanishes=_HELD,
    ),
    Step(*("rescue", "that is recorded", "store.py:Store.record_rehearsal unlink"), vanishes=_HELD),
    Step("rescue", "it is delivered", "memory.py:Memory.write", 6, vanishes=_HELD),
    Step(
        *("rescue", "the place goes", "store.py:Store.rescuing unlink", 20),
        also=("store.py:Store.rescuing rmdir",),
        vanishes=_PLACE,
    ),
)


@dataclass(frozen=True)
class Fault:
    name: str
    kind: str = "command"
    """What injected.py does."""
    command: str = ""
    disk: Literal["", "small", "faulty"] = ""
    """Of which kind the store's file systems are."""


_FILL = (
    f"for d in {' '.join(STORE)}; do dd if=/dev/zero of=$d/.filler bs=64k 2>/dev/null; "
    'mount -o remount,nr_inodes=$(df --output=iused "$d" | tail -n 1) "$d"; done; true'
)
_TURN_READ_ONLY = f"for d in {' '.join(STORE)}; do mount -o remount,ro $d; done"

FAULTS = (
    Fault("killed", "kill"),
    Fault("terminated", "terminate"),
    Fault("disk full", command=_FILL, disk="small"),
    Fault("read-only", command=_TURN_READ_ONLY, disk="small"),
    Fault("I/O error", command="touch /srv/broken", disk="faulty"),
    Fault("no descriptors", "no-descriptors"),
    Fault("guest gone", command="kill -KILL {guest}"),
    Fault("file gone", command="rm -f {file}"),
    Fault("clock +10 years", command="echo +3650d >/srv/clock"),
)
