# SPDX-License-Identifier: Apache-2.0
"""The booted lab: a Debian 12 with systemd and libvirt, to upgrade QEMU under and throw away.

A base is built once with mmdebstrap and never booted. Each lab boots its own copy with
systemd-nspawn. The copy is a real one, not hard links or an overlay: a file that dpkg replaces
must lose its last link, libraries must keep their device and inode, and nothing done in a lab may
reach the base. It is in memory (half a gigabyte), because a disk can take ten seconds for it.

    keeper                           a shell that waits for its standard input to close
    `- unshare --pid --mount         the copy is mounted in here only; all of it ends with
       `- shell                      this shell or unshare, by the kernel's hand
          `- systemd-nspawn          one for each boot
             `- systemd              the leader: run() enters its namespaces

The end of the test process closes the keeper's standard input, however the end came. The keeper
then ends the lab and removes what the kernel does not: control groups and an empty directory.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self, TypeVar

from lab.bases import LabError, build_base
from lab.image import IMAGE, WEB_SERVER, bytes_of_dump

__all__ = ["BootedLab", "build_booted_base", "RECIPE", "VAR_ELSEWHERE"]

T = TypeVar("T")

QEMU_PACKAGES = (
    "qemu-system-x86",
    "qemu-system-common",
    "qemu-system-data",
    "qemu-utils",
    "qemu-block-extra",
)
OTHER_PACKAGES = (
    "systemd-sysv",
    "dbus",
    "libvirt-daemon-system",
    "libvirt-daemon-driver-qemu",
    "libvirt-clients",
    "procps",
    "python3",
    "python3-rich",
    "python3-prometheus-client",
    "unattended-upgrades",
)

BOOT_SECONDS = 60.0
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}

# Runs in mmdebstrap with the new root as $1. madison lists the newest version first. The newer
# debs stay in apt's cache for the upgrade.
BASE_HOOK = r"""
set -eu
in_root() { chroot "$root" "$@"; }
root=$1
if [ "$(in_root apt-cache madison qemu-system-x86 | awk '{ print $3 }' | sort -u | wc -l)" -lt 2 ]
then
    echo 'the archive offers one QEMU build only, nothing to upgrade to' >&2
    exit 1
fi
older=
for package in QEMU_PACKAGES; do
    older="$older $package=$(in_root apt-cache madison "$package" | awk 'END { print $3 }')"
done
export DEBIAN_FRONTEND=noninteractive
in_root apt-get install -y --no-install-recommends $older
in_root apt-get clean
in_root apt-get install -y --no-install-recommends --download-only QEMU_PACKAGES

# The control groups of a container may be read-only; libvirt would refuse to start a guest.
echo 'cgroup_controllers = []' >> "$root/etc/libvirt/qemu.conf"
# Nothing may start in the middle of a test, and no first boot may re-enable what is masked.
in_root systemd-machine-id-setup
in_root systemctl mask libvirt-guests.service console-getty.service apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer logrotate.timer
""".replace("QEMU_PACKAGES", " ".join(QEMU_PACKAGES))

RECIPE = repr((QEMU_PACKAGES, OTHER_PACKAGES, BASE_HOOK))
"""All that a base is made of, but for the sources."""

# $1 is the base, $2 the lab's mount point. systemd in the container kills and removes by control
# group, so two labs must not share one: hence an own group in each hierarchy that systemd uses.
# To stop, the first process of the namespace is killed rather than unshare, which then has waited
# for the end of all of it before anything is removed. There may be none yet: hence the loop.
KEEPER = r"""
base=$1 lab=$2
groups=
for top in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified /sys/fs/cgroup; do
    [ -e "$top/cgroup.procs" ] && groups="$groups $top/${lab##*/}"
done
boot() {
    for group in $groups; do echo 0 > "$group/cgroup.procs"; done
    exec setpriv --pdeathsig KILL \
        unshare --mount --pid --fork --kill-child --mount-proc sh -c "$BOOT" boot "$base" "$lab"
}
trap '' INT TERM HUP
mkdir -p $groups /run/systemd/nspawn
boot &
read -r _
while [ -e "/proc/$!/exe" ]; do
    read -r first < "/proc/$!/task/$!/children"
    kill -KILL $first
    sleep 0.05
done
wait
rmdir "$lab"
for group in $groups; do find "$group" -depth -type d -exec rmdir {} +; done
"""

# In namespaces of its own. The second tmpfs is for the lock files that nspawn never removes. Its
# code 133 says that the system wants to boot again: the copy is what it was, /run is not.
BOOT = r"""
set -e
root=$2/root
mount -t tmpfs lab "$2"
mount -t tmpfs nspawn /run/systemd/nspawn
cp -a "$1" "$root"
eval "$PREPARE"
while
    systemd-nspawn --quiet --directory="$root" --machine=lab \
        --keep-unit --register=no --console=pipe --link-journal=no $INIT
    [ $? = 133 ]
