# SPDX-License-Identifier: Apache-2.0
"""Delivery by environment, to live processes in every circumstance that we could think of."""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from lab.between import Counting, touch_here
from lab.outcomes import Record
from system.scratch import VARIABLE, Scratch, running, until

from holdover.elf import ElfFile
from holdover.environ import Layout
from holdover.errors import HoldoverError, RefusedError, UnsupportedError, VanishedError
from holdover.hashtables import HashedSymbols
from holdover.identity import FileId, ProcessId
from holdover.procfs import ProcFs
from holdover.run import run
from holdover.steps.deliver import environment

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root"),
]

VIEWS = ("/run/views/aaaaaaaaaaaaaaaa", "/run/views/bbbbbbbbbbbbbbbb")
TRACE_SEIZE, TRACE_INTERRUPT, TRACE_DETACH = 0x4206, 0x4207, 17
MARK, IMAGE, POINTER = range(3)  # the writes of a delivery


@pytest.fixture
def target() -> Iterator[Scratch]:
    with Scratch(EDITOR="vi") as made:
        yield made


@contextmanager
def unchanged(target: Scratch) -> Iterator[None]:
    before = target.writable_memory()
    yield
    assert target.writable_memory() == before


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, Callable[[], object]], None]:
    """before("write", 2, event): `event` happens right before a delivery's third write."""
    events: dict[tuple[str, int], Callable[[], object]] = {}
    counts = {"read": 0, "write": 0}

    class Interrupted(Counting):
        def before(self, kind: str) -> None:
            event = events.pop((kind, counts[kind]), None)
            counts[kind] += 1
            if event:
                event()

    def arrange(kind: str, number: int, event: Callable[[], object]) -> None:
        events[kind, number] = event
        touch_here(monkeypatch, Interrupted)

    return arrange


Before = Callable[[str, int, Callable[[], object]], None]


# -- delivery --------------------------------------------------------------------------------------


def test_delivered_value_is_what_getenv_returns(target: Scratch) -> None:
    target.deliver(VIEWS[0])
    assert target.getenv() == VIEWS[0]
    assert target.getenv("EDITOR") == "vi"
    assert target.getenv("NOBODY_SET_THIS") is None


def test_last_delivery_counts_however_many_there_were(target: Scratch) -> None:
    for number in range(20):
        target.deliver(f"/run/x{'x' * number}")
        assert target.getenv() == f"/run/x{'x' * number}"
    assert target.getenv("EDITOR") == "vi"


def test_threads_that_read_all_the_time_see_the_old_or_the_new_value(target: Scratch) -> None:
    target.ask(f"keep(busy=Busy(lambda: (getenv({VARIABLE!r}), getenv('EDITOR')), threads=4))")
    for number in range(60):
        target.deliver(VIEWS[number % 2])
    seen = target.ask("busy.end()")
    assert isinstance(seen, set)
    values = (None, *(view.encode() for view in VIEWS))
    assert seen <= {(value, b"vi") for value in values}
    assert len(seen) > 1


def test_process_that_sets_variables_all_the_time_lives_and_can_go_on(target: Scratch) -> None:
    target.ask("keep(setter=Setter())")
    target.ask("keep(busy=Busy(setter))")
    for number in range(60):
        with suppress(RefusedError):
            target.deliver(VIEWS[number % 2])
    target.ask("busy.end()")
    assert [target.ask("setter()") for _ in range(8)] == [True] * 8
    target.deliver(VIEWS[0])
    assert target.getenv() == VIEWS[0]
    assert target.getenv("EDITOR") == "vi"


def test_what_the_process_sets_afterwards_is_added_to_it(target: Scratch) -> None:
    target.deliver(VIEWS[0])
    target.ask("fill(10)")
    target.ask("setenv('EDITOR', 'ed')")
    assert (target.getenv(), target.getenv("EDITOR")) == (VIEWS[0], "ed")
    target.deliver(VIEWS[1])
    assert (target.getenv(), target.getenv("EDITOR")) == (VIEWS[1], "ed")
    assert target.getenv("FILL_9") == "x"


