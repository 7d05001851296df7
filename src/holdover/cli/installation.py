# SPDX-License-Identifier: Apache-2.0
"""Whether this holdover outlives the distribution's own change of Python.

A package's does. A virtual environment is bound to one version of its base interpreter. If that is
the distribution's, it dies in the middle of an upgrade to the next release, with hooks to be run.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import holdover

__all__ = ["Installation", "REMEDY"]

REMEDY = (
    "install the package instead (`make deb`, `make rpm`), or make a virtual environment with a"
    " Python that is not the distribution's, and `holdover enable` from there"
)
_DISTRIBUTIONS = ("/usr", "/")
"""Prefixes of an interpreter that the distribution replaces; /bin may be a link to /usr/bin."""
_PACKAGED = re.compile(r"/usr/lib(?:64)?/python3(?:\.[0-9]+)?/")
"""Where the distribution's packages put modules: they change together with Python."""


@dataclass(frozen=True, slots=True)
class Installation:
    """Where modules and interpreter are; sys(3) has the meaning of both prefixes."""

    modules: Path
    prefix: str
    base_prefix: str

    @classmethod
    def own(cls) -> "Installation":
        """That which is running."""
        return cls(Path(str(holdover.__file__)).parent, sys.prefix, sys.base_prefix)

    @property
    def problem(self) -> str:
        """What an upgrade of the distribution's Python does to it, or ""."""
        if self.base_prefix not in _DISTRIBUTIONS:
            return ""
        if self.prefix != self.base_prefix:
            return (
                f"holdover runs in the virtual environment {self.prefix}, made with the"
                " distribution's Python: when an upgrade changes that, the hooks stop working"
            )
        bound = any(re.fullmatch(r"python3\.[0-9]+", part) for part in self.modules.parts)
        if bound and not _PACKAGED.match(f"{self.modules}/"):
            return (
                f"holdover is installed in {self.modules}, where only this version of Python looks:"
                " when an upgrade changes that, the hooks stop working"
            )
        return ""