do :; done
"""

# Other kinds of host, made of the copy before it starts, which is at $root.
VAR_ELSEWHERE = 'mv "$root/var" "$root/old"; mkdir "$root/var"; mount -t tmpfs var "$root/var"; \
cp -a "$root/old/." "$root/var"; rm -r "$root/old"'

GUEST = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>{emulator}</emulator>
    <controller type='pci' model='pcie-root'/>
    {slots}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
SPARE_SLOT = "<controller type='pci' model='pcie-root-port'/>"

DISK = """
<disk type='network' device='disk'>
  <driver name='qemu' type='raw'/>
  <source protocol='http' name='/disk.img'><host name='127.0.0.1' port='{port}'/></source>
  <target dev='{target}' bus='virtio'/>
  <alias name='ua-{target}'/>
  <readonly/>
</disk>
"""


def build_booted_base(directory: Path, sources: list[str]) -> None:
    """Build the base at `directory`, unless it is there; the sources offer two builds of QEMU."""
    build_base(directory, sources, OTHER_PACKAGES, BASE_HOOK)


class BootedLab:
    """A running copy of the base. A context manager: it boots on entry, and is gone on exit."""

    def __init__(
        self, base: Path, scratch: Path, *, prepare: str = "", systemd: bool = True
    ) -> None:
        """`prepare` is a shell command; without systemd nothing is started but an empty init."""
        self._base = base
        self._prepare = prepare
        self._systemd = systemd
        self._scratch = scratch
        self.root = Path()
        self.leader = 0

    def __enter__(self) -> Self:
        """Boot. The copy is mounted in the lab only; `root` reaches it through the leader."""
        self._start_keeper()
        try:
            self._wait_for_boot()
        except BaseException:
            self._stop_keeper()
            raise
        return self

    def reboot(self) -> None:
        """As after a power cut: nobody is told, every process and /run are gone, the files stay."""
        self.__dict__.pop("_image_port", None)
        before = self.leader
        self.run("systemctl", "reboot", "--force", "--force", check=False)
        self._wait_for("the end of all", lambda: None if self._find_leader() == before else True)
        self._wait_for_boot()

    def _wait_for_boot(self) -> None:
        self.leader = self._wait_for("the container's init", self._find_leader)
        self.root = Path(f"/proc/{self.leader}/root")
        self._wait_for("the end of the boot", self._has_booted)

    def __exit__(self, *_: object) -> None:
        self._stop_keeper()

    # Commands

    def run(
        self, *argv: str, check: bool = True, input: str | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the lab.

        nsenter, because machinectl would need the host's machined. The command dies with nsenter
        (what it put in the background does not), so that a timeout leaves nothing behind.
        """
        enter = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--pid"]
        enter += ["--root", "--wd", "--", "setpriv", "--pdeathsig", "KILL", *argv]
        done = subprocess.run(
            enter,
            input="" if input is None else input,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=ENVIRONMENT,
            check=False,
        )
        if check and done.returncode:
            raise LabError(f"{argv} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    # Guests

    def define_guest(self, name: str, emulator: str = "/usr/bin/qemu-system-x86_64") -> None:
        """Start a guest that libvirt confines as it does by default.

        It has no operating system: its firmware waits for a disk, and hot-plugging a disk into
        one of the spare slots needs no answer from the guest.
        """
        guest = GUEST.format(name=name, emulator=emulator, slots=SPARE_SLOT * 6)
        self.run("virsh", "define", "/dev/stdin", input=guest)
        self.run("virsh", "start", name)

    def attach_http_disk(self, name: str, target: str) -> subprocess.CompletedProcess[str]:
        """Hot-attach the network disk, whose contents are `IMAGE`, as e.g. "vdb"."""
        disk = DISK.format(target=target, port=self._image_port)
        return self.run("virsh", "attach-device", name, "/dev/stdin", input=disk, check=False)

    def read_disk(self, name: str, target: str, length: int) -> bytes:
        """Read the first bytes of a disk through the guest's QEMU.

        qemu-io prints the bytes to QEMU's standard output, which is libvirt's log of the guest.
        """
        log = self.root / f"var/log/libvirt/qemu/{name}.log"
        before = log.stat().st_size
        device = f"/machine/peripheral/ua-{target}/virtio-backend"
        command = f'qemu-io -d {device} "read -v 0 {length}"'
        self.run("virsh", "qemu-monitor-command", name, "--hmp", command)

        def answer() -> str | None:
            text = log.read_bytes()[before:].decode(errors="replace")
            return text if re.search(r"^read .*\n", text, re.MULTILINE) else None

        return bytes_of_dump(self._wait_for("qemu-io's answer", answer))

    def domain_state_after(self, state: str, name: str) -> str:
        """What comes after `state`: libvirt notices the death of a guest a moment later."""

        def changed() -> str | None:
            now = self.domain_state(name)
            return None if now.startswith(state) else now

        return self._wait_for(f"guest {name} to be no longer {state}", changed)

    def domain_state(self, name: str) -> str:
        """The state with its reason, e.g. "running (booted)" or "shut off (crashed)"."""
        return self.run("virsh", "domstate", "--reason", name).stdout.strip()

    def start_service(self, name: str) -> int:
        """A guest that the service manager starts: what it says goes to the journal."""
        machine = ("-machine", "q35,accel=tcg", "-nodefaults", "-display", "none", "-S")
        monitor = ("-qmp", f"unix:/run/{name}.sock,server=on,wait=off")
        unit = ("systemd-run", "--quiet", f"--unit={name}")
        self.run(*unit, "/usr/bin/qemu-system-x86_64", *machine, *monitor)
        socket = self.root / f"run/{name}.sock"
        self._wait_for("the monitor", lambda: socket.exists() or None)
        return int(self.run("systemctl", "show", "--property=MainPID", "--value", name).stdout)

    def ask_service(self, name: str, command: str) -> str:
        """What its monitor answers to one QMP command."""
        asks = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "f = s.makefile('rw'); f.readline();"
            "[print(f.write(c) and f.flush() or f.readline()) for c in sys.argv[2:]]"
        )
        commands = ('{"execute": "qmp_capabilities"}', command)
        return self.run("python3", "-c", asks, f"/run/{name}.sock", *commands).stdout

    def guest_pid(self, name: str) -> int:
        """The pid of the guest's QEMU as seen inside the lab."""
        return int(self.run("cat", f"/run/libvirt/qemu/{name}.pid").stdout)

    def leave_guests_to_package_managers(self) -> None:
        """Neither the timer nor libvirt's hook protects anybody before a transaction does."""
        settings = self.root / "etc/holdover/holdover.toml.d/only-transactions.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text("timer.protect = false\nlibvirt.protect = false\n")

    # The upgrade

    @functools.cached_property
    def qemu_versions(self) -> tuple[str, str]:
        """The older version, which the lab starts with, and the newer one."""
        return self.builds("qemu-system-x86")

    def builds(self, package: str) -> tuple[str, str]:
        """The oldest and the newest version that apt knows."""
        rows = self.run("apt-cache", "madison", package).stdout.splitlines()
        return rows[-1].split()[2], rows[0].split()[2]

    def upgrade_qemu(self) -> subprocess.CompletedProcess[str]:
        """Upgrade QEMU to the newer build, as an admin would."""
        return self.run("apt-get", "install", "-y", "--no-install-recommends", *QEMU_PACKAGES)

    # Machinery

    @functools.cached_property
    def _image_port(self) -> int:
        """Start the image server; any free port, because labs share the host's loopback."""
        (self.root / "srv/disk.img").write_bytes(IMAGE)
        (self.root / "srv/server.py").write_text(WEB_SERVER)
        unit = "systemd-run --quiet --unit=image-server --property=Type=forking"
        server = "python3 /srv/server.py /srv 0 </dev/null >/dev/null 2>&1"  # it stays
        self.run("sh", "-c", f"{unit if self._systemd else ''} {server}")
        return int((self.root / "srv/port").read_text())

    def _start_keeper(self) -> None:
        """Its own session: Ctrl-C at the terminal is for the tests, the keeper then cleans up."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix="booted-lab-", dir=self._scratch)).resolve()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the keeper
        init = "--boot" if self._systemd else "--as-pid2 sleep infinity"
        self._keeper = subprocess.Popen(
            ["sh", "-c", KEEPER, "keeper", str(self._base.resolve()), str(directory)],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            env=ENVIRONMENT | {"BOOT": BOOT, "PREPARE": self._prepare, "INIT": init},
            start_new_session=True,
        )

    def _stop_keeper(self) -> None:
        self._keeper.communicate(timeout=BOOT_SECONDS)
        self._log.close()

    def _wait_for(self, what: str, probe: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._keeper.poll() is None:
            found = probe()
            if found is not None:
                return found
            time.sleep(0.02)
        said = os.pread(self._log.fileno(), 8000, 0).decode(errors="replace")
        raise LabError(f"waited in vain for {what}; the keeper said:\n{said}")

    def _find_leader(self) -> int | None:
        """The child of nspawn that has become systemd, or nspawn's own idea of an init."""
        try:
            (unshare,) = _children(self._keeper.pid)
            (shell,) = _children(unshare)
            (nspawn,) = _children(shell)
            (init,) = _children(nspawn)
            comm = Path(f"/proc/{init}/comm").read_text().strip()
        except (OSError, ValueError):
            return None
        return init if comm == ("systemd" if self._systemd else "(sd-stubinit)") else None

    def _has_booted(self) -> bool | None:
        if not self._systemd:
            return True if self.run("pidof", "sleep", check=False).stdout else None
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return True if state in ("running", "degraded") else None


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