def test_what_the_process_unsets_afterwards_is_gone(target: Scratch) -> None:
    target.deliver(VIEWS[0])
    target.ask("libc.unsetenv(b'EDITOR')")
    target.deliver(VIEWS[1])
    assert (target.getenv(), target.getenv("EDITOR")) == (VIEWS[1], None)
    target.ask(f"libc.unsetenv({VARIABLE.encode()!r})")
    assert target.getenv() is None


# -- release ---------------------------------------------------------------------------------------


def test_release_leaves_no_value_where_there_was_none(target: Scratch) -> None:
    target.deliver(VIEWS[0])
    target.release()
    assert (target.getenv(), target.getenv("EDITOR")) == (None, "vi")


def test_release_gives_the_value_of_the_admin_back() -> None:
    with Scratch(**{VARIABLE: "/opt/mine"}) as target:
        for view in VIEWS * 2:
            target.deliver(view)
            assert target.getenv() == view
        target.release()
        assert target.getenv() == "/opt/mine"


def test_release_without_a_delivery_writes_nothing(target: Scratch) -> None:
    with unchanged(target):
        target.release()


def test_value_that_the_process_set_over_ours_survives_the_release(target: Scratch) -> None:
    target.deliver(VIEWS[0])
    target.ask(f"setenv({VARIABLE!r}, '/its/own')")
    target.release()
    assert target.getenv() == "/its/own"


# -- children --------------------------------------------------------------------------------------


def test_programs_that_it_executes_inherit_the_value(target: Scratch) -> None:
    target.deliver(VIEWS[0])
    assert target.ask(f"output('printenv', {VARIABLE!r})") == f"{VIEWS[0]}\n".encode()


def test_child_forked_before_a_delivery_is_not_touched_by_it(
    target: Scratch, record: Record
) -> None:
    target.deliver(VIEWS[0])
    target.ask("keep(child=Child())")
    target.deliver(VIEWS[1])
    target.deliver(VIEWS[1] + "-again")  # in the half that the child still uses
    assert target.ask(f"child.getenv({VARIABLE!r})") == VIEWS[0].encode()
    target.release()
    assert target.ask(f"child.getenv({VARIABLE!r})") == VIEWS[0].encode()
    record("a child that was forked before", "not touched", "")


def test_delivery_to_a_child_is_not_seen_by_its_parent(target: Scratch) -> None:
    target.deliver(VIEWS[0])
    target.ask("keep(child=Child())")
    child = target.ask("child.pid")
    assert isinstance(child, int)
    environment.deliver(target.proc, running(child), VARIABLE, Path(VIEWS[1]))
    assert target.ask(f"child.getenv({VARIABLE!r})") == VIEWS[1].encode()
    assert target.getenv() == VIEWS[0]
    environment.release(target.proc, running(child), VARIABLE)
    assert target.ask(f"child.getenv({VARIABLE!r})") is None
    assert target.getenv() == VIEWS[0]


@pytest.mark.parametrize("write", [MARK, IMAGE, POINTER])
@pytest.mark.parametrize("earlier", [0, 1, 2])
def test_child_forked_in_mid_delivery_has_the_old_value(
    target: Scratch, before: Before, write: int, earlier: int, record: Record
) -> None:
    old = [None, *VIEWS][earlier]
    for view in VIEWS[:earlier]:
        target.deliver(view)
    before("write", write, lambda: target.ask("keep(child=Child())"))
    target.deliver("/run/new")
    assert target.ask(f"child.getenv({VARIABLE!r})") == (old.encode() if old else None)
    assert target.ask("child.getenv('EDITOR')") == b"vi"
    assert target.getenv() == "/run/new"
    record("fork between two writes of a delivery", "delivered; the child keeps the old value", "")


# -- stopped, traced, confined ---------------------------------------------------------------------


def test_process_stopped_in_a_system_call_is_delivered_to_again_and_again(
    target: Scratch, record: Record
) -> None:
    target.stop()  # while it waits for a question
    for view in VIEWS * 3:
        target.deliver(view)
    target.signal(signal.SIGCONT)
    assert target.getenv() == VIEWS[-1]
    record("a process stopped in a system call", "delivered", "")


