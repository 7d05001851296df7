# SPDX-License-Identifier: Apache-2.0
"""What a debuginfod server sends counts only as a module of the build-id that was asked for."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from unit.elf_images import Image, build_id_note

from holdover.errors import CommandError
from holdover.packages.fetch import PackageFile, Sources, Wanted, apt, debuginfod
from holdover.packages.fetch.debuginfod import file_name, modules_by_build_id
from holdover.run import ENVIRONMENT

DIRECTORY = Path("/usr/lib/qemu")
ID = bytes.fromhex("aa" * 20)
OWN, OTHER = ID.hex(), "bb" * 20
WANTED = Wanted(Path("/usr/bin/qemu"), "cc" * 20, "1 (x 1)", (DIRECTORY,), ())

CLIENT = """#!/bin/sh
test "$1 $2" = "-v executable" || exit 2
mkdir -p "$DEBUGINFOD_CACHE_PATH/$3"
cp {file} "$DEBUGINFOD_CACHE_PATH/$3/executable"
printf 'Headers:\\nX-DEBUGINFOD-FILE: {name}\\nDownloaded from %s\\n' "$DEBUGINFOD_URLS" >&2
echo {told}
exit {code}
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "sent"
    path.write_bytes(bytes(Image(notes=[build_id_note(ID)])))
    return path


def asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Path,
    *ids: str,
    name: str = "block-rbd.so",
    told: str = '"$DEBUGINFOD_CACHE_PATH/$3/executable"',
    code: int = 0,
) -> dict[str, PackageFile]:
    """What comes of it if the client does that."""
    client = tmp_path / "bin/debuginfod-find"
    client.parent.mkdir()
    client.write_text(CLIENT.format(file=module, name=name, told=told, code=code))
    client.chmod(0o755)
    path = f"{client.parent}:{os.environ['PATH']}"
    monkeypatch.setenv("PATH", path)
    monkeypatch.setitem(ENVIRONMENT, "PATH", path)
    place = tmp_path / "place"
    return modules_by_build_id(ids, WANTED, ["http://a", "http://b"], place, lambda _: None)


def test_module_lies_where_the_build_looks_and_says_what_vouches_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Path
) -> None:
    found = asked(tmp_path, monkeypatch, module, OWN, WANTED.build_id, "no build-id")
    assert list(found) == ["/usr/lib/qemu/block-rbd.so"]
    (file,) = found.values()
    assert (file.digest, file.origin) == (f"build-id:{OWN}", "debuginfod, by its build-id alone")
    got = tmp_path / "place/root/usr/lib/qemu/block-rbd.so"
    assert got.read_bytes() == module.read_bytes()


@pytest.mark.parametrize(
    "answer",
    [
        {"name": "../../bin/sh"},
        {"name": "block-rbd"},
        {"name": ".so/.."},
        {"name": "block rbd.so"},
        {"code": 1},
        {"told": "/etc/passwd"},
        {"told": '"$DEBUGINFOD_CACHE_PATH"'},
        {"told": ""},
    ],
    ids=str,
)
def test_answer_that_makes_no_sense_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Path, answer: dict[str, str]
) -> None:
    assert asked(tmp_path, monkeypatch, module, OWN, **answer) == {}  # type: ignore[arg-type]


def test_directory_of_the_name_is_the_servers_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Path
) -> None:
    found = asked(tmp_path, monkeypatch, module, OWN, name="/./etc/x/block-rbd.so")
    assert list(found) == ["/usr/lib/qemu/block-rbd.so"]


@pytest.mark.parametrize("content", [None, b"", b"\x7fELF", b"<html>"])
def test_file_of_another_build_id_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Path, content: bytes | None
) -> None:
    if content is not None:
        module.write_bytes(content)
    assert asked(tmp_path, monkeypatch, module, OTHER) == {}


def test_client_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandError, match="debuginfod-find is not installed"):
        modules_by_build_id([OWN], WANTED, ["http://a"], tmp_path / "place", lambda _: None)


def test_server_that_hangs_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Path
) -> None:
    monkeypatch.setattr(debuginfod, "_SECONDS", 0.2)
    assert asked(tmp_path, monkeypatch, module, OWN, told="$(exec sleep 3)") == {}


def test_servers_have_their_time_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Path
) -> None:
    monkeypatch.setattr(debuginfod, "_ALL_SECONDS", -1.0)
    assert asked(tmp_path, monkeypatch, module, OWN) == {}
    assert not (tmp_path / "place/cache").exists()


def test_client_is_told_how_large_a_module_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Path
) -> None:
    told = f'"$DEBUGINFOD_CACHE_PATH/$3/executable"; echo $DEBUGINFOD_MAXSIZE >{tmp_path}/size'
    assert asked(tmp_path, monkeypatch, module, OWN, told=told)
    assert int((tmp_path / "size").read_text()) == debuginfod._LARGEST


class Archive:
    """A set of sources, with the build-ids that its packages of debug symbols list."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    def records(self, pins: Sequence[str]) -> list[dict[str, str]]:
        return [{"Package": pin, "Build-Ids": " ".join(self.ids)} for pin in pins]


def test_build_ids_of_another_archive_are_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[frozenset[str]] = []

    def ask(ids: frozenset[str], *_: object) -> dict[str, PackageFile]:
        asked.append(ids)
        return {}

    monkeypatch.setattr(apt, "modules_by_build_id", ask)
    fetch = apt._Fetch.__new__(apt._Fetch)
    fetch.wanted, fetch.names, fetch.version = WANTED, ("qemu",), "1"
    fetch.sources, fetch.dependencies = Sources(debuginfod=("http://a",)), False
    fetch.place, fetch.notes, fetch.progress = tmp_path, [], lambda _: None
    made = [Archive(), Archive("dd" * 20, OTHER), Archive(WANTED.build_id, OWN)]
    fetch.indexes = SimpleNamespace(made=made, online=True, bytes_downloaded=0)  # type: ignore[assignment]
    assert fetch._by_build_id() is None
    assert asked == [{WANTED.build_id, OWN}]
    made.pop()
    assert fetch._by_build_id() is None
    assert len(asked) == 1


def test_answer_with_a_million_blanks_is_read_at_once() -> None:
    assert file_name("x-debuginfod-file:" + " " * 1_000_000 + "!") == ""
    assert file_name("X-DEBUGINFOD-FILE: /usr/lib/qemu/block-rbd.so\r\n") == "block-rbd.so"
    assert file_name("x-debuginfod-file:block-rbd.so\n") == "block-rbd.so"
