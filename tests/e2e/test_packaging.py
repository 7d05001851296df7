# SPDX-License-Identifier: Apache-2.0
"""Packages of holdover: what they install, and what is left when they are upgraded or removed."""

import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from lab import Lab
from lab.packaged import LATER, REPOSITORY, build_rpm, build_wheel

from holdover import __version__
from holdover.demo.archive import QEMU_PACKAGES
from holdover.demo.guest import ATTACHED, DIED, REFUSED, Guest
from holdover.run import run

pytestmark = pytest.mark.e2e

WORKS, DIES = (ATTACHED, ATTACHED), (REFUSED, DIED)
DISK = "https disk"
APT_HOOK, DPKG_HOOK = "/etc/apt/apt.conf.d/90holdover", "/etc/dpkg/dpkg.cfg.d/holdover"
AT_BOOT = "/etc/tmpfiles.d/holdover-left.conf"
EVERYWHERE = ("find", "/", "-xdev", "-iname", "*holdover*", "!", "-path", "/srv/*")
ALONE = ("unshare", "--mount")


@pytest.fixture(scope="module")
def rpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_rpm(REPOSITORY, tmp_path_factory.mktemp("rpm"))


@pytest.fixture
def packaged(base: Path, scratch: Path, deb: Path) -> Iterator[Lab]:
    with Lab.with_package(base, scratch, deb) as lab:
        yield lab


def found(lab: Lab) -> list[str]:
    """Everything of holdover's that is there, /run included."""
    done = lab.root.run("sh", "-c", f"{' '.join(EVERYWHERE)}; ls -d /run/holdover", check=False)
    return done.stdout.split()


def sources() -> list[Path]:
    """Every file of the Python package, as it is called in any package."""
    root = REPOSITORY / "src"
    files = (p.relative_to(root) for p in (root / "holdover").rglob("*") if p.is_file())
    return [file for file in files if "__pycache__" not in file.parts]