def test_process_stopped_in_its_code_is_delivered_to_until_a_half_would_be_used_again(
    target: Scratch, record: Record
) -> None:
    target.send("all(True for _ in iter(int, 1))")
    target.stop_in_its_code()
    target.deliver(VIEWS[0])
    target.deliver(VIEWS[1])
    with (
        unchanged(target),
        pytest.raises(RefusedError, match="halted in the middle of its code") as refused,
    ):
        target.deliver(VIEWS[0])
    target.signal(signal.SIGCONT)
    until(lambda: target.state() != "T")
    target.deliver(VIEWS[0])
    record(
        "a process stopped in its code, after two deliveries",
        "refused until it runs",
        refused.value.message,
    )


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """As a debugger that has attached and holds it."""
    trace = ctypes.CDLL(None, use_errno=True).ptrace
    if trace(TRACE_SEIZE, pid, None, None) != 0:
        pytest.skip(f"ptrace is not possible here: {os.strerror(ctypes.get_errno())}")
    trace(TRACE_INTERRUPT, pid, None, None)
    assert os.waitpid(pid, 0)[0] == pid
    yield
    assert trace(TRACE_DETACH, pid, None, None) == 0


def test_process_that_is_being_debugged_is_delivered_to(target: Scratch, record: Record) -> None:
    with traced(target.pid):
        assert target.state() == "t"
        target.deliver(VIEWS[0])
    assert target.getenv() == VIEWS[0]
    record("a process that a debugger has halted", "delivered", "")


@pytest.mark.parametrize(
    "confine",
    [
        pytest.param("os.chroot('/proc/self/fdinfo')", id="chroot"),
        pytest.param("libc.unshare(0x10000000)", id="user namespace"),
        pytest.param("libc.unshare(0x00020000)", id="mount namespace"),
        pytest.param("os.setgroups([]), os.setgid(65534), os.setuid(65534)", id="privileges"),
        pytest.param("libc.prctl(4, 0, 0, 0, 0)", id="not dumpable"),
        pytest.param("libc.mlockall(3)", id="locked memory"),
        pytest.param("libc.prctl(41, 1, 0, 0, 0)", id="no huge pages"),
        pytest.param(
            "__import__('resource').setrlimit(__import__('resource').RLIMIT_DATA, (0, 0))",
            id="no more data",
        ),
    ],
)
def test_confined_process_is_delivered_to(target: Scratch, confine: str) -> None:
    assert target.ask(confine) in (None, 0, (None, None, None))
    for view in VIEWS * 2:
        target.deliver(view)
        assert target.getenv() == view
    target.release()
    assert target.getenv() is None


def test_process_without_address_randomization_is_delivered_to(record: Record) -> None:
    """Its heap begins right behind .bss."""
    if run("setarch", "-R", "true", check=False).returncode != 0:
        pytest.skip("addresses are always randomized here")
    with Scratch("setarch", "-R") as target:
        target.ask("keep(busy=Busy(lambda: len(bytes(100000))))")
        for view in VIEWS * 2:
            target.deliver(view)
            assert target.getenv() == view
        assert target.ask("busy.end()") == {100000}
    record("no address randomization, memory allocated all the time", "delivered", "")


# -- it is no longer that process ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "number"),
    [("read", n) for n in range(8)] + [("write", n) for n in (MARK, IMAGE, POINTER)],
)
def test_program_executed_in_mid_delivery_is_never_written_to(
    target: Scratch, before: Before, kind: str, number: int, record: Record
) -> None:
    """It has the pid, the start time and the executable of the one that we looked at."""
    memory: dict[int, bytes] = {}

    def replace_it() -> None:
        target.become_itself()
        memory.update(target.writable_memory())

    before(kind, number, replace_it)
    with pytest.raises(VanishedError) as refused:
        target.deliver(VIEWS[0])
    assert memory
    assert target.writable_memory() == memory
    assert target.getenv() is None
    record(
        "exec between any two reads or writes",
        "refused, successor not written to",
        refused.value.message,
    )


def test_pid_that_is_another_processs_now_is_not_written_to(
    target: Scratch, record: Record
) -> None:
    found = target.process
    target.process = replace(found, id=ProcessId(found.id.pid, found.id.start_time - 1))
    with unchanged(target), pytest.raises(VanishedError, match="another's") as refused:
        target.deliver(VIEWS[0])
    record("a pid that is another process's now", "refused", refused.value.message)


