# SPDX-License-Identifier: Apache-2.0
"""holdover on a release whose Python is too old for it: it brings a newer release's along.

Loader, libraries, interpreter and standard library come from the root of a newer Debian and lie in
a directory that no package owns. Nothing of the system's own Python or libc is used, so that an
upgrade may take those apart while holdover runs.
"""

import shutil
from pathlib import Path

from holdover.demo.root import install_holdover
from holdover.run import run

__all__ = ["install_with_python"]

_HOME = "opt/holdover/python"

# without the cache, so that a library that was forgotten is missed at once
_SCRIPT = """\
#!/bin/sh
home=/{home}
exec $home/{loader} --inhibit-cache --library-path $home/lib $home/bin/{python} -I \\
    -c 'import sys; from holdover.cli.main import main; sys.exit(main())' "$@"
"""


def install_with_python(root: Path, donor: Path) -> None:
    """Put holdover into `root` together with the Python and the rich of `donor`, another root."""
    python = (donor / "usr/bin/python3").resolve()
    home = root / _HOME
    libraries = _libraries(donor, python)
    loader = next(name for name in libraries if name.startswith("ld-"))
    for directory in ("bin", "lib"):
        (home / directory).mkdir(parents=True)
    shutil.copy2(python, home / "bin")
    shutil.copy2(libraries.pop(loader), home / loader)
    for name, library in libraries.items():
        shutil.copy2(library, home / "lib" / name)
    for modules in (python.name, "python3"):
        run("cp", "--archive", donor / "usr/lib" / modules, home / "lib")
    script = _SCRIPT.format(home=_HOME, loader=loader, python=python.name)
    install_holdover(root, packages=home / "lib/python3/dist-packages", script=script)


def _libraries(donor: Path, python: Path) -> dict[str, Path]:
    """What the interpreter and its extension modules link to, by the name they ask for."""
    extensions = (donor / "usr/lib" / python.name / "lib-dynload").glob("*.so")
    objects = [f"/{path.relative_to(donor)}" for path in (python, *extensions)]
    words = run("chroot", donor, "ldd", *objects).stdout.split()
    found = {word for word in words if word.startswith("/") and not word.endswith(":")}
    # inside, because a link there may be absolute
    files = run("chroot", donor, "realpath", *found).stdout.split()
    return {
        Path(name).name: donor / file.lstrip("/") for name, file in zip(found, files, strict=True)
    }
