# SPDX-License-Identifier: Apache-2.0
"""Inputs made of others, always the same ones: no coverage guides them, and no library is needed.

A finding of the long run goes into the corpus; these are to notice, in seconds, what a change of a
parser breaks. `swollen` are those that cost more than they should where work grows with the square
of the input, or where something is nested as deep as the input likes.
"""

import random
import re
import struct
from collections.abc import Iterator, Sequence

__all__ = ["mutations", "swollen"]

_NUMBERS = (0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**47, 2**63, 2**64 - 1)
_WORDS = (
    *(b"\0", b"\n", b" ", b"/", b"..", b"-1", b"0", b"9" * 5000, b"1e999", b"NaN", b"\xff\xfe"),
    *(b"\xed\xb2\x80", "\u0661".encode(), b"{}", b"[]", b"null", b'""', b"&#", b"%", b"$ORIGIN"),
)
_PIECE = re.compile(rb"[0-9]+|[A-Za-z]+|[^0-9A-Za-z]")
_NESTED = ((b"[", b"]"), (b'{"a":', b"}"), (b"(", b")"), (b"a.", b"a=1"))
_DEPTHS = (900, 980, 1000, 50_000)
_REPEATS = 6
"""Parts of an input that are repeated."""


def mutations(seeds: Sequence[bytes], count: int, longest: int) -> Iterator[bytes]:
    """So many, each some steps away from one or two of the seeds."""
    chance = random.Random(0)  # noqa: S311 - the same each time
    for number in range(count):
        data = seeds[number % len(seeds)]
        for _ in range(chance.choice((1, 1, 2, 4))):
            data = chance.choice(_STEPS)(data, chance, seeds)
        yield data[:longest]


def _overwrite(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """With a number, as binary formats have them."""
    size = chance.choice("BHIQ")
    number = chance.choice(_NUMBERS) % (1 << 8 * struct.calcsize(size))
    at = chance.randrange(len(data) + 1) // 2 * 2
    return data[:at] + struct.pack(f"<{size}", number) + data[at + struct.calcsize(size) :]


def _flip(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) or 1)
    return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]


def _cut(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + data[at + chance.randrange(64) :]


def _replace(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    """One piece of a text by a word."""
    places = [piece.span() for piece in _PIECE.finditer(data[: 1 << 16])] or [(0, 0)]
    start, end = chance.choice(places)
    return data[:start] + chance.choice(_WORDS) + data[end:]


def _repeat(data: bytes, chance: random.Random, _: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    part = data[at : at + chance.choice((1, 4, 16, 64))]
    return data[:at] + part * chance.choice((2, 8, 64)) + data[at:]


def _splice(data: bytes, chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    other = chance.choice(seeds)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


_STEPS = (_overwrite, _flip, _cut, _replace, _replace, _repeat, _splice)


def swollen(seed: bytes, size: int) -> Iterator[bytes]:
    """The seed with one of its parts repeated until it has so many bytes; and deep nestings."""
    for part in _parts(seed):
        at = seed.index(part) + len(part)
        yield seed[:at] + part * (size // len(part)) + seed[at:]
        yield part * (size // len(part))
    for opening, closing in _NESTED:
        for depth in _DEPTHS:
            yield (opening * depth + closing * depth)[:size]


def _parts(seed: bytes) -> list[bytes]:
    """Lines and pieces, each once, spread over the whole seed."""
    lines = [line for line in re.split(rb"(?<=[\n\0])", seed) if line]
    pieces = [piece[0] for piece in _PIECE.finditer(seed)]
    found = []
    for among in (lines, pieces):
        unique = list(dict.fromkeys(among))
        found += unique[:: max(1, len(unique) // (_REPEATS // 2))][: _REPEATS // 2]
    return found
