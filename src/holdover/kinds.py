# SPDX-License-Identifier: Apache-2.0
"""Kinds of settings: how their values are written in a file, in a variable, on the command line.

Each `parse_*` takes what TOML or a string gave and raises `ValueError` with what was expected;
`show` writes a value so that it can be read again.
"""

import math
import re
from pathlib import Path

__all__ = [
    "parse_seconds",
    "parse_some_seconds",
    "parse_bytes",
    "parse_switch",
    "parse_path",
    "parse_words",
    "parse_address",
    "parse_addresses",
    "show",
]

_UNITS_OF_TIME = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86400}
_UNITS_OF_SIZE = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_MEASURE = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?([A-Za-z]*)", re.ASCII)
_ADDRESS = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&()*+,;=%\[\]-]{1,1000}", re.ASCII)
_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_LEAST_SECONDS = 0.01  # an interval timer takes less for "never"
_MAX_SECONDS = 100 * 365 * 86400


def parse_seconds(value: object) -> float:
    """A number of seconds, or a text like "30 s", "5 min", "90 d"."""
    return _measure(value, _UNITS_OF_TIME, _MAX_SECONDS, 'a time, like 30 or "5 min"')


def parse_some_seconds(value: object) -> float:
    """The same where no time at all would mean that nothing is ever done."""
    seconds = parse_seconds(value)
    if seconds < _LEAST_SECONDS:
        raise ValueError(f"at least {_LEAST_SECONDS} s are expected")
    return seconds


def parse_bytes(value: object) -> int:
    """A number of bytes, or a text like "2 GiB"."""
    return int(_measure(value, _UNITS_OF_SIZE, 1 << 60, 'a size, like 1048576 or "2 GiB"'))


def _measure(value: object, units: dict[str, int], most: int, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{expected} is expected")
    found = _MEASURE.fullmatch(str(value).strip())
    if found is None or found[2] not in units:
        raise ValueError(f"{expected} is expected")
    number = float(found[1]) * units[found[2]]
    if not math.isfinite(number) or number > most:
        raise ValueError(f"{expected} is expected, and less of it")
    return number


def parse_switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _SWITCH:
        return _SWITCH[value.lower()]
    raise ValueError("true or false is expected")


def parse_path(value: object) -> Path:
    """Absolute, and nothing that leads elsewhere than it says."""
    if isinstance(value, str) and "\0" not in value:
        path = Path(value)
        if path.is_absolute() and ".." not in path.parts:
            return path
    raise ValueError("an absolute path is expected")


def parse_words(value: object) -> tuple[str, ...]:
    """A list of words, or a text with commas or blanks between them."""
    words = re.split(r"[,\s]+", value.strip()) if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError('a list of words is expected, like ["one", "two"]')
    return tuple(word for word in words if word)


def parse_address(value: object) -> str:
    """Of a server; "" for none."""
    if value == "" or (isinstance(value, str) and _ADDRESS.fullmatch(value)):
        return str(value)
    raise ValueError("an address is expected, like https://example.org/path")


def parse_addresses(value: object) -> tuple[str, ...]:
    """A list of addresses, or a text with commas or blanks between them."""
    return tuple(parse_address(word) for word in parse_words(value))


def show(value: object) -> str:
    """As it can be written into a configuration file."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _show_seconds(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{word}"' for word in value) + "]"
    return str(value) if isinstance(value, int) else f'"{value}"'


def _show_seconds(value: float) -> str:
    for unit in ("d", "h", "min"):
        count, rest = divmod(value, _UNITS_OF_TIME[unit])
        if count and not rest:
            return f'"{count:.0f} {unit}"'
    return f"{value:.6f}".rstrip("0").rstrip(".")
