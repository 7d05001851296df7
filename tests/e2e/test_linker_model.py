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


def compared(lab: Lab, *words: str) -> dict[str, Any]:
    answer = lab.root.run("python3", "-I", "-", *words, text=SCRIPT.read_text()).stdout
    result: dict[str, Any] = json.loads(answer)
    return result


@pytest.fixture(scope="module", params=["12", "13"])
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
