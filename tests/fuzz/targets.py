# SPDX-License-Identifier: Apache-2.0
"""All targets by name, and the corpus of each."""

from pathlib import Path

from fuzz import fetching, managers, objects, processes, records
from fuzz.target import Target

__all__ = ["TARGETS", "CORPUS", "corpus_of"]

TARGETS: dict[str, Target] = {
    **objects.TARGETS,
    **processes.TARGETS,
    **managers.TARGETS,
    **fetching.TARGETS,
    **records.TARGETS,
}
CORPUS = Path(__file__).parent / "corpus"


def corpus_of(name: str) -> dict[str, bytes]:
    """Inputs by the name of their file."""
    return {path.name: path.read_bytes() for path in sorted((CORPUS / name).iterdir())}
