# SPDX-License-Identifier: Apache-2.0
"""Package archives with a signature of their own, made of packages that a lab has downloaded."""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from holdover.run import run

__all__ = ["Signer", "signer", "write_archive"]


class Signer:
    """A key that nobody trusts before he has `public`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._gpg = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--yes")
        key = ("--quick-generate-key", "Lab <lab@localhost>", "ed25519", "sign", "never")
        run(*self._gpg, "--passphrase", "", *key)
        self.public = run(*self._gpg, "--armor", "--export").stdout

    def sign(self, release: Path) -> None:
        """Write InRelease beside a Release file."""
        signed = str(release.with_name("InRelease"))
        run(*self._gpg, "--clear-sign", "--output", signed, str(release))

    def sign_package(self, package: Path) -> None:
        """Put a signature into an rpm package, as a new file: others may have links to it."""
        copy = package.with_name(f"{package.name}.signed")
        shutil.copy(package, copy)
        macros = {"_gpg_name": "lab@localhost", "_gpg_path": self._home, "__gpg": "/usr/bin/gpg"}
        defined = (word for key, value in macros.items() for word in ("--define", f"{key} {value}"))
        run("rpmsign", *defined, "--addsign", copy)
        copy.rename(package)


@contextmanager
def signer() -> Iterator[Signer]:
    with tempfile.TemporaryDirectory() as home:
        yield Signer(Path(home))
        run("gpgconf", "--homedir", home, "--kill", "all")


def write_archive(
    directory: Path, suite: str, packages: Mapping[Path, str], by: Signer, *, codename: str = ""
) -> None:
    """An archive with one suite; each package file with what apt said of it (apt-cache show)."""
    pool, index = directory / "pool", directory / f"dists/{suite}/main/binary-amd64/Packages"
    pool.mkdir(parents=True, exist_ok=True)
    index.parent.mkdir(parents=True)
    stanzas = []
    for deb, record in packages.items():
        name = deb.name.replace("%3a", ":").replace(":", "")
        shutil.copyfile(deb, pool / name)
        lines = [x for x in record.strip().split("\n") if not x.startswith("Filename: ")]
        stanzas.append("\n".join([*lines, f"Filename: pool/{name}", "", ""]))
    index.write_text("".join(stanzas))
    release = directory / f"dists/{suite}/Release"
    release.write_text(_release(suite, codename or suite, [index], release.parent))
    by.sign(release)
    release.unlink()


def _release(suite: str, codename: str, indexes: Sequence[Path], below: Path) -> str:
    lines = [f"Suite: {suite}", f"Codename: {codename}", "Date: Thu, 01 Jan 2026 00:00:00 UTC"]
    lines += ["Architectures: amd64", "Components: main", "SHA256:"]
    for index in indexes:
        content = index.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f" {digest} {len(content)} {index.relative_to(below)}")
    return "\n".join(lines) + "\n"
