# SPDX-License-Identifier: Apache-2.0
"""Servers of one disk, on a network of the test's own: http, https, ssh, nfs and iscsi.

They run in a throwaway root, which is never upgraded, in a network namespace that holds nothing but
a loopback. Guests of any other throwaway root are started in that namespace (`DataServers.join`):
the servers have their usual ports there, and nothing listens on the machine's own addresses.

The namespace and all the servers end with their root, however that ends.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from holdover.demo.archive import RELEASE, Recipe
from holdover.demo.root import ThrowawayRoot
from holdover.looking import Progress
from lab.bases import LabError
from lab.image import IMAGE, WEB_SERVER

__all__ = ["EXPORT", "SERVERS", "TARGET", "DataServers", "data_servers"]

_PACKAGES = (
    *("python3", "mount", "iproute2", "netbase", "openssl"),
    *("openssh-server", "rpcbind", "nfs-ganesha-vfs", "tgt"),
)
EXPORT = "/run/export"  # a tmpfs: the same file system wherever the tests run
TARGET = "iqn.2020-01.lab:disk"

_PATIENCE = 30.0  # seconds until a server that is not ready is taken for one that never will be

# Its last word tells the pid: the loopback is up by then.
_HOLD_NETWORK = "ip link set lo up && echo $$ > /run/network && exec sleep infinity"

# A CA with a server's certificate, and a key for ssh. The server's name is its address.
_MAKE_KEYS = """
set -e
mkdir -p /run/keys && cd /run/keys
new="req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl $new -x509 -days 30 -subj '/CN=lab CA' -keyout ca.key -out ca.crt
openssl $new -subj '/CN=lab server' -addext subjectAltName=IP:127.0.0.1 \
    -keyout server.key -out server.csr
openssl x509 -req -days 30 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial \
    -copy_extensions copyall -out server.crt
