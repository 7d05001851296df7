# SPDX-License-Identifier: Apache-2.0
"""Package files that are verified while they are copied, and what of them is unpacked where."""

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.hostile import sparse

from holdover.errors import CommandError, MalformedError
from holdover.packages.fetch import PackageFile, Wanted, rpm
from holdover.packages.fetch.aptsources import Target
from holdover.packages.fetch.indexes import _copy_indexes as copy_indexes
from holdover.packages.fetch.package_files import Holdings, copy_verified, files_below
from holdover.packages.fetch.private import HostApt, PrivateApt
from holdover.packages.fetch.repodata import Entry
from holdover.packages.fetch.unpacking import assemble, of_use, plain, unpack
from holdover.run import ENVIRONMENT, reading

CONTENT = b"a package"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
ALL = of_use(Path("/usr/bin/program"), (Path("/opt/modules"),))


def package(digest: str = DIGEST, size: int = len(CONTENT)) -> PackageFile:
    return PackageFile("a", "1", "amd64", "a_1_amd64.deb", digest, size, "")


def archive(*members: tuple[str, Callable[[tarfile.TarInfo], None], bytes]) -> io.BytesIO:
    """A tar archive; each member is changed by its function."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, change, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.uid = len(content), 0o4755, 1000
            change(info)
            tar.addfile(info, io.BytesIO(content))
    file.seek(0)
    return file


def keep(_: tarfile.TarInfo) -> None:
    return None


def link(target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, target

    return change


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With a merged /usr."""
    made = tmp_path / "root"
    (made / "usr/lib").mkdir(parents=True)
    (made / "lib").symlink_to("usr/lib")
    return made


# -- verified copies -------------------------------------------------------------------------------


def test_file_with_its_digest_is_copied(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(CONTENT)
    assert copy_verified(tmp_path / "source", tmp_path / "copy", package()) == ""
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("content", "file", "said"),
    [
        (b"A package", package(), hashlib.sha256(b"A package").hexdigest()),
        (CONTENT + b"!", package(), hashlib.sha256(CONTENT + b"!").hexdigest()),
        (CONTENT[:-1], package(), "the index says sha256:"),
        (CONTENT, package("md5:00"), "can be relied on"),
        (CONTENT, package(""), "can be relied on"),
    ],
)
def test_any_other_is_refused_and_leaves_nothing(
    tmp_path: Path, content: bytes, file: PackageFile, said: str
) -> None:
    (tmp_path / "source").write_bytes(content)
    assert said in copy_verified(tmp_path / "source", tmp_path / "copy", file)
    assert not (tmp_path / "copy").exists()


def test_pipe_in_place_of_a_file_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "source")
    said = copy_verified(tmp_path / "source", tmp_path / "copy", package())
    assert said.endswith("is no regular file")


def test_file_that_never_ends_does_not_hold_us_up(tmp_path: Path) -> None:
    endless = sparse(tmp_path / "source", CONTENT, 1 << 42)
    said = copy_verified(endless, tmp_path / "copy", package())
    assert f"it has more than {1 << 30} bytes, the index says {DIGEST}" in said
    assert not (tmp_path / "copy").exists()


def test_copy_is_looked_at_again_and_keeps_its_origin(tmp_path: Path) -> None:
    notes: list[str] = []
    holdings = Holdings(tmp_path / "own", notes)
    (tmp_path / "cache/partial").mkdir(parents=True)
    (tmp_path / "cache/partial/a_1_amd64.deb").write_bytes(b"")
    assert holdings.find(package()) is None
    place = files_below(tmp_path / "cache", "/srv/there", ".deb")
    assert holdings.take(package(), ["a_1_amd64.deb"], [place]) is None
    (tmp_path / "cache/a_1_amd64.deb").write_bytes(CONTENT)
    place = files_below(tmp_path / "cache", "/srv/there", ".deb")
    taken = holdings.take(package(), ["a_1_amd64.deb"], [place])
    assert taken is not None
    assert taken.origin == "/srv/there"
    assert Holdings(tmp_path / "own", notes).find(package()) == taken
    holdings.path(taken).write_bytes(b"A package")
    assert holdings.find(package()) is None
    assert notes == []


