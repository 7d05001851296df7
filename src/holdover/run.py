# SPDX-License-Identifier: Apache-2.0
"""The one place that runs commands: stdin closed, a fixed environment, errors one can paste.

Nothing of a target process's environment ever gets in here.
"""

import os
import select
import shlex
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from holdover.errors import CommandError

__all__ = ["run", "Done", "reading", "end_of_output", "watch", "Watched", "background"]
__all__ += ["ENVIRONMENT"]

Done = subprocess.CompletedProcess[str]
_MOST_WATCHED = 1 << 24  # bytes

ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}


def run(
    *command: str | os.PathLike[str],
    check: bool = True,
    text: str | None = None,
    timeout: float | None = None,
) -> Done:
    """Run a command to its end; `text` goes to its stdin, `timeout` is in seconds.

    Raises `CommandError` if it cannot be started, fails (with `check`), or takes too long.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env=dict(ENVIRONMENT),
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"took more than {timeout} s: {_pastable(command)}") from error
    if check and done.returncode != 0:
        output = (done.stderr.strip() or done.stdout.strip())[-2000:]
        raise CommandError(f"failed with {done.returncode}: {_pastable(command)}", hint=output)
    return done


@contextmanager
def reading(
    *command: str | os.PathLike[str], source: os.PathLike[str] | str = os.devnull
) -> Iterator[IO[bytes]]:
    """What a command writes to stdout, as it comes; for output that is no text, or too long.

    The file `source` is its stdin.
    Raises `CommandError` if it cannot be started, or fails although all was read.
    """
    with tempfile.TemporaryFile() as said, open(source, "rb") as stdin:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command, stdin=stdin, stdout=pipe, stderr=said, env=dict(ENVIRONMENT)
            )
        except FileNotFoundError as error:
            raise CommandError(f"{command[0]} is not installed") from error
        assert process.stdout is not None
        try:
            with process.stdout as output:
                yield output
                while output.read(1 << 16):
                    pass  # what its reader does not need, or it dies of a closed pipe
            if process.wait() != 0:
                said.seek(0)
                told = said.read().decode("utf-8", "replace").strip()[-2000:]
                message = f"failed with {process.returncode}: {_pastable(command)}"
                raise CommandError(message, hint=told)
        finally:
            process.kill()
            process.wait()


def end_of_output(*command: str, most: int, timeout: float) -> bytes:
    """The last bytes that a command writes to stdout, `most` of them, however many it writes.

    Raises `CommandError` as `run`.
    """
    deadline = time.monotonic() + timeout
    blocks, size = deque[bytes](), 0
    with reading(*command) as output:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                raise CommandError(f"took more than {timeout} s: {_pastable(command)}")
            block = os.read(output.fileno(), 1 << 16)
            if not block:
                break
            blocks.append(block)
            size += len(block)
            while size - len(blocks[0]) >= most:
                size -= len(blocks.popleft())
    return b"".join(blocks)[-most:]


@dataclass(frozen=True, slots=True)
class Watched:
    """What a command wrote to stdout and stderr, in order, and how it ended."""

    output: str
    code: int | None
    """None if its time was up, or if it wrote more than anybody will read."""


def watch(*command: str, text: str, timeout: float, most: int = _MOST_WATCHED) -> Watched:
    """Run a command that may fail or hang; after `timeout` seconds, or `most` bytes, it is killed.

    Raises `CommandError` if it cannot be started.
    """
    deadline = time.monotonic() + timeout
    with tempfile.TemporaryFile() as heard:
        heard.write(text.encode())
        heard.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=heard,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(ENVIRONMENT),
            )
        except FileNotFoundError as error:
            raise CommandError(f"{command[0]} is not installed") from error
    try:
        output, ended = _beginning(process, deadline, most)
        code = process.wait(max(0.0, deadline - time.monotonic())) if ended else None
    except subprocess.TimeoutExpired:
        code = None
    finally:
        process.kill()
        process.communicate()
    return Watched(output.decode("utf-8", "replace"), code)


def _beginning(process: subprocess.Popen[bytes], deadline: float, most: int) -> tuple[bytes, bool]:
    """What it writes until then, and whether that is all."""
    assert process.stdout is not None
    output = bytearray()
    while len(output) < most:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return bytes(output), False
        block = os.read(process.stdout.fileno(), 1 << 16)
        if not block:
            return bytes(output), True
        output += block
    return bytes(output), False


@contextmanager
def background(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs until the block ends."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=dict(ENVIRONMENT)
        )
    except FileNotFoundError as error:
        raise CommandError(f"{command[0]} is not installed") from error
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _pastable(command: Sequence[str | os.PathLike[str]]) -> str:
    return shlex.join(os.fspath(word) for word in command)
