# SPDX-License-Identifier: Apache-2.0
"""Reading /proc: the parsers on text, and the reader on a directory that looks like /proc."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.errors import MalformedError, UnreadableError, VanishedError
from holdover.held import Lease
from holdover.identity import FileId, ProcessId
from holdover.procfs import Mapping, ProcFs, Stat, open_regular, parse_maps, parse_stat

LINE = "7f00-7f10 rw-p 00001000 fd:01 1234                       /usr/lib/libc.so.6"
PID = 42


def stat_text(name: str = "qemu", *, state: str = "S", start: int = 777, brk: int = 4096) -> str:
    numbers = list(range(4, 53))
    numbers[22 - 4], numbers[47 - 4] = start, brk
    return f"{PID} ({name}) {state} {' '.join(map(str, numbers))}\n"


# -- stat ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "qemu",
        "",
        "a b",
        "CPU 0/KVM",
        "(sd-pam)",
        ")",
        ") R 1 2 3",
        "a) S (b",
        "a\nb",
        "\n) Z 1",
        "é",
    ],
)
def test_the_name_may_hold_anything(name: str) -> None:
    assert parse_stat(stat_text(name)) == Stat("S", 4, 777, 4096)


@given(st.text(max_size=15), st.sampled_from("RSDZTtXI"), st.integers(0, 2**64 - 1))
def test_any_name_leaves_the_fields_what_they_are(name: str, state: str, start: int) -> None:
    assert parse_stat(stat_text(name, state=state, start=start)) == Stat(state, 4, start, 4096)


@pytest.mark.parametrize(
    "text",
    ["", "42", "42 (qemu", "42 (qemu)", "42 (qemu) S 1 2 3", stat_text().replace("777", "x")],
)
def test_a_stat_that_makes_no_sense_is_malformed(text: str) -> None:
    with pytest.raises(MalformedError, match="stat makes no sense"):
        parse_stat(text)


@given(st.one_of(st.text(), st.text(alphabet=") 19S\n", min_size=90)))
def test_any_stat_is_read_or_malformed(text: str) -> None:
    try:
        parse_stat(text)
    except MalformedError:
        return


# -- maps ------------------------------------------------------------------------------------------


def path_of(written: str) -> str:
    (found,) = parse_maps(f"7f00-7f10 r-xp 00000000 fd:01 1234    {written}\n")
    return found.path


def test_a_mapping_has_all_its_fields() -> None:
    file = FileId(os.makedev(0xFD, 1), 1234)
    expected = Mapping(0x7F00, 0x7F10, "rw-p", 0x1000, file, "/usr/lib/libc.so.6")
    assert parse_maps(LINE) == (expected,)


@pytest.mark.parametrize(
    "path",
    [
        "/usr/bin/qemu-system-x86_64 (deleted)",
        "/srv/my  guests/a b",
        "/memfd:pc.ram (deleted)",
        "/dev/zero (deleted)",
        "[heap]",
        "[anon:name of it]",
        "anon_inode:[io_uring]",
        "/a\\012b",
        "/a ",
        "/é\udcff",
    ],
)
def test_the_path_is_all_that_follows(path: str) -> None:
    assert path_of(path) == path


@pytest.mark.parametrize("end", ["", " ", "\n", " \n"])
def test_an_anonymous_mapping_has_no_path(end: str) -> None:
    (found,) = parse_maps("7f00-7f10 rw-p 00000000 00:00 0" + end)
    assert found.path == ""
    assert found.file == FileId(0, 0)


@pytest.mark.parametrize("character", ["\r", "\t", "\x0b", "\x0c", "\x1c", "\x85", "\u2028"])
def test_only_a_newline_ends_a_line(character: str) -> None:
    """The kernel does not escape these, and anybody may name a file that is mapped."""
    assert path_of(f"/a{character}b") == f"/a{character}b"


def test_a_file_name_cannot_forge_a_mapping() -> None:
    assert len(parse_maps(f"{LINE}\x0b{LINE}\n")) == 1


@pytest.mark.parametrize(
    ("permissions", "both"), [("rw-p", True), ("rw-s", True), ("r--p", False), ("-w-p", False)]
)
def test_a_mapping_is_readable_and_writable_or_not(permissions: str, both: bool) -> None:
    (found,) = parse_maps(LINE.replace("rw-p", permissions))
    assert found.readable_and_writable is both


@pytest.mark.parametrize(
    "line",
    [
        "",
        "7f00 rw-p 0 fd:01 1 /x",
        "7f00-7f10-7f20 rw-p 0 fd:01 1 /x",
        "zz-7f10 rw-p 0 fd:01 1 /x",
        "7f00-7f10 rw-p 0 fd01 1 /x",
        "7f00-7f10 rw-p 0 fd:01 x /x",
        "7f00-7f10 rw-p g fd:01 1 /x",
        "7f00-7f10 rw-p 0 fd:01",
        f"7f00-7f10 rw-p 0 {'f' * 30}:01 1 /x",
    ],
)
def test_a_line_that_is_none_is_malformed(line: str) -> None:
    with pytest.raises(MalformedError, match="maps"):
        parse_maps(f"{LINE}\n{line}\n")


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="0f-: x\n"),
        st.tuples(*[st.text(alphabet="0f-:+_ x", max_size=40)] * 6).map(" ".join),
        st.from_regex(r"[0-9a-f]+-[0-9a-f]+ rw-p [0-9a-f]+ -?[0-9a-f]+:-?[0-9a-f]+ -?[0-9]+ .*"),
    )
)
def test_any_maps_are_read_or_malformed(text: str) -> None:
    try:
        parse_maps(text)
    except MalformedError:
        return


# -- the reader ------------------------------------------------------------------------------------


@pytest.fixture
def proc(tmp_path: Path) -> ProcFs:
    """One process that lives."""
    process = tmp_path / str(PID)
    for directory in ("task/42", "task/43", "ns"):
        (process / directory).mkdir(parents=True)
    (process / "stat").write_text(stat_text())
    (process / "maps").write_text(LINE + "\n")
    (process / "ns/mnt").touch()
    (tmp_path / "program").touch()
    (process / "exe").symlink_to(tmp_path / "program")
    (tmp_path / "self").symlink_to("7")
    (tmp_path / "uptime").write_text("100.50 200.00\n")
    return ProcFs(tmp_path)


def replace_stat(proc: ProcFs, text: str) -> None:
    proc.path(PID, "stat").write_text(text)


def test_processes_are_the_numbers(proc: ProcFs) -> None:
    assert proc.pids() == [PID]


def test_threads_are_the_tasks(proc: ProcFs) -> None:
    assert sorted(proc.threads(PID)) == [42, 43]


def test_without_proc_nothing_is_read(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="cannot be read"):
        ProcFs(tmp_path / "missing").pids()


def test_our_own_pid_is_what_this_proc_says(proc: ProcFs) -> None:
    assert proc.own_pid == 7


def test_a_proc_that_does_not_know_us_is_unreadable(tmp_path: Path) -> None:
    """As it is when this /proc belongs to a pid namespace that we are not in."""
    with pytest.raises(UnreadableError):
        _ = ProcFs(tmp_path).own_pid


def test_identity_is_pid_and_start_time(proc: ProcFs) -> None:
    assert proc.identity(PID) == ProcessId(PID, 777)


def test_maps_are_parsed(proc: ProcFs) -> None:
    assert proc.maps(PID) == parse_maps(LINE)


def test_a_link_is_text(proc: ProcFs, tmp_path: Path) -> None:
    assert proc.link(PID, "exe") == str(tmp_path / "program")


def test_a_file_is_told_by_device_and_inode(proc: ProcFs, tmp_path: Path) -> None:
    found = (tmp_path / "program").stat()
    assert proc.file_of(PID, "exe") == FileId(found.st_dev, found.st_ino)


def test_a_namespace_is_told_by_its_inode(proc: ProcFs) -> None:
    assert proc.namespace(PID) == proc.path(PID, "ns/mnt").stat().st_ino


def test_an_open_file_is_read_as_bytes(proc: ProcFs) -> None:
    with proc.open(PID, "maps") as file:
        assert file.read() == LINE.encode() + b"\n"


def test_bytes_that_are_no_utf_8_survive(proc: ProcFs) -> None:
    proc.path(PID, "cmdline").write_bytes(b"a\xff\0b")
    assert os.fsencode(proc.read(PID, "cmdline")) == b"a\xff\0b"


def test_age_is_counted_from_the_start(proc: ProcFs) -> None:
    replace_stat(proc, stat_text(start=100 * os.sysconf("SC_CLK_TCK")))
    assert proc.age(PID) == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "soon"])
def test_an_uptime_that_makes_no_sense_is_unreadable(
    proc: ProcFs, tmp_path: Path, text: str
) -> None:
    (tmp_path / "uptime").write_text(text)
    with pytest.raises(UnreadableError, match="uptime"):
        proc.age(PID)


def test_the_boot_id_is_read_without_its_newline(proc: ProcFs, tmp_path: Path) -> None:
    (tmp_path / "sys/kernel/random").mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("c0ffee\n")
    assert proc.boot_id() == "c0ffee"


def test_a_missing_boot_id_is_unreadable(proc: ProcFs) -> None:
    with pytest.raises(UnreadableError, match="boot id"):
        proc.boot_id()


def ask(proc: ProcFs, pid: int, what: str) -> object:
    questions: dict[str, Callable[[int], object]] = {
        "stat": proc.stat,
        "maps": proc.maps,
        "identity": proc.identity,
        "threads": proc.threads,
        "age": proc.age,
        "namespace": proc.namespace,
        "link": lambda number: proc.link(number, "exe"),
        "file": lambda number: proc.file_of(number, "exe"),
        "open": lambda number: proc.open(number, "exe"),
    }
    return questions[what](pid)


EVERYTHING = "stat maps identity threads age namespace link file open".split()


@pytest.mark.parametrize("what", EVERYTHING)
def test_a_process_that_ended_has_vanished(proc: ProcFs, what: str) -> None:
    with pytest.raises(VanishedError, match="process 1000 "):
        ask(proc, 1000, what)


@pytest.mark.parametrize("what", EVERYTHING)
def test_what_the_kernel_refuses_is_unreadable_and_never_empty(
    proc: ProcFs, tmp_path: Path, what: str
) -> None:
    """A link that leads to itself is refused to root, too."""
    (tmp_path / "66").symlink_to("66")
    with pytest.raises(UnreadableError, match="process 66: .* cannot be read") as caught:
        ask(proc, 66, what)
    assert "as root" in caught.value.hint


@pytest.mark.parametrize("name", ["stat", "maps"])
def test_an_empty_answer_is_that_of_a_process_that_ended(proc: ProcFs, name: str) -> None:
    proc.path(PID, name).write_text("")
    with pytest.raises(VanishedError):
        ask(proc, PID, name)


def test_a_process_without_executable_has_vanished(proc: ProcFs) -> None:
    proc.path(PID, "exe").unlink()
    with pytest.raises(VanishedError, match="exe"):
        proc.link(PID, "exe")


# -- is_alive --------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list("RSDTtIP"))
def test_a_process_in_this_state_is_alive(proc: ProcFs, state: str) -> None:
    replace_stat(proc, stat_text(state=state))
    assert proc.is_alive(ProcessId(PID, 777))


@pytest.mark.parametrize("state", list("ZXx"))
def test_a_zombie_is_not_alive(proc: ProcFs, state: str) -> None:
    replace_stat(proc, stat_text(state=state))
    assert not proc.is_alive(ProcessId(PID, 777))


def test_another_process_with_the_same_number_is_not_alive(proc: ProcFs) -> None:
    assert not proc.is_alive(ProcessId(PID, 776))


@pytest.mark.parametrize("pid", [1000, PID])
def test_a_process_that_is_not_there_is_not_alive(proc: ProcFs, pid: int) -> None:
    replace_stat(proc, "")
    assert not proc.is_alive(ProcessId(pid, 777))


def test_a_process_that_cannot_be_read_is_not_taken_for_dead(proc: ProcFs) -> None:
    proc.path(PID, "stat").unlink()
    proc.path(PID, "stat").mkdir()
    assert proc.is_alive(ProcessId(PID, 777))


def test_the_real_proc_knows_this_very_process() -> None:
    proc = ProcFs()
    assert proc.own_pid == os.getpid()
    assert proc.is_alive(proc.identity(os.getpid()))
    assert any(
        mapping.file == proc.file_of(os.getpid(), "exe") for mapping in proc.maps(os.getpid())
    )


def test_children_run_the_same_and_nobody_else_is_asked_who_forked_him(tmp_path: Path) -> None:
    """Who hangs in execve keeps a reader of his stat waiting: here a pipe does."""
    for pid, program, parent in ((4, "postgres", 1), (5, "postgres", 4), (6, "postgres", 1)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / f"{pid}/exe").symlink_to(tmp_path / program)
        text = stat_text().replace(" S 4 ", f" S {parent} ")
        (tmp_path / f"{pid}/stat").write_text(text)
    (tmp_path / "7").mkdir()
    (tmp_path / "7/exe").symlink_to(tmp_path / "other")
    os.mkfifo(tmp_path / "7/stat")
    assert ProcFs(tmp_path).children({4}) == [5]
    assert ProcFs(tmp_path).children(set()) == []
    assert ProcFs(tmp_path).children({99}) == []


def test_the_owner_of_a_process_is_its_effective_user() -> None:
    assert ProcFs().owner(os.getpid()) == os.geteuid()


# -- what a process says that means harm -----------------------------------------------------------


@pytest.mark.parametrize("name", ["environ", "cmdline", "maps"])
def test_what_is_longer_than_any_real_one_is_not_read_to_its_end(proc: ProcFs, name: str) -> None:
    """A process may move the bounds of its environment; prctl(2), PR_SET_MM."""
    path = proc.path(PID, name)
    path.touch()
    os.truncate(path, 2**42)
    with pytest.raises(UnreadableError, match=f"{name} is longer"):
        proc.read(PID, name)


def mapped(proc: ProcFs, target: Path) -> Mapping:
    mapping = Mapping(0x1000, 0x2000, "r-xp", 0, FileId(1, 1), "/usr/lib/libq.so")
    link = proc.path(PID, "map_files/1000-2000")
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target)
    return mapping


def test_the_very_file_that_is_mapped_is_opened(proc: ProcFs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    file = proc.open_mapped(PID, mapped(proc, tmp_path / "file"))
    assert file is not None
    with file:
        assert file.read() == b"text"


def test_a_mapping_that_is_gone_has_vanished(proc: ProcFs, tmp_path: Path) -> None:
    with pytest.raises(VanishedError):
        proc.open_mapped(PID, mapped(proc, tmp_path / "gone"))


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_device(path: Path) -> None:
    path.symlink_to("/dev/tty")  # to open it would fail, or do something


@pytest.mark.parametrize("make", [make_pipe, make_device, Path.mkdir])
def test_only_regular_files_are_opened(
    proc: ProcFs, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "odd")
    assert open_regular(tmp_path / "odd") is None
    assert proc.open_mapped(PID, mapped(proc, tmp_path / "odd")) is None


# -- leases: of this boot, and counted as we count -------------------------------------------------

BOOT = "f3a0d2de-boot"


@pytest.fixture
def world(proc: ProcFs) -> ProcFs:
    """This /proc, with a boot id and namespaces of ours."""
    boot = proc.root / "sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text(f"{BOOT}\n")
    for kind in ("pid", "time"):
        link = proc.path(proc.own_pid, f"ns/{kind}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.touch()
    return proc


def lease_of(proc: ProcFs, boot: str | None = None, namespaces: str | None = None) -> Lease:
    own = proc.world
    process = ProcessId(PID, 777)
    world = (own[0] if boot is None else boot, own[1] if namespaces is None else namespaces)
    return Lease(process, "qemu-x", "guest", "environment", *world)


def test_the_world_is_the_boot_and_both_namespaces_that_count(world: ProcFs) -> None:
    boot, namespaces = world.world
    assert boot == BOOT
    assert namespaces == " ".join(
        f"{kind} {world.path(world.own_pid, f'ns/{kind}').stat().st_ino}"
        for kind in ("pid", "time")
    )


def test_the_world_of_a_kernel_without_time_namespaces(world: ProcFs) -> None:
    world.path(world.own_pid, "ns/time").unlink()
    assert world.world[1].startswith("pid ")
    assert "time" not in world.world[1]


def test_the_lease_of_a_process_of_this_world_is_judged(world: ProcFs) -> None:
    assert world.is_alive_in(lease_of(world)) is True
    world.path(PID, "stat").write_text(stat_text(start=778))
    assert world.is_alive_in(lease_of(world)) is False


def test_the_lease_of_an_earlier_boot_is_dead_although_pid_and_start_time_came_again(
    world: ProcFs,
) -> None:
    assert world.is_alive_in(lease_of(world, boot="an earlier one")) is False
    assert world.is_alive_in(lease_of(world, boot="an earlier one", namespaces="pid 1")) is False


@pytest.mark.parametrize("namespaces", ["pid 1 time 2", "pid 1"])
def test_the_lease_of_another_namespace_is_judged_by_nobody(world: ProcFs, namespaces: str) -> None:
    assert world.is_alive_in(lease_of(world, namespaces=namespaces)) is None
    world.path(PID, "stat").unlink()
    assert world.is_alive_in(lease_of(world, namespaces=namespaces)) is None


def test_a_lease_that_does_not_say_where_it_counts_counts_here(world: ProcFs) -> None:
    assert world.is_alive_in(lease_of(world, boot="", namespaces="")) is True


def test_nobody_is_dead_because_the_boot_id_cannot_be_read(proc: ProcFs) -> None:
    assert proc.world[0] == ""
    assert proc.is_alive_in(lease_of(proc, boot=BOOT)) is True


# -- one answer for each file ----------------------------------------------------------------------


def test_a_file_is_asked_once_however_many_links_lead_to_it(proc: ProcFs, tmp_path: Path) -> None:
    asked: list[bytes] = []
    other = proc.root / "43"
    other.mkdir()
    (tmp_path / "file").write_text("one")
    for directory in (proc.path(PID, "link"), other / "link"):
        directory.symlink_to(tmp_path / "file")

    def read(file: BinaryIO) -> int:
        asked.append(file.read())
        return len(asked)

    assert (proc.answer(PID, "link", read), proc.answer(43, "link", read)) == (1, 1)
    (tmp_path / "file").write_text("two")  # in place
    os.utime(tmp_path / "file", (0, 0))
    assert (proc.answer(PID, "link", read), proc.answer(43, "link", read)) == (2, 2)
    assert asked == [b"one", b"two"]


def test_what_is_no_regular_file_is_not_asked_and_what_is_gone_has_vanished(
    proc: ProcFs, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    proc.path(PID, "link").symlink_to(tmp_path / "fifo")
    assert proc.answer(PID, "link", lambda file: file.read()) is None
    with pytest.raises(VanishedError):
        proc.answer(PID, "gone", lambda file: file.read())


@pytest.mark.parametrize("name", ["environ", "cmdline"])
def test_words_that_are_longer_than_exec_takes_are_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / name).touch()
    os.truncate(tmp_path / "1" / name, 1 << 23)
    with pytest.raises(UnreadableError, match="longer than any real one"):
        ProcFs(tmp_path).read(1, name)
