# SPDX-License-Identifier: Apache-2.0
"""Everything that is parsed, as targets for fuzzing (docs/decisions/0014-fuzzing.md).

`targets.TARGETS` is the list; `corpus/NAME` holds what each begins with: real inputs, and every
input that once was a finding. The usual tests replay the corpus and a bounded number of mutations
(unit/test_fuzz.py); `make fuzz` is the long run, guided by coverage.
"""
