# SPDX-License-Identifier: Apache-2.0
"""`python -m manual`: write every generated file."""

from pathlib import Path

from manual.completions import bash, fish, zsh
from manual.hints import hints
from manual.pages import holdover_8, holdover_toml_5

__all__ = ["generated"]

SHARE = Path(__file__).parents[1] / "share"
HINTS = Path(__file__).parents[1] / "src/holdover/hints.py"


def generated() -> dict[Path, str]:
    """Each file with what it has to contain."""
    return {
        SHARE / "man/holdover.8": holdover_8(),
        SHARE / "man/holdover.toml.5": holdover_toml_5(),
        SHARE / "completions/holdover.bash": bash(),
        SHARE / "completions/_holdover": zsh(),
        SHARE / "completions/holdover.fish": fish(),
        HINTS: hints(),
    }


if __name__ == "__main__":
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        print(path.relative_to(SHARE.parent))