def text(done: CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


# -- what is in them -------------------------------------------------------------------------------


def test_lintian_finds_no_error(deb: Path) -> None:
    done = run("lintian", "--allow-root", "--fail-on", "error", "--info", deb, check=False)
    assert done.returncode == 0, done.stdout
    assert run("lintian", "--allow-root", "--print-version").stdout.strip()


def test_deb_is_bound_to_no_python_and_depends_on_packages_of_the_distribution(deb: Path) -> None:
    fields = run("dpkg-deb", "--field", deb).stdout
    assert "\nArchitecture: all\n" in fields
    assert "python3:any (>= 3.11)" in fields
    assert "python3-rich" in fields
    names = run("dpkg-deb", "--fsys-tarfile", deb, check=False)
    assert names.returncode == 0
    listed = run("dpkg-deb", "--contents", deb).stdout
    assert "/python3." not in listed
    assert "dist-packages" not in listed
    assert " ./usr/lib/holdover" not in listed, "that is the store"


def test_both_packages_have_the_same_files(deb: Path, rpm: Path) -> None:
    def relevant(names: Iterator[str]) -> set[str]:
        other = ("/usr/share/doc/", "/usr/share/python3/", "/usr/share/zsh/")
        return {n.removesuffix(".gz") for n in names if not n.startswith(other)}

    rows = run("dpkg-deb", "--contents", deb).stdout.splitlines()
    in_deb = relevant(row.split()[5].removeprefix(".") for row in rows if row[0] != "d")
    rows = run("rpm", "--query", "--package", "-l", "-v", rpm).stdout.splitlines()
    in_rpm = relevant(row.split()[-1] for row in rows if row[0] != "d")
    assert in_deb == in_rpm
    in_modules = {name for name in in_deb if name.startswith("/usr/share/holdover/")}
    assert in_modules == {f"/usr/share/holdover/{path}" for path in sources()}


def test_wheel_has_every_file_and_runs_in_a_virtual_environment(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert not [name for name in archive.namelist() if "__pycache__" in name]
    pages = {"man8/holdover.8", "man5/holdover.toml.5"}
    beside = {f"holdover-{__version__}.data/data/share/man/{page}" for page in pages}
    assert names == {str(path) for path in sources()} | beside
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "env")
    environment = tmp_path / "env/bin"
    run(environment / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    assert __version__ in run(environment / "holdover", "--version").stdout
    code = "from holdover.programs import load_programs; print(*(p.name for p in load_programs()))"
    assert run(environment / "python", "-I", "-c", code).stdout == "postgresql qemu\n"
    assert (tmp_path / "env/share/man/man8/holdover.8").exists()


def test_rpm_is_whole_and_needs_what_it_should(rpm: Path) -> None:
    assert "digests OK" in run("rpm", "--checksig", "--nosignature", rpm).stdout
    needs = run("rpm", "--query", "--package", "--requires", rpm).stdout.splitlines()
    assert {"python3 >= 3.11", "python3-rich", "/usr/bin/python3"} <= set(needs)


def test_package_that_says_another_version_than_its_code_is_not_built(
    tmp_path: Path, later: Path
) -> None:
    tree = tmp_path / "tree"
    run("cp", "-R", later, tree)
    file = tree / "src/holdover/__init__.py"
    file.write_text(file.read_text().replace(LATER, "98.0"))
    for script in ("build-deb", "build-rpm"):
        assert run(tree / "packaging" / script, tmp_path / "out", check=False).returncode != 0
    assert not [*tmp_path.glob("out/*.deb"), *tmp_path.glob("out/*.rpm")]


# -- install, upgrade ------------------------------------------------------------------------------


def test_installing_is_all_that_a_guest_needs(packaged: Lab) -> None:
    guest = Guest.start(packaged.root, "guest")
    packaged.upgrade()
    assert packaged.status(guest.pid)["state"] == "protected"
    assert guest.probe_twice(DISK) == WORKS


def test_twin_without_the_package_dies(stock: Lab) -> None:
    twin = Guest.start(stock.root, "twin")
    stock.upgrade()
    assert twin.probe_twice(DISK) == DIES


def test_holdover_and_qemu_are_upgraded_in_one_run_of_apt(packaged: Lab, later_deb: Path) -> None:
    guest = Guest.start(packaged.root, "guest")
    shutil.copy(later_deb, packaged.root.root / "srv/later.deb")
    wanted = (f"{package}={packaged.newer}" for package in QEMU_PACKAGES)
    done = packaged.root.apt("install", "/srv/later.deb", *wanted)
    assert "did not run" not in done.stdout + done.stderr
    assert LATER in packaged.holdover("--version").stdout
    assert packaged.status(guest.pid)["state"] == "protected"
    assert not packaged.path("/run/holdover/transaction").exists()
    assert guest.probe_twice(DISK) == WORKS


def test_guests_stay_protected_while_holdover_is_upgraded(packaged: Lab, later_deb: Path) -> None:
    """One was protected before, one is afterwards, and one is let alone: the twin."""
    before, after, twin = (Guest.start(packaged.root, n) for n in ("before", "after", "twin"))
    packaged.root.run("holdover", "protect", str(before.pid))
    done = packaged.install(later_deb)
    assert "did not" not in text(done)
    assert LATER in packaged.holdover("--version").stdout
    assert LATER in packaged.path(APT_HOOK).read_text()
    assert packaged.status(before.pid)["state"] == "protected"
    packaged.upgrade()
    assert [packaged.status(g.pid)["state"] for g in (before, after)] == ["protected"] * 2
    packaged.root.run("holdover", "release", "--force", str(twin.pid))
    assert [g.probe_twice(DISK) for g in (before, after, twin)] == [WORKS, WORKS, DIES]


def test_what_the_operator_disabled_stays_so_until_it_is_installed_anew(
    packaged: Lab, deb: Path, later_deb: Path
) -> None:
    guest = Guest.start(packaged.root, "guest")
    packaged.upgrade()
    told = json.loads(packaged.holdover("disable", "--release", "--json").stdout)
    assert told["schema"] == "holdover.farewell/1"
    assert [entry["pid"] for entry in told["kept"]] == [guest.pid]
    assert told["left"][0]["users"] == [{"pid": guest.pid, "name": "guest"}]
    assert told["bytes_left"] > 0
    assert told["removed_at_boot"] is True
    assert {"path": APT_HOOK, "change": "removed"} in told["files"]

    packaged.install(later_deb)
    assert not packaged.path(APT_HOOK).exists()
    packaged.root.apt("remove", "holdover")
    packaged.install(deb)
    assert packaged.path(APT_HOOK).exists()


# -- remove, purge ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["apt-get --yes purge", "dpkg --purge"])
def test_purge_takes_everything_back(packaged: Lab, command: str) -> None:
    """Guests are released, and die of the next upgrade like any other: nothing is there."""
    guest = Guest.start(packaged.root, "guest")
    alone = Guest.start(packaged.root, "alone", wrapper=ALONE)
    packaged.root.run("holdover", "protect", str(guest.pid))
    packaged.root.run("holdover", "protect", "--delivery", "mount", str(alone.pid))
    done = packaged.root.run(*command.split(), "holdover")
    assert "released 2: guest" in done.stdout
    assert "did not" not in text(done)
    assert found(packaged) == []
    mounts = packaged.path(f"/proc/{alone.pid}/mountinfo").read_text()
    assert "holdover/view" not in mounts
    assert guest.probe_twice(DISK) == WORKS
    packaged.upgrade()
    assert alone.probe_twice(DISK) == DIES


def test_removal_keeps_what_live_guests_need_until_they_end(packaged: Lab, deb: Path) -> None:
    guest = Guest.start(packaged.root, "guest")
    alone = Guest.start(packaged.root, "alone", wrapper=ALONE)
    packaged.root.run("holdover", "protect", "--delivery", "mount", str(alone.pid))
    packaged.upgrade()
    done = packaged.root.apt("remove", "holdover")
    for line in (
        f"guest ({guest.pid}) is not released: process {guest.pid} still needs it",
        f"stays, for guest ({guest.pid}), alone ({alone.pid})",
        "at the next boot, or when these processes have ended: rm -r /usr/lib/holdover",
    ):
        assert line in done.stdout
    assert not {APT_HOOK, DPKG_HOOK} & set(found(packaged))
    assert "R! /usr/lib/holdover\n" in packaged.path(AT_BOOT).read_text()
    assert [g.probe_twice(DISK) for g in (guest, alone)] == [WORKS, WORKS]

    packaged.install(deb)
    assert not packaged.path(AT_BOOT).exists()
    assert [packaged.status(g.pid)["state"] for g in (guest, alone)] == ["protected"] * 2

    done = packaged.root.apt("purge", "holdover")
    assert "live processes still need /usr/lib/holdover" in text(done)
    assert guest.probe_twice("ssh disk") == WORKS

    packaged.install(deb)
    packaged.root.apt("remove", "holdover")
    guest.kill()
    alone.kill()
    packaged.root.apt("purge", "holdover")
    assert found(packaged) == []


def test_removal_in_the_transaction_that_upgrades_qemu(packaged: Lab) -> None:
    """When it is removed the old modules are there still: nobody may be released because of it."""
    guest = Guest.start(packaged.root, "guest")
    names = ("qemu-system-x86", "qemu-system-common", "qemu-block-extra")
    wanted = [f"{name}={packaged.newer}" for name in names]
    done = packaged.root.apt("install", *wanted, "holdover-")
    assert "a change of packages that may concern it is under way" in done.stdout
    assert "did not run" not in text(done)
    assert not packaged.path("/usr/bin/holdover").exists()
    assert guest.probe_twice(DISK) == WORKS


def test_holdover_that_cannot_run_is_in_nobodys_way(packaged: Lab, later_deb: Path) -> None:
    main = packaged.path("/usr/share/holdover/holdover/cli/main.py")
    main.unlink()
    main.write_text("raise SystemExit(1)\n")
    done = packaged.root.apt("purge", "holdover")
    assert "what it held stays" in text(done)
    assert found(packaged) == []
    packaged.root.run("rm", "/usr/bin/timeout")  # nor can what it is started with
    done = packaged.install(later_deb)
    assert "run: holdover enable" in text(done)
    assert packaged.run("dpkg", "--audit").stdout == ""


# -- without a package -----------------------------------------------------------------------------


def test_virtual_environment_of_the_distributions_python_is_told_what_will_come(lab: Lab) -> None:
    lab.root.run("python3", "-m", "venv", "--without-pip", "--system-site-packages", "/opt/env")
    command = lab.path("/opt/env/bin/holdover")
    script = lab.path("/usr/bin/holdover").read_text()
    command.write_text(script.replace("/usr/bin/python3", "/opt/env/bin/python"))
    command.chmod(0o755)
    done = lab.run("/opt/env/bin/holdover", "enable")
    assert done.returncode == 0
    assert "virtual environment /opt/env" in done.stderr
    assert "install the package instead" in done.stderr
    assert "holdover=/opt/env/bin/holdover;" in lab.path(APT_HOOK).read_text()
    checks = json.loads(lab.run("/opt/env/bin/holdover", "doctor", "--json").stdout)["checks"]
    assert not next(check for check in checks if check["name"] == "installation")["ok"]
    done = lab.holdover("enable")
    assert done.returncode == 0
    assert "virtual environment" not in done.stderr


# -- rpm -------------------------------------------------------------------------------------------


def rpm_in(lab: Lab, *words: str | Path) -> CompletedProcess[str]:
    """This machine's rpm at work on a Debian: nothing that it depends on is in rpm's database."""
    enter = ("nsenter", f"--target={lab.root.init}", "--pid")
    options = ("--root", lab.root.inside, "--nodeps")
    return run(*enter, "rpm", *options, *words)


def test_rpm_is_installed_upgraded_and_erased_under_guests(
    stock: Lab, rpm: Path, later: Path, tmp_path: Path
) -> None:
    guest, free = (Guest.start(stock.root, name) for name in ("guest", "free"))
    rpm_in(stock, "--install", rpm)
    stock.root.run("holdover", "protect", str(free.pid))
    assert "released 1: free" in rpm_in(stock, "--erase", "holdover").stdout
    assert "/usr/share/holdover" not in found(stock)
    rpm_in(stock, "--install", rpm)
    stock.upgrade()
    rpm_in(stock, "--upgrade", build_rpm(later, tmp_path))
    assert LATER in stock.holdover("--version").stdout
    assert LATER in stock.path(APT_HOOK).read_text()
    assert stock.status(guest.pid)["state"] == "protected"
    done = rpm_in(stock, "--erase", "holdover")
    assert f"guest ({guest.pid}) is not released" in done.stdout
    assert not {APT_HOOK, DPKG_HOOK, "/usr/share/holdover"} & set(found(stock))
    assert guest.probe_twice(DISK) == WORKS
