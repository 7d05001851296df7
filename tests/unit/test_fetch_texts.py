# SPDX-License-Identifier: Apache-2.0
"""What is parsed on the way to old packages: hostile text gives our errors, and none other."""

import json
import lzma
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.hostile import sparse

from holdover.errors import CommandError, MalformedError
from holdover.packages.fetch import PackageFile, package_version, repodata
from holdover.packages.fetch import aptsources as sources
from holdover.packages.fetch import apttext as text
from holdover.packages.fetch.indexes import _text as answer_of
from holdover.packages.fetch.private import parse_shell
from holdover.packages.fetch.repodata import parse_primary, parse_unsigned, repository_of
from holdover.packages.fetch.rpm import parse_checksig, version_release
from holdover.packages.fetch.snapshots import binfiles_address, parse_binfiles, sources_at

URIS = """\
Reading package lists...
'http://m/qemu-block-extra_7%2bd-7_amd64.deb' qemu-block-extra_1%3a7+d-7_amd64.deb 105 SHA256:5C10
'http://mirror/pool/s/seabios_1.16.2-1_all.deb' seabios_1.16.2-1_all.deb 162656 \n"""
ONE_LINE = """\
# deb http://commented/out bookworm main
deb http://mirror/debian bookworm main contrib # and why
deb-src http://mirror/debian bookworm main
deb [arch=amd64 signed-by=/a.gpg,/b.gpg] http://other/ stable main
deb [trusted=yes] file:/srv/local ./
deb [allow-insecure=yes] http://insecure/ x main
deb [trusted=no] http://sound/ x main
"""
DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://third/party
Suites: x
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://unverified
Suites: x
Components: main
Trusted: yes

Types: deb-src
URIs: http://mirror/debian
"""
TARGETS = """\
MetaKey: main/binary-amd64/Packages
Filename: /var/lib/apt/lists/mirror_dists_bookworm_main_binary-amd64_Packages.lz4
Codename: bookworm
Trusted: yes
Component: main
Created-By: Packages
Release: oldstable
Repo-URI: http://mirror/debian/

