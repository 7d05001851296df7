# SPDX-License-Identifier: Apache-2.0
"""Which subdirectories of a library directory are for this processor. Pure.

Source: the x86-64 psABI, "Micro-Architecture Levels"; ld.so(8), "glibc-hwcaps"; glibc's
sysdeps/x86/get-isa-level.h. Names of flags are those of /proc/cpuinfo.
"""

__all__ = ["hwcaps_directories"]

_X86_64_LEVELS = (
    ("x86-64-v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86-64-v3", "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"),
    ("x86-64-v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)


def hwcaps_directories(cpuinfo: str) -> tuple[str, ...]:
    """Relative to a library directory, the preferred first; empty for other machines."""
    line = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    flags = set(line.partition(":")[2].split())
    levels: list[str] = []
    for level, wanted in _X86_64_LEVELS:
        if not flags.issuperset(wanted.split()):
            break
        levels.insert(0, f"glibc-hwcaps/{level}")
    return tuple(levels)
