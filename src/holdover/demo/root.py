# SPDX-License-Identifier: Apache-2.0
"""A throwaway system: a copy of a root directory in its own mount and pid namespaces.

Everything in it dies with its init, and its init dies with us, however we die: no process and no
mount can stay. Only the directory can, after SIGKILL; the next run sweeps it.

Its "/" is a shared mount, as systemd makes it on real hosts: otherwise the rules about shared
mounts would never be met.
"""

import fcntl
import os
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import holdover
from holdover.errors import CommandError
from holdover.run import ENVIRONMENT, run

__all__ = ["ThrowawayRoot", "install_holdover", "sweep"]

_INIT = """
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys 2>/dev/null || true
mount --rbind /dev dev
mount -t tmpfs -o mode=755,exec tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mkdir -p run/lock
pivot_root . mnt
cd /
exec sh -c "$2"
"""

_INIT_INSIDE = """
set -e
umount -l mnt
mount --make-rshared /
echo ready > /run/ready
while :; do sleep 3600 & wait $!; done
"""

_SCRIPT = """\
#!/usr/bin/python3 -I
import sys
from holdover.cli.main import main
sys.exit(main())
"""


class ThrowawayRoot:
    """A running one; `root` is its directory as seen from outside, `init` its first process."""

    def __init__(self, root: Path, init: int) -> None:
        self.root = root
        self.init = init

    @classmethod
    @contextmanager
    def copy_of(cls, base: Path, scratch: Path) -> Iterator["ThrowawayRoot"]:
        """A running copy of `base` below `scratch`, which is on the same file system."""
        scratch.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            with _alone(scratch):
                directory = Path(tempfile.mkdtemp(prefix="run-", dir=scratch))
                lock = stack.enter_context((directory / "lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                _copy(base, directory / "root")
                with cls.on(directory / "root") as root:
                    yield root
            finally:
                # the lock goes last: a sweep at the same time would take the rest for a leftover
                shutil.rmtree(directory / "root", ignore_errors=True)
                with _alone(scratch):  # or a sweep would miss the lock that it has seen
                    shutil.rmtree(directory)

    @classmethod
    @contextmanager
    def on(cls, directory: Path) -> Iterator["ThrowawayRoot"]:
        """`directory` itself, running; changes stay in it."""
        shutil.copy("/etc/resolv.conf", directory / "etc/resolv.conf")
        unshare = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
        init = ("sh", "-c", _INIT, "sh", directory, _INIT_INSIDE)
        command = ("setpriv", "--pdeathsig", "KILL", *unshare, *init)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=dict(ENVIRONMENT), stdout=subprocess.DEVNULL
        )
        try:
            yield cls(directory, _wait_for_init(process))
        finally:
            process.kill()
            process.wait()

    @property
    def inside(self) -> Path:
        """The root with its mounts, as a path that works from outside."""
        return Path(f"/proc/{self.init}/root")

    def command(self, *words: str) -> tuple[str, ...]:
        """What runs `words` inside when it is run outside."""
        enter = ("nsenter", f"--target={self.init}", "--mount", "--pid", "--root", "--wd")
        return (*enter, "--", *words)

    def run(
        self, *words: str, check: bool = True, text: str | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root; raises `CommandError` if it fails and `check`."""
        return run(*self.command(*words), check=check, text=text, timeout=timeout)

    def apt(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("apt-get", "--yes", "--quiet", "--allow-downgrades", *words, check=check)


def install_holdover(root: Path, *, packages: Path | None = None, script: str = _SCRIPT) -> None:
    """Put this very holdover where a package of it would be.

    `packages` is where its Python looks for modules, and `script` starts it; the system's own by
    default.
    """
    target = (packages or root / "usr/lib/python3/dist-packages") / "holdover"
    shutil.copytree(
        Path(holdover.__file__).parent, target, ignore=shutil.ignore_patterns("__pycache__")
    )
    command = root / "usr/bin/holdover"
    command.write_text(script)
    command.chmod(0o755)


def _wait_for_init(process: subprocess.Popen[bytes]) -> int:
    """The pid of the namespace's first process, once its mounts are in place."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        found = children.read_text().split()
        if found and Path(f"/proc/{found[0]}/root/run/ready").exists():
            return int(found[0])
        time.sleep(0.01)
    raise CommandError("a throwaway root did not start", hint="are namespaces allowed here?")


def _copy(base: Path, target: Path) -> None:
    """Links for /usr, which package managers replace and never write to; real copies otherwise."""
    target.mkdir()
    for entry in base.iterdir():
        linked = ("--link",) if entry.name == "usr" else ()
        run("cp", "--archive", *linked, entry, target / entry.name)
    for path in (target / "usr").rglob("*"):
        if _wants_own_copy(path):
            _unlink_from_base(path)


def _wants_own_copy(path: Path) -> bool:
    """Set-id files, because dpkg takes the bits off before it replaces them and that would reach
    the base; modules, because what is held is told by counting links.
    """
    found = path.lstat()
    set_id = bool(found.st_mode & (stat.S_ISUID | stat.S_ISGID))
    modules = path.parent.name == "qemu" or {"lib", "postgresql"} <= {*path.parts}
    return stat.S_ISREG(found.st_mode) and (set_id or modules)


def _unlink_from_base(path: Path) -> None:
    own = path.with_name(f"{path.name}.own")
    shutil.copy2(path, own)
    found = path.stat()
    os.chown(own, found.st_uid, found.st_gid)
    own.chmod(stat.S_IMODE(found.st_mode))
    own.rename(path)


def sweep(scratch: Path) -> None:
    """Remove what killed runs left: directories whose lock nobody holds."""
    if not scratch.exists():
        return
    with _alone(scratch):
        for directory in scratch.glob("run-*"):
            with (directory / "lock").open("a") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                shutil.rmtree(directory)


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """So that nobody takes a directory for a leftover that was made, or goes, this moment."""
    handle = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