def test_other_executable_than_the_one_that_was_seen_is_not_written_to(target: Scratch) -> None:
    target.process = replace(target.process, executable_file=FileId(1, 1))
    with unchanged(target), pytest.raises(VanishedError, match="something else"):
        target.deliver(VIEWS[0])


@pytest.mark.parametrize(
    ("kind", "number"), [("read", 0), ("read", 3), ("write", MARK), ("write", POINTER)]
)
def test_process_killed_in_mid_delivery_has_vanished(
    target: Scratch, before: Before, kind: str, number: int, record: Record
) -> None:
    def kill() -> None:
        target.signal(signal.SIGKILL)
        until(lambda: target.state() == "Z")

    before(kind, number, kill)
    with pytest.raises(VanishedError) as refused:
        target.deliver(VIEWS[0])
    record("a process that ends between two reads or writes", "refused", refused.value.message)


def test_process_that_ended_has_vanished(target: Scratch) -> None:
    target.signal(signal.SIGKILL)
    until(lambda: target.state() == "Z")
    with pytest.raises(VanishedError):
        target.deliver(VIEWS[0])
    target.end()
    with pytest.raises(VanishedError):
        target.deliver(VIEWS[0])


# -- the environment changes meanwhile -------------------------------------------------------------


@pytest.mark.parametrize("write", [MARK, IMAGE])
@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        ("setenv('NEW', '1')", "NEW", "1"),
        ("setenv('EDITOR', 'ed')", "EDITOR", "ed"),
        ("libc.unsetenv(b'EDITOR')", "EDITOR", None),
    ],
)
def test_change_between_two_looks_is_not_lost(
    target: Scratch, before: Before, write: int, change: str, name: str, value: str | None
) -> None:
    before("write", write, lambda: target.ask(change))
    target.deliver(VIEWS[0])
    assert target.getenv() == VIEWS[0]
    assert target.getenv(name) == value


# -- no safe way -----------------------------------------------------------------------------------


def test_process_that_cleared_its_environment_is_unsupported(target: Scratch) -> None:
    target.ask("libc.clearenv()")
    with unchanged(target), pytest.raises(UnsupportedError, match="cleared"):
        target.deliver(VIEWS[0])


def test_environment_that_needs_more_than_there_is_is_unsupported(
    target: Scratch, record: Record
) -> None:
    target.ask("fill(1000)")
    with unchanged(target), pytest.raises(UnsupportedError, match="no room") as refused:
        target.deliver(VIEWS[0])
    assert target.getenv("FILL_999") == "x"
    record("an environment that is larger than any room", "refused", refused.value.message)


def test_bytes_that_somebody_uses_after_all_are_left_alone(target: Scratch) -> None:
    taken = list(Layout(target.proc, target.pid, target.proc.maps(target.pid)).tails())
    for start, end in taken:
        target.ask(f"ctypes.memset({start + (end - start) // 2}, 1, 1) and None")
    with unchanged(target), pytest.raises(UnsupportedError, match="no room"):
        target.deliver(VIEWS[0])


def test_statically_linked_program_comes_to_no_harm(record: Record) -> None:
    """ldconfig, held up by a pipe that is full."""
    command = next(
        filter(os.access_x if False else shutil.which, ("ldconfig", "/sbin/ldconfig")), None
    )
    if command is None:
        pytest.skip("no ldconfig")
    reader, writer = os.pipe()
    os.write(writer, bytes(fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)))
    with subprocess.Popen([command, "-p"], stdout=writer) as static:
        os.close(writer)
        with open(reader, "rb") as pipe:
            until(lambda: ProcFs().stat(static.pid).state == "S")
            with pytest.raises(UnsupportedError, match="glibc") as refused:
                environment.deliver(ProcFs(), running(static.pid), VARIABLE, Path(VIEWS[0]))
            assert b"libc.so.6" in pipe.read()
    assert static.returncode == 0
    record("ldconfig, a static program of the system", "refused", refused.value.message)


# -- what the red team found -----------------------------------------------------------------------


def deliver_or_refuse(target: Scratch) -> None:
    """A delivery that is said to have worked is seen by getenv; else nothing was written."""
    before = target.writable_memory()
    try:
        target.deliver(VIEWS[0])
    except HoldoverError:
        assert target.writable_memory() == before
    else:
        assert target.getenv() == VIEWS[0]


