# SPDX-License-Identifier: Apache-2.0
"""The exact packages of a build from real dnf and zypper (lab/repacked.py).

Version 1 is installed, and version 2 is asked for: the repository has no other. Its packages say
nothing of their version that rpm would understand, so they are found by build-id. They are not
signed, and the repository says that this need not be (gpgcheck=0), unless a test changes both.
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from lab.archives import Signer, signer
from lab.fetching import EXECUTABLE, PLACE, Fetcher, identify, origins
from lab.repacked import QEMU, RECIPE

from holdover.demo import archive

pytestmark = pytest.mark.e2e

REPOSITORIES = {"dnf": "/etc/yum.repos.d", "zypper": "/etc/zypp/repos.d"}
CACHES = {"dnf": "/var/cache/dnf", "zypper": "/var/cache/zypp"}
EXACT = {"version": "7.2.22 (qemu-2-1)"}


@dataclass
class Host:
    lab: Lab
    fetch: Fetcher
    manager: str

    def path(self, inside: str) -> Path:
        return self.lab.path(inside)

    def packages(self) -> list[Path]:
        """The files in the repository."""
        return [next(self.path("/srv/rpm").glob(f"*/{name}-2-1.*.rpm")) for name in QEMU]

    def demand_signatures(self) -> None:
        for path in self.path(REPOSITORIES[self.manager]).glob("*.repo"):
            wanted = "gpgcheck=1" if self.manager == "dnf" else "repo_gpgcheck=0\npkg_gpgcheck=1"
            path.write_text(path.read_text().replace("gpgcheck=0", wanted))

    def sign(self, key: Signer) -> None:
        """All packages in the repository; nobody trusts the key yet."""
        for path in self.packages():
            key.sign_package(path)
        self.lab.root.run("createrepo_c", "--quiet", "/srv/rpm")

    def trust(self, key: Signer) -> None:
        self.path("/srv/key.asc").write_text(key.public)
        self.lab.root.run("rpmkeys", "--import", "/srv/key.asc")

    def state(self) -> dict[str, str]:
        """All that the managers keep, by content; rpm's database by what it answers."""
        places = ("/var/cache", "/var/lib/dnf", "/var/lib/zypp", "/etc", "/var/log")
        files = (path for place in places for path in self.path(place).rglob("*") if path.is_file())
        found = {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        return {**found, "rpm": self.lab.root.run("rpm", "--query", "--all").stdout}


@pytest.fixture(params=REPOSITORIES)
def host(request: pytest.FixtureRequest, cache: Path, scratch: Path) -> Iterator[Host]:
    """One with repositories for one manager only."""
    base = archive.prepare_base(cache, print, RECIPE)
    with Lab.with_holdover(base, scratch) as lab:
        for manager in REPOSITORIES.keys() - {request.param}:
            shutil.rmtree(lab.path(REPOSITORIES[manager]))
        files = [f"/srv/rpm/x86_64/{name}-2-1.x86_64.rpm" for name in QEMU]
        lab.root.run("rpm", "--install", "--nodeps", "--root", "/srv/two", *files)
        build = identify(lab, f"/srv/two{EXECUTABLE}")
        assert build["build_id"] != identify(lab, EXECUTABLE)["build_id"]
        yield Host(lab, Fetcher(lab, build), request.param)


@pytest.fixture(scope="module")
def key() -> Iterator[Signer]:
    with signer() as made:
        yield made


def names(answer: dict[str, Any]) -> set[str]:
    return {file["name"] for file in answer["packages"]}


def test_repository_has_the_build_and_nothing_else_changes(host: Host) -> None:
    before = host.state()
    answer = host.fetch()
    assert origins(answer) == {"archive"}
    assert names(answer) == set(QEMU)
    assert any(path.endswith("/block-curl.so") for path in answer["owners"])
    assert answer["owners"][EXECUTABLE]["name"] == QEMU[0]
    assert len([note for note in answer["notes"] if "is not signed" in note]) == len(QEMU)
    unpacked = host.path(f"{PLACE}/root{EXECUTABLE}").read_bytes()
    assert unpacked == host.path(f"/srv/two{EXECUTABLE}").read_bytes()
    assert host.state() == before
    shutil.rmtree(host.path(PLACE))
    assert names(host.fetch(dependencies=True, build=EXACT)) == set(QEMU)
    assert host.state() == before


def test_what_is_not_signed_is_refused_where_that_counts(host: Host, key: Signer) -> None:
    host.demand_signatures()
    answer = host.fetch(build=EXACT)
    assert answer["error"] == "MissingError"
    said = {"dnf": "no key of this system has signed it", "zypper": "File is unsigned"}
    assert said[host.manager] in answer["text"]
    host.sign(key)
    shutil.rmtree(host.path(PLACE))
    assert host.fetch(build=EXACT)["error"] == "MissingError"
    host.trust(key)
    shutil.rmtree(host.path(PLACE))
    answer = host.fetch(build=EXACT)
    assert origins(answer) == {"archive"}
    assert answer["notes"] == []


def test_file_of_another_digest_in_the_cache_is_refused(host: Host) -> None:
    cache = host.path(f"{CACHES[host.manager]}/lab/packages")
    cache.mkdir(parents=True)
    (whole, other) = host.packages()
    shutil.copy(whole, cache)
    (cache / other.name).write_bytes(b"x" * other.stat().st_size)
    answer = host.fetch()
    assert origins(answer) == {"package cache", "archive"}
    (refusal,) = [note for note in answer["notes"] if note.startswith("refused")]
    assert hashlib.sha256(other.read_bytes()).hexdigest() in refusal


def test_files_that_were_brought_need_a_signature(host: Host, key: Signer) -> None:
    """There is no index on this machine that could vouch for them."""
    brought = host.path("/srv/brought")
    brought.mkdir()
    for path in host.packages():
        shutil.copy(path, brought)
    answer = host.fetch(directory="/srv/brought", build=EXACT)
    assert answer["error"] == "MissingError"
    assert {file["file_name"] for file in answer["files"]} == {p.name for p in host.packages()}
    for path in brought.iterdir():
        key.sign_package(path)
    host.trust(key)
    assert origins(host.fetch(directory="/srv/brought", build=EXACT)) == {"/srv/brought"}


def test_offline_says_what_is_needed(host: Host) -> None:
    answer = host.fetch(network=False, build=EXACT)
    assert answer["error"] == "MissingError"
    assert {file["file_name"] for file in answer["files"]} == {p.name for p in host.packages()}
