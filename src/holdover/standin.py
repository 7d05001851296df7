# SPDX-License-Identifier: Apache-2.0
"""Run a stand-in for a live process where it can reach nothing, and hear what it says.

It is made of copies of the very files that the process was started from, in a file system in
memory that exists in a mount namespace of its own: whatever kills whom, the kernel takes it all
away with the last process, and nothing is ever written to a disk. The stand-in has no network, sees
no other process, has no capability and cannot get any, and finds /run, /tmp and /dev empty but for
what every program needs.

Source: unshare(1), setpriv(1), prlimit(1), core(5).
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from holdover.errors import CommandError, UnsupportedError, VanishedError
from holdover.identity import ProcessId
from holdover.loaded import start_up
from holdover.model import Process
from holdover.procfs import ProcFs
from holdover.run import watch
from holdover.trust import distrust_file

__all__ = ["Ending", "run_stand_in"]

_NOBODY = "65534"
_PLACE = "/tmp/stand-in"
_LOADER = f"{_PLACE}/ld.so"
_READY = "holdover: the stand-in begins"
_SPARE = 64 << 20  # bytes in memory for what the stand-in writes

# $1 is the size of the file system in bytes; then pairs of file and name; then "--", the command.
_STAGE = f"""
set -e
umask 022
mount -t tmpfs -o "mode=1777,nosuid,nodev,size=$1" stand-in /tmp
shift
mkdir /tmp/stand-in /tmp/dev
while [ "$1" != -- ]; do
    cat "$1" > "/tmp/stand-in/$2"
    shift 2
done
shift
chmod a+x {_LOADER}
for device in null zero random urandom; do
    : > "/tmp/dev/$device"
    mount --bind "/dev/$device" "/tmp/dev/$device"
done
mount --rbind /tmp/dev /dev
for hidden in /run /var/tmp; do
    test -d "$hidden" || continue
    mount -t tmpfs -o mode=755,nosuid,nodev,noexec,size=1m stand-in "$hidden"
done
mount -t proc proc /proc  # of the new namespace: until here it was the one that holdover sees
cd /tmp
echo {shlex.quote(_READY)}
"$@" || exit $?
"""

# as process 1 of a namespace, the shell takes everything with it when it ends, however it ends
_ISOLATED = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--net", "--ipc", "--uts", "--pid", "--fork", "--kill-child"),
    *("sh", "-c", _STAGE, "sh"),
)
_UNPRIVILEGED = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"),
    *("prlimit", "--core=1"),  # with 0, a collector of core dumps would still be started
)
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/tmp", "TMPDIR": "/tmp"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stand-in ended, and what it and its dynamic linker said, in order."""

    output: str
    code: int | None
    """As a shell has it: 128 and more is a signal. None if it did not end in time."""


def run_stand_in(
    proc: ProcFs,
    process: Process,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    *,
    text: str,
    timeout: float,
) -> Ending:
    """Start a stand-in for `process` and wait for its end, at most `timeout` seconds.

    `variables` are added to a fixed environment, of the process's own nothing; `text` goes to
    stdin. Raises `UnsupportedError` if it cannot be told what the process was made of, or if
    others than root may have made some of it, `VanishedError` if it ended, `CommandError` if no
    stand-in can be started here.
    """
    name = process.executable.name
    files = _files(proc, process.id, name)
    room = _size(process.id, files) + _SPARE
    environment = (f"{key}={value}" for key, value in {**_ENVIRONMENT, **variables}.items())
    ended = watch(
        *(*_ISOLATED, str(room), *(word for path, to in files for word in (str(path), to)), "--"),
        *(*_UNPRIVILEGED, "env", "-i", *environment),
        *(_LOADER, "--library-path", _PLACE, f"{_PLACE}/{name}", *arguments),
        text=text,
        timeout=timeout,
    )
    preparation, ready, output = ended.output.partition(f"{_READY}\n")
    if not proc.is_alive(process.id):
        raise VanishedError(f"process {process.id.pid} ended while a stand-in for it was made")
    if not ready:
        raise CommandError(
            f"a stand-in for process {process.id.pid} could not be made",
            hint=preparation.strip()[-500:] or "the machine is too slow, or namespaces are denied",
        )
    return Ending(output, ended.code)


def _files(proc: ProcFs, process: ProcessId, name: str) -> tuple[tuple[Path, str], ...]:
    """What to copy, and under which name: root does it, so no name may lead elsewhere."""
    made_of = start_up(proc, process.pid)
    libraries = tuple((path, soname) for soname, path in made_of.libraries)
    odd = next(
        (soname for _, soname in libraries if Path(soname).name != soname or soname == ".."), None
    )
    if odd is not None:
        raise UnsupportedError(f"process {process.pid}: its library {odd!r} has no file name")
    own = ((proc.path(process.pid, "exe"), name), (made_of.loader, Path(_LOADER).name))
    return (*own, *libraries)


def _size(process: ProcessId, files: Iterable[tuple[Path, str]]) -> int:
    """Of all of them, which only root may have written: a user's code is run by nobody but him.

    Without rights it would still have what comes with root's session, its keyring for one.
    """
    size = 0
    for path, name in files:
        try:
            found = path.stat()
        except FileNotFoundError as error:
            raise VanishedError(f"process {process.pid} ended") from error
        if problem := distrust_file(found):
            raise UnsupportedError(f"process {process.pid}: its {name} is not run: {problem}")
        size += found.st_size
    return size
