# SPDX-License-Identifier: Apache-2.0
"""Where `holdover run` points a program: a directory of its build, which need not be there. Pure.

    /usr/lib/holdover/run/qemu-<build-id>  ->  ../view/<snapshot>

The name follows from the build alone, so that nothing has to be written or asked when the program
is started. LD_LIBRARY_PATH is part of it: what was found there must not reach a guest without.
"""

from pathlib import Path

__all__ = ["places", "place_name"]


def places(views: Path) -> Path:
    """The directory of all these, beside that of the store's views."""
    return views.parent / "run"


def place_name(program: str, build_id: str, library_path: str = "") -> str:
    """The one for processes of a build that were started with this LD_LIBRARY_PATH."""
    if not library_path:
        return f"{program}-{build_id}"
    import hashlib  # OpenSSL comes with it

    digest = hashlib.sha256(library_path.encode("utf-8", "surrogateescape")).hexdigest()
    return f"{program}-{build_id}-{digest[:12]}"