cat server.key server.crt > server.pem
ssh-keygen -q -t ed25519 -N '' -f id_ed25519
mkdir -p -m 700 /root/.ssh
cp id_ed25519.pub /root/.ssh/authorized_keys
"""

_GANESHA = f"""
NFS_Core_Param {{ Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; }}
NFS_KRB5 {{ Active_krb5 = false; }}
NFSv4 {{ Graceless = true; }}
EXPORT {{
    Export_Id = 1; Path = {EXPORT}; Pseudo = /export; Protocols = 3; Access_Type = RO;
    Squash = All_Squash; SecType = sys; FSAL {{ Name = VFS; }}
}}
"""


def _complete(root: ThrowawayRoot, progress: Progress) -> None:
    """Nothing is to be done in it after its packages are there."""


SERVERS = Recipe("servers", RELEASE, _complete, _PACKAGES)


class _OnNetwork(ThrowawayRoot):
    """A throwaway root whose commands, and what they start, are on another network."""

    def __init__(self, root: ThrowawayRoot, network: Path) -> None:
        super().__init__(root.root, root.init)
        self._network = network

    def command(self, *words: str) -> tuple[str, ...]:
        return ("nsenter", f"--net={self._network}", "--", *super().command(*words))


class DataServers:
    """All of them, running."""

    def __init__(self, root: ThrowawayRoot) -> None:
        self._network = _own_network(root)
        self._root = self.join(root)

    def join(self, root: ThrowawayRoot) -> ThrowawayRoot:
        """The same root; what is started in it by this name can reach the servers."""
        return _OnNetwork(root, self._network)

    def introduce(self, root: ThrowawayRoot) -> None:
        """Make `root` trust the servers and have access, as an admin would: CA, host and user key.

        Without, the https and the ssh disk are refused.
        """
        keys = self._root.inside / "run/keys"
        ca = root.root / "usr/local/share/ca-certificates/lab.crt"
        ca.write_text((keys / "ca.crt").read_text())
        root.run("update-ca-certificates")
        home = root.root / "root/.ssh"
        home.mkdir(mode=0o700, exist_ok=True)
        private = home / "id_ed25519"
        private.touch(mode=0o600)
        private.write_text((keys / "id_ed25519").read_text())
        host_keys = (self._root.inside / "etc/ssh").glob("ssh_host_*_key.pub")
        known = (f"127.0.0.1 {key.read_text()}" for key in host_keys)
        (home / "known_hosts").write_text("".join(known))

    def start(self) -> None:
        """Start every server, and wait until each of them serves."""
        export = self._root.inside / EXPORT.lstrip("/")
        export.mkdir()
        (export / "disk.img").write_bytes(IMAGE)
        self._root.run("sh", "-c", _MAKE_KEYS)
        self._start_web()
        self._start_ssh()
        self._start_nfs()
        self._start_iscsi()

    def _start_web(self) -> None:
        script = "/run/web-server.py"
        (self._root.inside / script.lstrip("/")).write_text(WEB_SERVER)
        self._start("http", "python3", script, EXPORT, "80")
        self._start("https", "python3", script, EXPORT, "443", "/run/keys/server.pem")

    def _start_ssh(self) -> None:
        (self._root.inside / "run/sshd").mkdir()
        self._start("sshd", "/usr/sbin/sshd")  # leaves when it listens

    def _start_nfs(self) -> None:
        # NFSv3 clients ask the port mapper, at its fixed port, where the rest is
        self._start("rpcbind", "rpcbind")
        etc = self._root.inside / "etc"
        (etc / "mtab").unlink(missing_ok=True)
        (etc / "mtab").symlink_to("/proc/mounts")  # where ganesha looks for the file system
        (self._root.inside / "run/ganesha.conf").write_text(_GANESHA)
        files = ("-f", "/run/ganesha.conf", "-L", "/run/ganesha.log", "-p", "/run/ganesha.pid")
        self._start("ganesha", "ganesha.nfsd", *files)
        for program in ("nfs", "mountd"):
            self._until_answers("rpcinfo", "-T", "tcp", "127.0.0.1", program, "3")

    def _start_iscsi(self) -> None:
        self._start("tgtd", "tgtd")
        tgtadm = ("tgtadm", "--lld", "iscsi")
        target = ("--mode", "target", "--tid", "1")
        unit = ("--mode", "logicalunit", "--tid", "1", "--lun", "1")
        self._until_answers(*tgtadm, "--op", "show", "--mode", "sys")
        self._root.run(*tgtadm, "--op", "new", *target, "--targetname", TARGET)
        image = ("--backing-store", f"{EXPORT}/disk.img")
        self._root.run(*tgtadm, "--op", "new", *unit, *image)
        self._root.run(*tgtadm, "--op", "bind", *target, "--initiator-address", "ALL")

    def _start(self, name: str, *words: str) -> None:
        """Start a daemon; it would keep the pipes of `run` open, so it writes to a log."""
        log = f"/run/{name}.log"
        script = '"$@" >>"$0" 2>&1 </dev/null || { cat "$0" >&2; exit 1; }'
        self._root.run("sh", "-c", script, log, *words)

    def _until_answers(self, *words: str) -> None:
        def answers() -> bool:
            return self._root.run(*words, check=False).returncode == 0

        _wait(f"an answer to {' '.join(words)}", answers)


@contextmanager
def data_servers(base: Path, scratch: Path) -> Iterator[DataServers]:
    """The servers, in a copy of their base below `scratch`, until the block ends."""
    with ThrowawayRoot.copy_of(base, scratch) as root:
        servers = DataServers(root)
        servers.start()
        yield servers


def _own_network(root: ThrowawayRoot) -> Path:
    """A network namespace that lasts as long as `root`, as a path that nsenter takes."""
    background = 'unshare --net sh -c "$1" >/dev/null 2>&1 </dev/null &'
    root.run("sh", "-c", background, "sh", _HOLD_NETWORK)
    told = root.inside / "run/network"
    _wait("a network", lambda: told.exists() and told.read_text().endswith("\n"))
    return root.inside / f"proc/{int(told.read_text())}/ns/net"


def _wait(what: str, sign: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not sign():
        if time.monotonic() > deadline:
            raise LabError(f"waited in vain for {what}")
        time.sleep(0.02)