def libc_of(target: Scratch) -> str:
    paths = (mapping.path for mapping in target.proc.maps(target.pid))
    return next(path for path in paths if path.endswith("/libc.so.6"))


def test_library_that_is_also_mapped_as_data_is_not_taken_for_the_loaded_one(
    target: Scratch,
) -> None:
    """As a profiler, libdw or libbacktrace maps it; what lies behind it is the program's own."""
    with open(libc_of(target), "rb") as file:
        symbol = HashedSymbols(ElfFile(file)).find("__environ")
        size = os.fstat(file.fileno()).st_size
    assert symbol is not None
    if symbol.value < size:
        pytest.skip("this libc's environ would be inside of the mapped file")
    target.ask("keep(map=libc.mmap64) or setattr(map, 'restype', ctypes.c_void_p)")
    target.ask("keep(none=ctypes.c_long(0), all=ctypes.c_size_t(1 << 24))")
    start = target.ask("map(none, all, 3, 0x22, -1, none)")  # rw, private, anonymous
    assert isinstance(start, int)
    address = f"ctypes.c_void_p({start})"
    file_only = f"ctypes.c_size_t({size}), 1, 0x12, os.open({libc_of(target)!r}, 0), none"
    assert target.ask(f"map({address}, {file_only})") == start  # read-only, private, fixed
    # a table with one string, where environ would be if libc were loaded there
    pointers = {symbol.value: start + 2**23, 2**23: start + 2**23 + 64}
    for offset, pointer in pointers.items():
        target.ask(f"ctypes.c_void_p.from_address({start + offset}).__init__({pointer})")
    with suppress(HoldoverError):
        target.deliver(VIEWS[0])
    for offset, pointer in pointers.items():
        assert target.ask(f"ctypes.c_void_p.from_address({start + offset}).value") == pointer
    deliver_or_refuse(target)


def test_second_libc_in_a_namespace_of_its_own_is_not_taken_for_the_first(target: Scratch) -> None:
    """dlmopen(3); LD_AUDIT does the same."""
    target.ask("keep(new=libc.dlmopen) or setattr(new, 'restype', ctypes.c_void_p)")
    if not target.ask("bool(new(ctypes.c_long(-1), b'libc.so.6', 2))"):
        pytest.skip("no dlmopen")
    deliver_or_refuse(target)


def belongs_to(target: Scratch, address: int, directory: Path) -> bool:
    """Whether the nearest file that is mapped below `address` is in `directory`."""
    below = [m for m in target.proc.maps(target.pid) if m.start <= address and "/" in m.path]
    return Path(below[-1].path).parent == directory


def test_room_is_never_taken_from_a_library_that_can_go_away(
    target: Scratch, tmp_path: Path, record: Record
) -> None:
    """A second file with the soname of a start-up library is loaded, and unloaded later."""
    target.ask("keep(loaded=[])")
    paths = {m.path for m in target.proc.maps(target.pid) if ".so" in m.path}
    for number, path in enumerate(sorted(paths)):
        if "/ld" not in path and "/libc.so" not in path:
            copy = shutil.copyfile(path, tmp_path / f"{number}.so")
            target.ask(f"loaded.append(ctypes.CDLL({str(copy)!r})._handle)")
    for start, end in Layout(target.proc, target.pid, target.proc.maps(target.pid)).tails():
        if not belongs_to(target, start, tmp_path):
            target.ask(f"ctypes.memset({start}, 1, {end - start}) and None")
    with suppress(UnsupportedError):
        target.deliver(VIEWS[0])
    target.ask("[libc.dlclose(ctypes.c_void_p(handle)) for handle in loaded]")
    assert target.getenv("EDITOR") == "vi"
    record(
        "a second file with the soname of a start-up library, unloaded later",
        "room is never taken there",
        "",
    )


@pytest.mark.parametrize("change", ["setenv('EDITOR', 'ed')", "libc.unsetenv(b'EDITOR')"])
def test_change_right_before_the_store_is_not_lost(
    target: Scratch, before: Before, change: str
) -> None:
    before("write", POINTER, lambda: target.ask(change))
    with suppress(RefusedError):
        target.deliver(VIEWS[0])
    assert target.getenv("EDITOR") != "vi"