MetaKey: main/i18n/Translation-en
Filename: /var/lib/apt/lists/x
Created-By: Translations
"""
PRIMARY = b"""\
<metadata packages="2"><package type="rpm"><name>qemu-core</name><arch>x86_64</arch>
<version epoch="2" ver="8.2.2" rel="1.fc40"/><checksum type="sha256" pkgid="YES">0af1</checksum>
<size package="123" installed="9" archive="9"/><location href="Packages/q/qemu-core.rpm"/>
<format><file>/usr/bin/qemu-system-x86_64</file></format></package>
<package type="rpm"><name>other</name></package></metadata>"""


def test_addresses_have_digests_where_apt_gives_them() -> None:
    block, seabios = text.parse_uris(URIS)
    assert (block.version, block.architecture, block.size) == ("1:7+d-7", "amd64", 105)
    assert block.file_name == "qemu-block-extra_7+d-7_amd64.deb"
    assert (block.digest, seabios.digest) == ("sha256:5c10", "")
    assert text.cache_name(block) == "qemu-block-extra_1%3a7+d-7_amd64.deb"


def test_address_that_makes_no_sense_is_not_left_out() -> None:
    """A package that is silently missing would be looked for in vain."""
    with pytest.raises(MalformedError, match="makes no sense"):
        text.parse_uris("'http://mirror/x.deb' ../x.deb 1 SHA256:0\n")


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fx.deb", "a%00.deb", "..", ""])
def test_address_does_not_make_a_name_that_leads_elsewhere(name: str) -> None:
    with pytest.raises(MalformedError, match="no package file can be called"):
        text.parse_uris(f"'http://m/pool/{name}' a_1_amd64.deb 105 SHA256:5C10\n")


def test_resolved_packages_are_arguments_for_apt() -> None:
    assert text.parse_resolved(URIS, "amd64") == (
        "qemu-block-extra=1:7+d-7",
        "seabios=1.16.2-1",
    )
    assert text.parse_resolved(URIS, "arm64")[0] == "qemu-block-extra:amd64=1:7+d-7"


def test_versions_of_madison() -> None:
    said = " a | 2 | x main\n a | 2 | y main\n a | 1 | x main\nW: nothing\n b | 3 | x main\n"
    assert text.parse_madison(said) == {"a": ("2", "1"), "b": ("3",)}


def test_records_and_who_names_whom() -> None:
    said = "Package: a\nVersion: 1\nDepends: x (= 1) | b (>= 2), c\nDescription: d\n more: e\n"
    (record,) = text.parse_records(said)
    assert record["Depends"].startswith("x ")
    assert text.depends_on(record, ["b"])
    assert not text.depends_on(record, ["d"])


def test_owners_without_diversions() -> None:
    said = "diversion by x from: /usr/bin/a\nqemu-x:amd64: /usr/bin/a\nb, c:all: /usr/lib/d.so\n"
    assert text.parse_owners(said) == ("qemu-x", "b", "c")


@pytest.mark.parametrize(
    ("said", "size"),
    [("Fetched 11.5 MB in 1s", 11_500_000), ("Fetched 9,123 kB in 0s", 9_123_000), ("x", 0)],
)
def test_bytes_downloaded(said: str, size: int) -> None:
    assert text.parse_downloaded(said) == size


def test_sources_that_go_without_signatures_are_left_out() -> None:
    entries = sources.parse_one_line(ONE_LINE)
    assert [entry.uris[0] for entry in entries] == [
        "http://mirror/debian",
        "http://other/",
        "http://sound/",
    ]
    assert entries[0].components == ("main", "contrib")
    assert entries[1].keys == "/a.gpg /b.gpg"
    ours, third = sources.parse_deb822(DEB822)
    assert ours.suites == ("trixie", "trixie-updates")
    assert third.keys.startswith("\n -----BEGIN PGP")


def test_line_of_a_key_is_no_file_of_keys() -> None:
    ours, third = sources.parse_deb822(DEB822.replace(" abc", " /abc/debian-archive-keys"))
    assert sources.key_files(ours.keys) == ("/usr/share/keyrings/debian-archive-keyring.gpg",)
    assert sources.key_files("/a.gpg,/b.gpg 0123ABCD") == ("/a.gpg", "/b.gpg")
    assert sources.key_files(third.keys) == ()
    assert sources.keys_for((ours, third), "http://third/party/") == third.keys


def test_same_mirror_for_another_release() -> None:
    targets = sources.parse_targets(TARGETS)
    assert len(targets) == 1
    assert sources.own_codename(targets, "") == "bookworm"
    found = sources.suites_of(targets, "bookworm", "bullseye")
    assert found == {"http://mirror/debian/": {"bullseye": ["main"]}}


def test_codename_without_lists_is_that_of_the_sources_or_of_the_system() -> None:
    entries = sources.parse_deb822(DEB822)
    assert sources.own_codename(sources.targets_of(entries), "") == "trixie"
    assert sources.own_codename((), 'A=b\nVERSION_CODENAME="bookworm"\n') == "bookworm"
    assert sources.own_codename((), "") == ""


@pytest.mark.parametrize(
    ("version", "own", "chosen", "first"),
    [
        ("1:7.2+dfsg-7+deb12u15", "trixie", (), ("bookworm",)),
        ("1:10.0.2+ds-2~bpo12+1", "trixie", (), ("bookworm",)),
        ("1:7.2+dfsg-7", "trixie", (), ("bookworm", "bullseye", "trixie")),
        ("1:8.2.2+ds-0ubuntu1", "noble", (), ("jammy", "noble")),
        ("1", "trixie", ("mine",), ("mine",)),
    ],
)
def test_releases_that_a_version_may_be_of(
    version: str, own: str, chosen: tuple[str, ...], first: tuple[str, ...]
) -> None:
    assert sources.codenames(version, own, chosen)[: len(first)] == first


@pytest.mark.parametrize(
    ("said", "versions"),
    [
        ("7.2.22 (Debian 1:7.2+dfsg-7)", ("1:7.2+dfsg-7", "Debian 1:7.2+dfsg-7")),
        ("8.2.2 (qemu-8.2.2-1.fc40)", ("qemu-8.2.2-1.fc40",)),
        ("7.2.22 ()", ()),
        ("7.2.22", ()),
    ],
)
def test_version_of_the_package(said: str, versions: tuple[str, ...]) -> None:
    assert package_version(said) == versions


def test_version_and_release_of_rpm() -> None:
    assert version_release("8.2.2 (qemu-8.2.2-1.fc40)") == ("8.2.2-1.fc40",)
    assert version_release("8.2.0 (qemu-kvm-8.2.0-11.el9_4.6)") == ("8.2.0-11.el9_4.6",)
    assert version_release("7.2.22 (Debian 1:7.2+dfsg-7)") == ()


def test_signatures_are_more_than_digests() -> None:
    assert parse_checksig("/a: b.rpm: digests signatures OK\n") == (True, True)
    assert parse_checksig("/a.rpm: digests OK\n") == (True, False)
    assert parse_checksig("/a.rpm: digests SIGNATURES NOT OK\n") == (False, False)
    assert parse_checksig("") == (False, False)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_index_of_a_repository_in_blocks_of_any_size(size: int) -> None:
    blocks = [PRIMARY[at : at + size] for at in range(0, len(PRIMARY), size)]
    (entry,) = parse_primary(blocks, lambda _: True, "lab")
    assert entry.file.version == "2:8.2.2-1.fc40"
    assert (entry.version, entry.file.digest) == ("8.2.2-1.fc40", "sha256:0af1")
    assert entry.programs == ("/usr/bin/qemu-system-x86_64",)
    assert entry.file.file_name == "qemu-core.rpm"
    assert list(parse_primary(blocks, lambda name: name == "x", "lab")) == []


def test_repositories_by_where_their_index_is() -> None:
    assert repository_of(Path("/c/fedora-0123456789abcdef/repodata/x-primary.xml.gz")) == "fedora"
    assert repository_of(Path("/c/raw/repo-oss/repodata/x-primary.xml.gz")) == "repo-oss"


def test_repositories_without_signatures_say_so() -> None:
    said = "[a]\ngpgcheck=0\n[b]\ngpgcheck = 1\n[c]\nname=x\n[d]\nrepo_gpgcheck=0\npkg_gpgcheck=1\n"
    assert parse_unsigned(said) == {"a"}


# -- the archive of superseded builds ------------------------------------------------------------


def binfiles(**changes: Any) -> str:
    info = {"archive_name": "debian-security", "first_seen": "20260102T030405Z", **changes}
    other = {**info, "archive_name": "debian", "first_seen": "20260202T000000Z"}
    result = [{"architecture": "amd64", "hash": "a"}, {"architecture": "arm64", "hash": "b"}]
    return json.dumps({"result": result, "fileinfo": {"a": [other, info], "b": [{}]}})


def test_earliest_place_of_a_file_comes_first() -> None:
    first, second = parse_binfiles(binfiles(), "amd64")
    assert (first.archive, first.time) == ("debian-security", datetime(2026, 1, 2, 3, 4, 5))
    assert second.archive == "debian"


def test_archive_does_not_keep_us_busy_for_ever(tmp_path: Path) -> None:
    answer = json.loads(binfiles())
    times = [f"20260102T{hour:02}{minute:02}00Z" for hour in range(24) for minute in range(60)]
    answer["fileinfo"]["a"] = [{"archive_name": "debian", "first_seen": t} for t in times]
    assert len(parse_binfiles(json.dumps(answer), "amd64")) == 8
    endless = sparse(tmp_path / "answer", b"{", 1 << 42)
    assert len(answer_of(endless)) == 1 << 24


@pytest.mark.parametrize("name", ["../x", "a b", "", 7, "http://x"])
def test_name_that_is_none_does_not_become_an_address(name: object) -> None:
    with pytest.raises(MalformedError):
        parse_binfiles(binfiles(archive_name=name), "amd64")


def test_addresses_of_the_archive() -> None:
    wanted = "http://s/mr/binary/q/1%3A7%2Bd/binfiles?fileinfo=1"
    assert binfiles_address("http://s/", "q", "1:7+d") == wanted
    seen = parse_binfiles(binfiles(), "amd64")
    tried = list(sources_at("http://s", seen, "bookworm", lambda _: "", dependencies=False))
    time, (first,) = tried[0]
    assert time == "20260102T030405Z"
    assert f"URIs: http://s/archive/debian-security/{time}/\n" in first
    assert "Suites: bookworm-security\n" in first
    assert "bookworm-proposed-updates" in tried[1][1][0]


# -- hostile text ----------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["result", "fileinfo", "hash", "a"]), inner, max_size=3),
)


@given(st.text() | JSON.map(json.dumps))
def test_no_answer_of_the_archive_breaks_the_parser(said: str) -> None:
    with suppress(MalformedError):
        parse_binfiles(said, "amd64")


@given(st.text(alphabet=st.sampled_from(list("'deb[]=: \n|_%ab1.+-(),/#\t")), max_size=200))
def test_no_text_of_apt_breaks_a_parser(said: str) -> None:
    for parse in (
        *(text.parse_madison, text.parse_records, text.parse_owners, text.parse_downloaded),
        *(sources.parse_one_line, sources.parse_deb822, sources.parse_targets),
        *(parse_unsigned, parse_checksig, package_version, version_release),
    ):
        parse(said)
    try:
        files: tuple[PackageFile, ...] = text.parse_uris(said)
    except MalformedError:
        return
    assert all("/" not in file.file_name for file in files)


@given(
    st.lists(st.binary(max_size=50) | st.sampled_from([PRIMARY, b"</package>", b"<name>a</name>"]))
)
def test_no_index_breaks_the_parser(blocks: list[bytes]) -> None:
    for entry in parse_primary(blocks, lambda _: True, ""):
        assert "/" not in entry.file.file_name


@pytest.mark.parametrize("time", ["99991231T235959Z", "00010101T000000Z", "2023"])
def test_time_that_has_no_month_behind_it_is_malformed(time: str) -> None:
    known = {"a": [{"first_seen": time, "archive_name": "debian"}]}
    answer = json.dumps({"result": [{"hash": "a", "architecture": "all"}], "fileinfo": known})
    with pytest.raises(MalformedError):
        parse_binfiles(answer, "amd64")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"</format>", b"&#" + b"1" * 5000 + b";</format>"),
        (b'href="Packages/q/qemu-core.rpm"', b'href="Packages/q/.."'),
        (b'href="Packages/q/qemu-core.rpm"', b'href="Packages/q/"'),
        (b'href="Packages/q/qemu-core.rpm"', b'href="' + b"x" * 300 + b'"'),
    ],
)
def test_entry_that_makes_no_sense_is_left_out(old: bytes, new: bytes) -> None:
    assert old in PRIMARY
    assert list(parse_primary([PRIMARY.replace(old, new)], lambda _: True, "")) == []


def test_index_does_not_list_the_same_package_without_end() -> None:
    (package,) = (PRIMARY.partition(b"</package>")[0] + b"</package>",)
    with pytest.raises(MalformedError, match="of the same packages"):
        list(parse_primary([package] * 10_001, lambda _: True, ""))


def test_index_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repodata, "_MAX_INDEX", 10 * len(PRIMARY))
    with pytest.raises(MalformedError, match="has no end"):
        list(parse_primary([PRIMARY] * 11, lambda _: False, ""))


def test_xz_does_not_take_as_much_memory_as_it_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "primary.xml.xz"
    path.write_bytes(lzma.compress(PRIMARY))
    assert len(list(repodata.read_primary(path, lambda _: True))) == 1
    monkeypatch.setattr(repodata, "_MAX_MEMORY", 1 << 20)
    with pytest.raises(MalformedError, match="emory"):
        list(repodata.read_primary(path, lambda _: True))


def test_xz_that_is_cut_off_is_malformed(tmp_path: Path) -> None:
    path = tmp_path / "primary.xml.xz"
    path.write_bytes(lzma.compress(PRIMARY)[:-20])
    with pytest.raises(MalformedError, match="cannot be read"):
        list(repodata.read_primary(path, lambda _: True))


def test_field_of_many_lines_is_read_line_by_line() -> None:
    many = "Types: deb\nSigned-By:\n" + " x\n" * 500_000
    (entry,) = sources.parse_deb822(many)
    assert entry.keys.count("\n") == 500_000


@pytest.mark.parametrize("said", ["LIST='/etc", "A='" + "x" * 70_000 + "'"])
def test_answer_of_apt_config_that_makes_no_sense_is_our_error(said: str) -> None:
    with pytest.raises(CommandError, match="makes no sense"):
        parse_shell(said)
