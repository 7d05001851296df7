# SPDX-License-Identifier: Apache-2.0
"""A throwaway process that does what a test asks of it, and can be looked at from outside."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from holdover.model import Build, Process
from holdover.procfs import ProcFs
from holdover.steps.deliver import environment

__all__ = ["VARIABLE", "Scratch", "running", "until"]

VARIABLE = "SCRATCH_MODULE_DIR"
PATIENCE = 60.0  # seconds until something that should happen is taken for something that never will

#: What runs in the process. Each line that it reads is an expression, and is answered by its repr.
#: PyDLL keeps Python's lock: the string that getenv returned is copied before another thread runs.
AGENT = """
import ctypes, mmap, os, subprocess, sys, threading
libc = ctypes.PyDLL(None, use_errno=True)
libc.getenv.restype = ctypes.c_char_p

def getenv(name):
    return libc.getenv(name.encode())

def setenv(name, value):
    return libc.setenv(name.encode(), value.encode(), 1)

def fill(count):
    return sum(setenv(f"FILL_{n}", "x") for n in range(count))

def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout

class Child:
    def __init__(self):
        (self.answers, answers), (questions, self.questions) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            os.close(self.questions)
            while name := os.read(questions, 100):
                os.write(answers, repr(getenv(name.decode())).encode())
            os._exit(0)
        os.close(questions)

    def getenv(self, name):
        os.write(self.questions, name.encode())
        return eval(os.read(self.answers, 4096))

class Busy:
    def __init__(self, work, threads=1):
        self.seen, self.rounds, self.ending = set(), 0, False
        self.threads = [threading.Thread(target=self.run, args=(work,)) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, work):
        while not self.ending:
            self.seen.add(work())
            self.rounds += 1

    def end(self):
        self.ending = True
        for thread in self.threads:
            thread.join()
        return self.seen

class Setter:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        name, value = f"OWN_{self.count % 4}", str(self.count % 1000)
        setenv(name, value)
        return getenv(name) == value.encode()

def keep(**values):
    globals().update(values)

print("'ready'", flush=True)
while line := sys.stdin.readline():
    print(repr(eval(line)), flush=True)
"""


def until(condition: Callable[[], bool]) -> None:
    """Come back when `condition` holds; fail if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.001)


def running(pid: int, proc: ProcFs | None = None) -> Process:
    """What a scan would know of process `pid`, as far as a delivery asks for it."""
    proc = proc or ProcFs()
    return Process(
        id=proc.identity(pid),
        name="scratch",
        executable=Path(proc.link(pid, "exe")),
        executable_file=proc.file_of(pid, "exe"),
        replaced=False,
        build=Build("scratch", "", "", "", ()),
    )


class Scratch:
    """A context manager: whatever happens in it, the process is gone afterwards."""

    def __init__(self, *wrapper: str, **variables: str) -> None:
        self.proc = ProcFs()
        self._popen = subprocess.Popen(
            [*wrapper, *self.command()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **variables},
        )
        self.pid = self._popen.pid

    def command(self) -> list[str]:
        return [os.path.realpath(sys.executable), "-I", "-S", "-c", AGENT]

    def __enter__(self) -> Self:
        try:
            assert self._answer() == "ready"
            self.process = running(self.pid, self.proc)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        self._popen.kill()
        self._popen.communicate()

    # -- from inside -------------------------------------------------------------------------------

    def ask(self, expression: str) -> object:
        """What `expression` is in the process."""
        self.send(expression)
        return self._answer()

    def send(self, expression: str) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(expression + "\n")

    def _answer(self) -> object:
        assert self._popen.stdout is not None
        line = self._popen.stdout.readline()
        assert line, f"the process died: {self._popen.wait()}"
        return ast.literal_eval(line)

    def getenv(self, name: str = VARIABLE) -> str | None:
        """What libc's getenv says in there."""
        value = self.ask(f"getenv({name!r})")
        assert value is None or isinstance(value, bytes)
        return None if value is None else value.decode()

    def become_itself(self) -> None:
        """The process executes its own executable anew: same pid, same start time, same file."""
        self.send(f"os.execv({self.command()[0]!r}, {self.command()!r})")
        assert self._answer() == "ready"

    # -- from outside ------------------------------------------------------------------------------

    def deliver(self, view: str) -> None:
        environment.deliver(self.proc, self.process, VARIABLE, Path(view))

    def release(self) -> None:
        environment.release(self.proc, self.process, VARIABLE)

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def state(self) -> str:
        return self.proc.stat(self.pid).state

    def stop(self) -> None:
        self.signal(signal.SIGSTOP)
        until(lambda: self.state() == "T")

    def stop_in_its_code(self) -> None:
        """Not in a system call: it has to be busy."""
        while True:
            self.stop()
            if self.proc.read(self.pid, "syscall").startswith("-1"):
                return
            self.signal(signal.SIGCONT)

    def writable_memory(self) -> dict[int, bytes]:
        """All that it could write to; it waits for us, so nothing of it changes by itself."""
        until(lambda: self.state() in "STt")
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:
            return {
                m.start: os.pread(memory.fileno(), m.end - m.start, m.start)
                for m in self.proc.maps(self.pid)
                if m.readable_and_writable
            }
