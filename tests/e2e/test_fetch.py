# SPDX-License-Identifier: Apache-2.0
"""The exact old packages of a build from real apt, on a Debian whose QEMU was upgraded since.

The build that is asked for is the older one. All tests share a system, each begins with the same
sources, lists and package cache; plain apt is what they are compared with.
"""

import hashlib
import json
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from lab.archives import Signer, signer, write_archive
from lab.bases import LabError
from lab.fetching import EXECUTABLE, PLACE, Fetcher, identify, origins

from holdover.demo.archive import QEMU_PACKAGES
from holdover.elf import ElfFile
from holdover.run import run

pytestmark = pytest.mark.e2e

SOURCES, ARCHIVES, LISTS = "/etc/apt/sources.list", "/var/cache/apt/archives", "/var/lib/apt/lists"

_SERVE = """
import http.server, os, sys
os.chdir(sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_port, file=open("/run/port.new", "w"), flush=True)
os.rename("/run/port.new", "/run/port")
server.serve_forever()
"""


@dataclass
class Host:
    """The system, and the build that it had before."""

    lab: Lab
    fetch: Fetcher
    kept: Path
    """Copies of the older build's package files."""
    sources: str
    """Lines of sources.list."""

    def path(self, inside: str) -> Path:
        return self.lab.path(inside)

    def cached(self, package: str) -> Path:
        """The older build's file in the package cache."""
        (found,) = self.path(ARCHIVES).glob(f"{package}_{_escaped(self.lab.older)}_*.deb")
        return found

    def empty_cache(self) -> None:
        for path in self.path(ARCHIVES).glob("*.deb"):
            path.unlink()

    def records(self) -> dict[Path, str]:
        """The older build's package files, with what the archive says of each."""
        return {
            path: self.lab.root.run(
                "apt-cache", "show", f"{path.name.split('_')[0]}={self.lab.older}"
            ).stdout
            for path in self.kept.iterdir()
        }

    def state(self) -> dict[str, str]:
        """All that dpkg and apt keep, by content."""
        places = ("/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt", "/etc/apt")
        files = (path for place in places for path in self.path(place).rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _escaped(version: str) -> str:
    return version.replace(":", "%3a")


@pytest.fixture(scope="module")
def upgraded(base: Path, scratch: Path) -> Iterator[Host]:
    with Lab.with_holdover(base, scratch) as lab:
        fetch = Fetcher(lab, identify(lab, EXECUTABLE))
        assert lab.upgrade().returncode == 0
        kept = lab.path("/srv/kept")
        kept.mkdir()
        for package in QEMU_PACKAGES:
            for path in lab.path(ARCHIVES).glob(f"{package}_{_escaped(lab.older)}_*.deb"):
                shutil.copy(path, kept)
        assert len(list(kept.iterdir())) == len(QEMU_PACKAGES)
        shutil.copytree(lab.path(LISTS), lab.path("/srv/lists"))
        shutil.copytree(lab.path(ARCHIVES), lab.path("/srv/archives"))
        yield Host(lab, fetch, kept, lab.path(SOURCES).read_text())


@pytest.fixture
def host(upgraded: Host) -> Iterator[Host]:
    yield upgraded
    upgraded.path(SOURCES).write_text(upgraded.sources)
    for saved, place in (("/srv/lists", LISTS), ("/srv/archives", ARCHIVES)):
        shutil.rmtree(upgraded.path(place))
        shutil.copytree(upgraded.path(saved), upgraded.path(place))
    for path in (PLACE, "/srv/brought", "/srv/snapshot"):
        shutil.rmtree(upgraded.path(path), ignore_errors=True)
    for hook in upgraded.path("/etc/apt/apt.conf.d").glob("*lab*"):
        hook.unlink()


@pytest.fixture(scope="module")
def key() -> Iterator[Signer]:
    with signer() as made:
        yield made


def modules(host: Host, answer: dict[str, Any]) -> list[str]:
    """Names of the modules that were unpacked, each of them owned by a package."""
    found = [
        path for path in answer["owners"] if path.startswith(host.fetch.build["directories"][0])
    ]
    for path in found:
        assert host.path(f"{answer['root']}{path}").is_file(), path
    return found


def test_cache_has_the_packages_of_the_build(host: Host) -> None:
    before = host.state()
    answer = host.fetch(network=False)
    assert origins(answer) == {"package cache"}
    assert {file["version"] for file in answer["packages"]} == {host.lab.older}
    assert len(modules(host, answer)) > 20
    assert answer["owners"][EXECUTABLE]["name"] == "qemu-system-x86"
    assert answer["bytes_downloaded"] == 0
    unpacked = host.path(f"{answer['root']}{EXECUTABLE}").read_bytes()
    assert unpacked != host.path(EXECUTABLE).read_bytes()  # what lies there now is another build
    assert host.state() == before


def test_unpacked_files_are_of_root_and_nothing_more(host: Host) -> None:
    root = host.path(host.fetch(network=False)["root"])
    for path in root.rglob("*"):
        found = path.lstat()
        assert (found.st_uid, found.st_gid) == (0, 0)
        assert path.is_symlink() or found.st_mode & 0o7777 in (0o755, 0o644), path
    assert (root / "lib").readlink() == Path("usr/lib")


def test_archive_has_them_if_the_cache_has_not(host: Host) -> None:
    host.empty_cache()
    before = host.state()
    answer = host.fetch()
    assert origins(answer) == {"archive"}
    size = sum(file["size"] for file in answer["packages"])
    assert answer["bytes_downloaded"] == pytest.approx(size, rel=0.05)
    assert host.state() == before
    again = host.fetch(dependencies=False)
    assert (again["bytes_downloaded"], origins(again)) == (0, {"archive"})


def test_dependencies_come_with_them(host: Host) -> None:
    answer = host.fetch(dependencies=True)
    assert origins(answer) == {"package cache", "archive"} or origins(answer) == {"package cache"}
    names = {path.rpartition("/")[2] for path in answer["owners"]}
    assert {"librbd.so.1", "libcurl-gnutls.so.4", "libssh.so.4", "libm.so.6"} <= names
    assert {file["name"] for file in answer["packages"]}.isdisjoint({"seabios", "adduser"})
    rbd = host.path(answer["root"]) / "usr/lib/x86_64-linux-gnu/librbd.so.1"
    assert rbd.resolve().is_relative_to(host.path(answer["root"]).resolve())


def test_corrupted_file_in_the_cache_is_refused_and_downloaded(host: Host) -> None:
    cached = host.cached("qemu-block-extra")
    content = bytearray(cached.read_bytes())
    content[5000] ^= 1
    cached.write_bytes(content)
    answer = host.fetch()
    assert origins(answer) == {"package cache", "archive"}
    (note,) = answer["notes"]
    assert note.startswith(f"refused {ARCHIVES}/{cached.name}: it has sha256:")
    assert hashlib.sha256(content).hexdigest() in note


def test_plain_apt_takes_the_corrupted_file(host: Host) -> None:
    """What the tests above would not find if we left it to apt."""
    cached = host.cached("qemu-block-extra")
    content = bytearray(cached.read_bytes())
    content[5000] ^= 1
    cached.write_bytes(content)
    pins = [f"{package}={host.lab.older}" for package in QEMU_PACKAGES]
    assert host.lab.root.apt("install", "--download-only", *pins).returncode == 0
    assert cached.read_bytes() == content


def test_offline_says_exactly_what_is_needed(host: Host) -> None:
    host.empty_cache()
    answer = host.fetch(network=False)
    assert answer["error"] == "MissingError"
    for path in host.kept.iterdir():
        (file,) = [f for f in answer["files"] if f["name"] == path.name.split("_")[0]]
        assert file["digest"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert (file["version"], file["size"]) == (host.lab.older, path.stat().st_size)
        assert file["address"].startswith("http")
        assert file["digest"] in answer["text"]


def test_directory_that_was_brought_is_enough(host: Host) -> None:
    host.empty_cache()
    brought = host.path("/srv/brought/some/where")
    brought.mkdir(parents=True)
    for path in host.kept.iterdir():  # as the archive calls them
        shutil.copy(path, brought / path.name.replace("1%3a", ""))
    assert origins(host.fetch(directory="/srv/brought")) == {"/srv/brought"}


def test_substituted_file_in_that_directory_is_refused_with_both_digests(host: Host) -> None:
    host.empty_cache()
    shutil.copytree(host.kept, host.path("/srv/brought"))
    (block,) = host.path("/srv/brought").glob("qemu-block-extra_*")
    wanted = hashlib.sha256(block.read_bytes()).hexdigest()
    (other,) = host.path("/srv/brought").glob("qemu-system-common_*")
    shutil.copy(other, block)
    answer = host.fetch(directory="/srv/brought")
    assert answer["error"] == "MissingError"
    assert [file["name"] for file in answer["files"]] == ["qemu-block-extra"]
    assert f"refused /srv/brought/{block.name}" in answer["text"]
    assert f"the index says sha256:{wanted}" in answer["text"]
    assert not host.path(f"{PLACE}/root").exists()


def forget_the_older_build(host: Host) -> None:
    """The machine's sources and lists know no build any more."""
    host.path(SOURCES).write_text("")
    for path in host.path(LISTS).glob("*_*"):
        path.unlink()
    host.empty_cache()


def test_package_without_an_index_is_refused(host: Host) -> None:
    shutil.copytree(host.kept, host.path("/srv/brought"))
    forget_the_older_build(host)
    answer = host.fetch(directory="/srv/brought")
    assert answer["error"] == "MissingError"
    assert {f["name"] for f in answer["files"] if f["name"]} == set(QEMU_PACKAGES)


def test_index_that_was_brought_vouches_if_its_key_is_trusted(host: Host, key: Signer) -> None:
    write_archive(host.path("/srv/brought"), "bookworm", host.records(), key)
    forget_the_older_build(host)
    host.path(SOURCES).write_text("deb http://127.0.0.1:1/debian bookworm main\n")
    answer = host.fetch(directory="/srv/brought")
    assert answer["error"] == "MissingError"  # nobody trusts it yet
    trusted = host.path("/etc/apt/trusted.gpg.d/lab.asc")
    trusted.write_text(key.public)
    try:
        assert origins(host.fetch(directory="/srv/brought")) == {"/srv/brought"}
    finally:
        trusted.unlink()


def test_index_without_a_signature_vouches_for_nothing(host: Host, key: Signer) -> None:
    """Even if the machine takes it: plain apt does."""
    write_archive(host.path("/srv/brought"), "bookworm", host.records(), key)
    signed = host.path("/srv/brought/dists/bookworm/InRelease")
    body = signed.read_text().split("\n\n", 1)[1].split("-----BEGIN PGP SIGNATURE")[0]
    signed.with_name("Release").write_text(body)
    signed.unlink()
    forget_the_older_build(host)
    host.path(SOURCES).write_text("deb [trusted=yes] file:/srv/brought bookworm main\n")
    pins = [f"{package}={host.lab.older}" for package in QEMU_PACKAGES]
    assert host.lab.run("apt-get", "update").returncode == 0
    assert host.lab.run("apt-get", "--print-uris", "download", *pins).returncode == 0
    assert host.fetch(network=False)["error"] == "MissingError"


def test_another_release_at_the_same_mirrors(host: Host) -> None:
    """The machine has been upgraded to Debian 13, and its sources with it."""
    forget_the_older_build(host)
    host.path(SOURCES).write_text(host.sources.replace("bookworm", "trixie"))
    before = host.state()
    answer = host.fetch()
    assert origins(answer) == {"archive"}
    assert "looking in bookworm" in answer["told"]
    assert host.state() == before
    plain = host.lab.run(
        "apt-get", "--print-uris", "download", f"qemu-block-extra={host.lab.older}"
    )
    assert plain.returncode != 0


@pytest.fixture
def snapshot_server(host: Host, key: Signer) -> Iterator[str]:
    """An archive of superseded builds that has the older build; its key is not yet trusted."""
    time_then, directory = "20260101T000000Z", host.path("/srv/snapshot")
    archive = directory / f"archive/debian-security/{time_then}"
    write_archive(archive, "bookworm-security", host.records(), key)
    binfiles = directory / f"mr/binary/qemu-system-x86/{host.lab.older}/binfiles"
    binfiles.parent.mkdir(parents=True)
    info = {"archive_name": "debian-security", "first_seen": time_then, "name": "x", "path": "/x"}
    answer = {"result": [{"architecture": "amd64", "hash": "a"}], "fileinfo": {"a": [info]}}
    binfiles.write_text(json.dumps(answer))
    port = host.path("/run/port")
    port.unlink(missing_ok=True)
    start = f"nohup python3 -I -c '{_SERVE}' /srv/snapshot </dev/null >/dev/null 2>&1 & echo $!"
    pid = host.lab.root.run("sh", "-c", start).stdout.strip()
    for _ in range(300):
        if port.exists():
            break
        time.sleep(0.1)
    else:
        raise LabError("no server")
    yield f"http://127.0.0.1:{port.read_text().strip()}"
    host.lab.run("kill", pid)


def test_superseded_build_from_an_archive_of_those(
    host: Host, key: Signer, snapshot_server: str
) -> None:
    forget_the_older_build(host)
    before = host.state()
    answer = host.fetch(snapshot_archive=snapshot_server)
    assert answer["error"] == "MissingError"  # its key is not trusted
    assert host.state() == before
    trusted = host.path("/etc/apt/trusted.gpg.d/lab.asc")
    trusted.write_text(key.public)
    shutil.rmtree(host.path(PLACE))
    try:
        assert origins(host.fetch(snapshot_archive=snapshot_server)) == {"snapshot archive"}
    finally:
        trusted.unlink()


def build_ids(host: Host, package: str) -> set[str]:
    """Of all that a package of the older build holds."""
    place = host.path(f"/srv/unpacked-{package}")
    (file,) = host.path("/srv/kept").glob(f"{package}_*")
    run("dpkg-deb", "--extract", file, place)
    found = set()
    for path in (*place.rglob("*.so"), *place.glob("usr/bin/qemu-system-x86_64")):
        with path.open("rb") as opened:
            found.add(ElfFile(opened).build_id)
    shutil.rmtree(place)
    return found


@pytest.fixture
def debuginfod(host: Host, key: Signer) -> Iterator[str]:
    """A real server of the older build's files; the machine knows their symbols' packages."""
    host.lab.root.apt("install", "--no-install-recommends", "debuginfod", "libarchive-tools")
    forget_the_older_build(host)
    symbols = {}
    for name in QEMU_PACKAGES:
        file = host.path(f"/srv/{name}-dbgsym_1_amd64.deb")
        file.write_text("nobody looks into it")
        record = f"Package: {name}-dbgsym\nVersion: {host.lab.older}\nArchitecture: amd64\n"
        record += f"Build-Ids: {' '.join(sorted(build_ids(host, name)))}\nSize: 20\n"
        symbols[file] = f"{record}SHA256: {hashlib.sha256(file.read_bytes()).hexdigest()}\n"
    write_archive(host.path("/srv/snapshot"), "debug", symbols, key)
    host.path("/etc/apt/keyrings/lab.asc").write_text(key.public)
    line = "deb [signed-by=/etc/apt/keyrings/lab.asc] file:/srv/snapshot debug main\n"
    host.path(SOURCES).write_text(line)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = ">/run/debuginfod.log 2>&1"
    server = f"debuginfod -F -U -d :memory: -p {port} /srv/kept </dev/null {log}"
    pid = host.lab.root.run("sh", "-c", f"{server} & echo $!").stdout.strip()
    for _ in range(300):
        if "groomed" in host.path("/run/debuginfod.log").read_text():
            break
        time.sleep(0.1)
    else:
        raise LabError(host.path("/run/debuginfod.log").read_text()[-2000:])
    yield f"http://127.0.0.1:{port}"
    host.lab.run("kill", pid)


def test_modules_that_no_archive_has_any_more_come_by_their_build_ids(
    host: Host, debuginfod: str
) -> None:
    before = host.state()
    assert host.fetch()["error"] == "MissingError"
    answer = host.fetch(debuginfod=[debuginfod])
    assert origins(answer) == {"debuginfod, by its build-id alone"}
    assert {"block-rbd", "hw-usb-host"} <= {Path(path).stem for path in modules(host, answer)}
    assert host.state() == before


def test_build_whose_ids_nobody_names_is_not_asked_for(host: Host) -> None:
    forget_the_older_build(host)
    answer = host.fetch(debuginfod=["http://127.0.0.1:1"])
    assert "no package list names the build-ids" in answer["text"]


def test_hooks_of_the_machine_do_not_run(host: Host) -> None:
    """Contrast: plain apt runs them."""
    ran = host.path("/run/hook-ran")
    keys = ("APT::Update::Pre-Invoke", "APT::Update::Post-Invoke", "DPkg::Pre-Invoke")
    lines = (f'{name} {{ "touch /run/hook-ran"; }};\n' for name in keys)
    host.path("/etc/apt/apt.conf.d/99lab").write_text("".join(lines))
    forget_the_older_build(host)
    host.path(SOURCES).write_text(host.sources)
    assert origins(host.fetch()) == {"archive"}  # with an update, as there were no lists
    assert not ran.exists()
    assert host.lab.run("apt-get", "update").returncode == 0
    assert ran.exists()


def test_version_that_says_no_package_is_found_by_build_id(host: Host) -> None:
    """The newer one is looked at first, and is another build."""
    answer = host.fetch(build={"version": "7.2.99 ()"}, network=False)
    assert origins(answer) == {"package cache"}
    assert {file["version"] for file in answer["packages"]} == {host.lab.older}
    assert any(host.lab.newer in note for note in answer["notes"])


def test_build_that_no_package_has_is_not_given(host: Host) -> None:
    answer = host.fetch(build={"build_id": "0" * 40}, network=False)
    assert answer["error"] in ("CommandError", "MissingError")
    assert host.fetch.build["build_id"] in answer["text"]
