# SPDX-License-Identifier: Apache-2.0
"""Which subdirectories the loader searches on which processor."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.real import libraries

from holdover.errors import CommandError
from holdover.hwcaps import hwcaps_directories
from holdover.run import run

V1 = "fpu mmx sse sse2 syscall nx lm"
V2 = f"{V1} cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


def levels(flags: str) -> list[str]:
    cpuinfo = f"processor\t: 0\nmodel name\t: Some\nflags\t\t: {flags}\nbugs\t\t: avx2\n\n"
    return [name.removeprefix("glibc-hwcaps/x86-64-") for name in hwcaps_directories(cpuinfo)]


@pytest.mark.parametrize(
    ("flags", "found"),
    [(V1, []), (V2, ["v2"]), (V3, ["v3", "v2"]), (V4, ["v4", "v3", "v2"])],
)
def test_each_level_comes_with_those_below_it_the_best_first(flags: str, found: list[str]) -> None:
    assert levels(flags) == found


@pytest.mark.parametrize("flag", V4.removeprefix(V1).split())
def test_level_needs_every_one_of_its_flags(flag: str) -> None:
    without = " ".join(word for word in V4.split() if word != flag)
    assert len(levels(without)) < 3


def test_level_above_one_that_is_not_there_does_not_count() -> None:
    assert levels(V4.replace("popcnt", "")) == []


@pytest.mark.parametrize("text", ["", "\n", "flags", "Features : fp asimd evtstrm", "x: avx\n"])
def test_processor_that_tells_nothing_has_no_directories(text: str) -> None:
    assert hwcaps_directories(text) == ()


@given(st.text())
def test_any_text_is_answered(text: str) -> None:
    assert len(hwcaps_directories(text)) <= 3


def test_loader_of_this_system_searches_the_same_ones() -> None:
    loader = next(path for path in libraries() if path.name.startswith("ld-"))
    try:
        told = run(loader, "--help").stdout
    except CommandError as error:
        pytest.skip(f"this loader does not say: {error}")
    searched = re.findall(r"^  (x86-64-v\d) \(supported, searched\)$", told, re.MULTILINE)
    if "glibc-hwcaps" not in told:
        pytest.skip("this loader knows no glibc-hwcaps")
    found = hwcaps_directories(Path("/proc/cpuinfo").read_text())
    assert list(found) == [f"glibc-hwcaps/{level}" for level in searched]