def test_link_and_pipe_in_place_of_an_index_are_not_copied(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root's alone")
    for name in ("suite", "signed", "elsewhere"):
        (tmp_path / "dists" / name).mkdir(parents=True)
    dists, mirror = tmp_path / "dists", tmp_path / "mirror"
    (dists / "suite/InRelease").write_text("signed")
    (dists / "suite/Packages").symlink_to(tmp_path / "secret")
    os.mkfifo(dists / "suite/Packages.xz")
    (dists / "signed/Release").write_text("signed")
    (dists / "signed/Release.gpg").symlink_to(tmp_path / "secret")
    (dists / "stable").symlink_to("suite")
    assert copy_indexes(dists, mirror) == [mirror / "suite"]
    copied = [path for path in mirror.rglob("*") if path.is_file()]
    assert sorted(path.read_text() for path in copied) == ["signed", "signed"]


def test_list_that_others_can_change_is_not_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists, mine = tmp_path / "host", tmp_path / "of another"
    for directory in (lists, mine):
        directory.mkdir()
    (mine / "Packages").write_text("changed since")
    mine.chmod(0o777)
    targets = [Target(uri, "x", "", "main", lists / uri, trusted=uri != "c") for uri in "abc"]
    (lists / "a").write_text("as apt has checked it")
    (lists / "b").symlink_to(mine / "Packages")
    (lists / "c").write_text("as anybody wrote it")
    host = HostApt((), (), lists, tmp_path, "amd64", "")
    monkeypatch.setattr(PrivateApt, "targets", lambda *_: tuple(targets))
    apt = PrivateApt(tmp_path / "private", host, ())
    assert apt.adopt_lists() == (
        f"b x is not used: {mine}: others can write to it",
        "c x is not used: it is not signed",
    )
    assert {path.name for path in apt.lists.iterdir()} == {"a", "partial"}


def test_only_plain_files_of_a_packages_size_are_asked_for_a_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for tool, said in (("rpm", "qemu 1-1 x86_64"), ("rpmkeys", "a.rpm: digests signatures OK")):
        script = f'#!/bin/sh\nfor file; do :; done\necho "$file" >>{tmp_path}/asked\necho {said}'
        (tmp_path / tool).write_text(script)
        (tmp_path / tool).chmod(0o755)
    monkeypatch.setitem(ENVIRONMENT, "PATH", f"{tmp_path}:{ENVIRONMENT['PATH']}")
    monkeypatch.setenv("PATH", ENVIRONMENT["PATH"])
    brought = tmp_path / "brought"
    brought.mkdir()
    os.mkfifo(brought / "pipe.rpm")
    sparse(brought / "endless.rpm", CONTENT, 1 << 42)
    (brought / "gone.rpm").symlink_to("nowhere")
    (brought / "a.rpm").write_bytes(CONTENT)
    fetch = rpm._Fetch.__new__(rpm._Fetch)
    fetch.names, fetch.notes = frozenset({"qemu"}), []
    fetch.places = [files_below(brought, "brought", ".rpm")]
    assert [(e.file.file_name, e.file.digest) for e in fetch._signed_files()] == [("a.rpm", DIGEST)]
    assert set((tmp_path / "asked").read_text().split()) == {str(brought / "a.rpm")}
    assert [note.partition(" cannot")[0] for note in fetch.notes] == [str(brought / "gone.rpm")]


def test_manager_that_says_nothing_is_not_quoted(tmp_path: Path) -> None:
    class Silent:
        downloads = tmp_path

        def download(self, packages: list[str], *, dependencies: bool) -> str:
            return ""

    fetch = rpm._Fetch.__new__(rpm._Fetch)
    fetch.notes, fetch.downloaded, fetch.progress = [], 0, lambda _: None
    fetch._download(Silent(), [Entry(package(), (), "")])  # type: ignore[arg-type]
    assert fetch.notes == []


# -- unpacking -------------------------------------------------------------------------------------


def test_only_what_is_of_use_is_unpacked_and_without_rights(root: Path) -> None:
    done = unpack(
        archive(
            ("./lib/x86/liba.so.1.2", keep, b"a"),
            ("./usr/bin/program", keep, b"p"),
            ("./usr/bin/other", keep, b"o"),
            ("./opt/modules/m.so", keep, b"m"),
            ("./etc/passwd", keep, b"x"),
        ),
        root,
        ALL,
    )
    assert done == ("/usr/lib/x86/liba.so.1.2", "/usr/bin/program", "/opt/modules/m.so")
    for path in done:
        assert stat.S_IMODE((root / path[1:]).stat().st_mode) == 0o755
        assert (root / path[1:]).stat().st_uid == os.geteuid()


def test_links_stay_below_the_root(root: Path) -> None:
    unpack(
        archive(
            ("./usr/lib/x/liba.so.1", link("liba.so.1.2"), b""),
            ("./usr/lib/x/absolute", link("/lib/y/z"), b""),
            ("./usr/lib/x/climbing", link("../../../../../../etc/passwd"), b""),
        ),
        root,
        ALL,
    )
    at = root / "usr/lib/x"
    assert (at / "liba.so.1").readlink() == Path("liba.so.1.2")
    assert (at / "absolute").readlink() == Path("../y/z")
    assert (at / "climbing").resolve() == root / "etc/passwd"


def test_names_that_lead_through_a_link_stay_below_the_root(root: Path, tmp_path: Path) -> None:
    (root / "usr/lib/out").symlink_to(tmp_path)
    with pytest.raises(MalformedError, match="leads out of it"):
        unpack(archive(("./usr/lib/out/x", keep, b"x")), root, ALL)
    assert not (tmp_path / "x").exists()


def test_devices_and_names_that_climb_are_not_made(root: Path) -> None:
    def device(info: tarfile.TarInfo) -> None:
        info.type = tarfile.CHRTYPE

    done = unpack(
        archive(
            ("./usr/lib/null", device, b""),
            ("./usr/lib/../../../x", keep, b"x"),
            ("./usr/lib/hard", link("./usr/lib/none", tarfile.LNKTYPE), b""),
            ("./usr/lib/a", keep, b"a"),
            ("./usr/lib/b", link("./usr/lib/a", tarfile.LNKTYPE), b""),
        ),
        root,
        ALL,
    )
    assert done == ("/usr/lib/a", "/usr/lib/b")


@pytest.mark.parametrize("build_id", ["", "aa" * 20])
def test_packages_without_the_executable_are_of_no_build(tmp_path: Path, build_id: str) -> None:
    wanted = Wanted(Path("/usr/bin/program"), build_id, "", (), ())
    packages = {package(): nullcontext(archive(("./usr/lib/liba.so", keep, b"library")))}
    owners, problem = assemble(tmp_path / "root", wanted, packages)
    assert owners == {}
    assert problem.startswith("/usr/bin/program is not there")


def test_later_package_replaces_a_file_and_does_not_write_through_a_link(root: Path) -> None:
    (root / "usr/lib/target").write_text("t")
    (root / "usr/lib/a").symlink_to("target")
    unpack(archive(("./usr/lib/a", keep, b"a")), root, ALL)
    assert (root / "usr/lib/target").read_text() == "t"


@given(st.text(max_size=20) | st.sampled_from(["..", "./", "/", "lib", "lib/../x", "a\0b"]))
def test_plain_paths_are_absolute_and_do_not_climb(name: str) -> None:
    path = plain(name)
    assert not path or (path.startswith("/") and ".." not in path.split("/"))


@given(st.binary(max_size=600))
def test_no_archive_breaks_the_reader(data: bytes) -> None:
    with suppress(MalformedError):
        unpack(io.BytesIO(data), Path("/none"), lambda _: False)


# -- output as it comes ----------------------------------------------------------------------------


def test_output_of_a_command_is_read_as_it_comes(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc")
    with reading("cat", source=tmp_path / "in") as output:
        assert output.read(1) == b"a"


def test_command_that_fails_at_its_end_is_an_error() -> None:
    with pytest.raises(CommandError, match="failed with 3") as failed:  # noqa: SIM117
        with reading("sh", "-c", "echo out; echo why >&2; exit 3") as output:
            assert output.read() == b"out\n"
    assert failed.value.hint == "why"
    with pytest.raises(CommandError, match="not installed"), reading("/no/such/program"):
        pass


def archive_of(*members: tarfile.TarInfo) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    packed.seek(0)
    return packed


def everything(_: str) -> bool:
    return True


def test_path_of_a_thousand_directories_is_passed_over(tmp_path: Path) -> None:
    """Neither could be made, or removed again, without as many calls of a function."""
    deep = tarfile.TarInfo("usr/lib/" + "a/" * 1900 + "x.so")
    steps = [tarfile.TarInfo("usr/lib/" + "b/" * depth) for depth in (60, 120, 180)]
    for step in steps:
        step.type = tarfile.DIRTYPE
    assert unpack(archive_of(deep, *steps), tmp_path, everything) == ()
    assert len(list(tmp_path.rglob("*"))) < 70


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_header_before_a_header_is_not_read_whatever_its_size(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1 << 20
    with pytest.raises(MalformedError, match="a header of 1048576 bytes"):
        unpack(archive_of(header), tmp_path, everything)
