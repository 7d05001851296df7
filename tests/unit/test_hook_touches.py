# SPDX-License-Identifier: Apache-2.0
"""Which transactions of apt concern anybody, and which of their files."""

from pathlib import Path

import pytest

from holdover.cli.hooks import _touches
from holdover.concern import hints
from holdover.errors import UsageError
from holdover.packages import Change
from holdover.packages.aptlist import read_change

HEAD = "VERSION 3\nAPT::Architecture=amd64\n\n"
MODULES = "/usr/lib/x86_64-linux-gnu/qemu"


class Host:
    """Packages and the files that they own, and processes by what they run."""

    def __init__(self, root: Path) -> None:
        self.info, self.proc = root / "info", root / "proc"
        self.info.mkdir()
        self.proc.mkdir()

    def owns(self, package: str, *files: str) -> None:
        text = "".join(f"{file}\n" for file in ("/.", "/usr", *files))
        (self.info / f"{package}.list").write_text(text)

    def runs(self, pid: int, executable: str) -> None:
        (self.proc / str(pid)).mkdir()
        (self.proc / str(pid) / "exe").symlink_to(executable)

    def change(self, listing: str) -> Change:
        return read_change([], listing.encode(), str(self.info))

    def touched(self, *packages: str, among: tuple[str, ...]) -> list[str] | None:
        """Which of the paths the upgrade of these packages concerns; None if it concerns nobody."""
        lines = (f"{name} 1 amd64 none < 2 amd64 none /x.deb\n" for name in packages)
        touches = _touches(self.change(HEAD + "".join(lines)), hints(), str(self.proc))
        return None if touches is None else [path for path in among if touches(Path(path))]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.owns("librbd1", "/usr/lib/x86_64-linux-gnu/librbd.so.1.17.0")
    made.owns("libz1", "/lib/x86_64-linux-gnu/libz.so.1.2")
    made.owns("nginx", "/usr/sbin/nginx", "/usr/share/nginx/so.much")
    made.owns("modules", f"{MODULES}/block-rbd.so")
    made.runs(1, "/usr/lib/systemd/systemd")
    return made


LIBRBD = "/usr/lib/x86_64-linux-gnu/librbd.so.1.17.0"
LIBZ = "/usr/lib/x86_64-linux-gnu/libz.so.1.2"
PATHS = (LIBRBD, LIBZ, MODULES, "/usr/bin/qemu-system-x86_64", "/usr/lib/x86_64-linux-gnu/libq.so")


def test_library_concerns_nobody_if_no_program_runs(host: Host) -> None:
    assert host.touched("librbd1", among=PATHS) is None


@pytest.mark.parametrize(
    "executable", ["/usr/bin/qemu-system-x86_64", "/usr/bin/qemu-system-x86_64 (deleted)"]
)
def test_library_concerns_who_runs_whether_replaced_or_not(host: Host, executable: str) -> None:
    host.runs(2, executable)
    assert host.touched("librbd1", among=PATHS) == [LIBRBD]


def test_processes_that_cannot_be_looked_at_are_passed_over(host: Host) -> None:
    (host.proc / "3").mkdir()  # a kernel thread has no executable
    assert host.touched("librbd1", among=PATHS) is None
    host.runs(4, "/usr/bin/kvm")
    assert host.touched("librbd1", among=PATHS) == [LIBRBD]


def test_process_that_the_kernel_does_not_show_may_be_a_guest(host: Host) -> None:
    host.runs(3, "/usr/bin/sleep")
    (host.proc / "3/exe").unlink()
    (host.proc / "3/exe").touch()  # an error, and not that there is none
    assert host.touched("librbd1", among=PATHS) == [LIBRBD]


def test_package_may_name_its_files_without_usr(host: Host) -> None:
    host.runs(2, "/usr/bin/kvm")
    assert host.touched("libz1", among=PATHS) == [LIBZ]


def test_package_without_libraries_concerns_nobody(host: Host) -> None:
    host.runs(2, "/usr/bin/kvm")
    assert host.touched("nginx", among=PATHS) is None


def test_module_concerns_its_directory_whether_a_program_runs_or_not(host: Host) -> None:
    assert host.touched("modules", among=PATHS) == [MODULES]


def test_several_packages_concern_all_that_they_own(host: Host) -> None:
    host.runs(2, "/usr/bin/kvm")
    assert host.touched("librbd1", "nginx", "libz1", "new", among=PATHS) == [LIBRBD, LIBZ]


@pytest.mark.parametrize("package", ["qemu-system-x86", "qemu-block-extra"])
def test_package_that_a_definition_names_concerns_everything(host: Host, package: str) -> None:
    assert host.touched(package, among=PATHS) == list(PATHS)


def test_list_that_makes_no_sense_is_an_error_and_so_is_a_proc_that_is_not_there(
    host: Host, tmp_path: Path
) -> None:
    with pytest.raises(UsageError):
        host.change("")
    host.proc = tmp_path / "gone"
    with pytest.raises(FileNotFoundError):
        host.touched("librbd1", among=PATHS)
