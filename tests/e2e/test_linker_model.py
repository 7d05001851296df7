# SPDX-License-Identifier: Apache-2.0
"""The linker model against the real loaders of Debian 12 and 13, over all that is installed there.

tests/lab/ldso.py compares: the same objects, in the same order, found through the same (RPATH,
RUNPATH, cache, default directories), the same ones missing, the same versions and symbols.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from lab import Lab
from lab.distributions import CROSSINGS

from holdover.demo import archive

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parents[1] / "lab/ldso.py"
TAKE_AWAY = "cd /usr/lib/x86_64-linux-gnu && rm librados.so.2* libglib-2.0.so.0*"
# never onto a file: what is below /usr shares its inode with the base of all labs
TAKE_THE_NEXT = """
cd /tmp && dpkg-deb --extract /var/cache/apt/archives/libcurl3*-gnutls_*.deb new
cp --remove-destination new/usr/lib/x86_64-linux-gnu/libcurl-gnutls.so.4.* \
    "$(realpath /usr/lib/x86_64-linux-gnu/libcurl-gnutls.so.4)"
"""

# copies of a library that needs libz, each with another search path, and a libz in each of them
WITH_PATHS = """
import os, shutil, struct, sys
from pathlib import Path
from holdover.elf import ElfFile
from holdover.rewrite import rewrite

directory, system = Path("/usr/local/lib/probe"), Path("/usr/lib/x86_64-linux-gnu")
places = {
    "$ORIGIN/own": directory / "own",
    "/opt/$LIB": Path("/opt/lib/x86_64-linux-gnu"),
    "/opt/${PLATFORM}": Path("/opt/x86_64"),
    "/opt/plain": Path("/opt/plain/glibc-hwcaps/x86-64-v2"),
}
directory.mkdir(parents=True)
for number, (path, place) in enumerate(places.items()):
    place.mkdir(parents=True)
    shutil.copy(system / "libz.so.1", place)
    with open(system / "libssh.so.4", "rb") as file:
        changed = rewrite(file, path, ["libz.so.1"])
    (directory / f"rpath{number}.so").write_bytes(changed)
    with open(directory / f"rpath{number}.so", "rb") as file:
        at = ElfFile(file).tags[15]
    runpath = changed.replace(struct.pack("<qQ", 15, at), struct.pack("<qQ", 29, at))
    (directory / f"runpath{number}.so").write_bytes(runpath)
"""
FOR_THIS_PROCESSOR = """
for level in v2 v3; do
    mkdir -p /usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-$level
    cp /usr/lib/x86_64-linux-gnu/libz.so.1 /usr/lib/x86_64-linux-gnu/glibc-hwcaps/x86-64-$level
done
ldconfig
"""


def compared(lab: Lab, *words: str) -> dict[str, Any]:
    answer = lab.root.run("python3", "-I", "-", *words, text=SCRIPT.read_text()).stdout
    result: dict[str, Any] = json.loads(answer)
    return result


@pytest.fixture(scope="module", params=["12", pytest.param("13", marks=pytest.mark.distributions)])
def debian(request: pytest.FixtureRequest, cache: Path, scratch: Path) -> Iterator[Lab]:
    """Debian 12, and the same after its upgrade to 13."""
    base = archive.prepare_base(cache, print, CROSSINGS["bookworm-to-trixie"].recipe)
    with ExitStack() as stack:
        lab = stack.enter_context(Lab.with_holdover(base, scratch))
        if request.param == "13":
            lab.full_upgrade()
        yield lab


def test_model_and_loader_agree_on_every_object(debian: Lab) -> None:
    result = compared(debian)
    assert result["objects"] > 400
    assert min(result["totals"][key] for key in ("found", "through", "symbols")) > 1000
    assert result["differing"] == {}


def test_comparison_notices_a_model_that_knows_no_cache(debian: Lab) -> None:
    assert len(compared(debian, "without-cache")["differing"]) > 100


def test_model_and_loader_agree_on_paths_tokens_and_processors(debian: Lab) -> None:
    before = compared(debian)["objects"]
    debian.root.run("python3", "-I", "-", text=WITH_PATHS)
    debian.root.run("sh", "-e", "-c", FOR_THIS_PROCESSOR)
    result = compared(debian)
    assert result["objects"] >= before + 8
    assert result["differing"] == {}
    traced = debian.run("/lib64/ld-linux-x86-64.so.2", "--list", "/usr/local/lib/probe/rpath3.so")
    assert "/opt/plain/glibc-hwcaps/x86-64-v2/libz.so.1" in traced.stdout
    libssh = "/usr/lib/x86_64-linux-gnu/libssh.so.4"
    others = debian.run("/lib64/ld-linux-x86-64.so.2", "--list", libssh)
    assert "/glibc-hwcaps/x86-64-v" in others.stdout


def test_model_and_loader_agree_on_what_is_missing_and_too_new(debian: Lab) -> None:
    """The last test: it takes libraries away, and puts one of Debian 13 into 12."""
    debian.root.run("sh", "-e", "-c", TAKE_AWAY)
    is_12 = "bookworm" in debian.path("/etc/os-release").read_text()
    if is_12:
        debian.root.run("sh", "-e", "-c", TAKE_THE_NEXT)
    result = compared(debian)
    assert result["totals"]["missing"] > 20
    assert (result["totals"]["versions"] > 0) == is_12
    assert result["differing"] == {}
