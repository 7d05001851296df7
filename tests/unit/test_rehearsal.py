# SPDX-License-Identifier: Apache-2.0
"""What runs of a stand-in prove about each module that is held."""

from collections.abc import Iterable

import pytest
from unit.factories import held_file, holding, process, snapshot

from holdover.cli.rehearse import _rehearsal_json, _summary
from holdover.loaderlog import Load
from holdover.rehearsal import ModuleProof, Proof, Rehearsal
from holdover.run import watch
from holdover.standin import Ending
from holdover.steps.rehearse import _judge, _Run

CURL, RBD = "block-curl", "block-rbd"
HELD = holding(snapshot("qemu-held", [held_file(CURL), held_file(RBD), held_file("lib/libz.so.1")]))
UNTRIED = "nothing asked for it"


def run(*names: str, failing: Iterable[str] = (), code: int | None = 0, output: str = "") -> _Run:
    """A run that asked for these modules, in order."""
    loads = tuple(Load(f"{HELD.view}/{n}.so", "no libz" if n in failing else "") for n in names)
    return _Run("qemu -x", Ending(output, code), loads)


def judged(*runs: _Run) -> tuple[dict[str, tuple[str, str]], tuple[str, ...]]:
    done = _judge(process(), HELD, runs)
    return {m.name: (str(m.result), m.reason) for m in done.modules}, done.problems


def test_module_that_was_loaded_loads_and_what_nobody_asked_for_is_untried() -> None:
    assert judged(run(CURL), run()) == (
        {CURL: ("loads", ""), RBD: ("untried", UNTRIED)},
        (),
    )


def test_modules_may_be_loaded_in_several_runs() -> None:
    seen, _ = judged(run(CURL), run(RBD))
    assert {result for result, _ in seen.values()} == {"loads"}


@pytest.mark.parametrize(
    "runs", [(run(RBD), run(RBD, failing=[RBD])), (run(RBD, RBD, failing=[RBD]),)]
)
def test_one_failure_is_enough(runs: tuple[_Run, ...]) -> None:
    assert judged(*runs)[0][RBD] == ("fails", "no libz")


def test_decoy_that_is_refused_is_no_failure() -> None:
    seen, problems = judged(run(CURL, "ui-gtk", RBD, failing=["ui-gtk"]))
    assert set(seen) == {CURL, RBD}
    assert problems == ()
    assert {result for result, _ in seen.values()} == {"loads"}


@pytest.mark.parametrize(("code", "name"), [(139, "SIGSEGV"), (134, "SIGABRT"), (-9, "SIGKILL")])
def test_death_is_the_fault_of_the_module_that_was_asked_for_last(code: int, name: str) -> None:
    seen, problems = judged(run(CURL, RBD, code=code))
    assert seen[CURL] == ("loads", "")
    assert seen[RBD] == ("fails", f"`qemu -x` died of {name} after it had asked for block-rbd")
    assert problems == ()


def test_run_that_does_not_end_is_the_fault_of_the_module_that_was_asked_for_last() -> None:
    seen, _ = judged(run(RBD, code=None))
    assert seen[RBD] == (
        "fails",
        "`qemu -x` did not end within 60 s after it had asked for block-rbd",
    )


def test_death_before_anything_was_loaded_is_a_failure_of_the_rehearsal() -> None:
    seen, problems = judged(run(code=139), run(CURL))
    assert seen == {CURL: ("loads", ""), RBD: ("untried", UNTRIED)}
    assert problems == ("`qemu -x` died of SIGSEGV before it asked for a module",)


def test_death_after_a_decoy_is_a_failure_of_the_rehearsal() -> None:
    assert judged(run(CURL, RBD, "ui-gtk", code=134))[1] == (
        "`qemu -x` died of SIGABRT after it had asked for ui-gtk",
    )


def test_run_that_loaded_something_may_end_as_it_likes() -> None:
    assert judged(run(CURL, code=1), run(RBD, code=255))[1] == ()


def test_run_that_a_build_does_not_know_does_no_harm() -> None:
    seen, problems = judged(run(CURL), run(code=1, output="unknown option\n"))
    assert seen == {CURL: ("loads", ""), RBD: ("untried", UNTRIED)}
    assert problems == ()


def test_rehearsal_that_tried_nothing_at_all_has_failed() -> None:
    done = _judge(process(), HELD, [run(code=1, output="no such machine\n\n      7:\tfini\n")])
    assert done.count(Proof.UNTRIED) == 2
    assert done.failure == "no module was tried: `qemu -x` ended with 1: no such machine"


def test_snapshot_without_modules_has_nothing_to_fail() -> None:
    done = _judge(process(), holding(snapshot()), [run(code=1)])
    assert (done.modules, done.problems, done.failure) == ((), (), "")


def test_failure_names_the_first_and_counts_the_rest() -> None:
    one, both = run(CURL, RBD, failing=[RBD]), run(CURL, RBD, failing=[CURL, RBD])
    assert _judge(process(), HELD, [run(CURL, RBD)]).failure == ""
    assert _judge(process(), HELD, [one]).failure == "block-rbd fails: no libz"
    assert _judge(process(), HELD, [both]).failure == "block-curl fails: no libz (and 1 more)"


# -- how it is told ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "said"),
    [
        ("", "No module is held for it: there is nothing that could load."),
        ("l", "1 of 1 module loads."),
        ("ll", "2 of 2 modules load."),
        ("llu", "2 of 3 modules load; 1 was not tried: nothing asked for it."),
        ("lluuf", "2 of 5 modules load; 1 fails; 2 were not tried: nothing asked for them."),
        ("ff", "0 of 2 modules load; 2 fail."),
    ],
)
def test_summary_is_a_plain_sentence(results: str, said: str) -> None:
    kinds = {kind.value[0]: kind for kind in Proof}
    modules = tuple(ModuleProof(f"m{n}", kinds[letter]) for n, letter in enumerate(results))
    assert _summary(Rehearsal(process(), "qemu-held", modules)) == said


def test_json_has_all_its_keys() -> None:
    done = _judge(process(), HELD, [run(CURL, code=139)])
    answer = _rehearsal_json(done)
    assert answer.keys() == {
        *("schema", "pid", "start_time", "name", "snapshot", "modules", "problems")
    }
    assert answer["schema"] == "holdover.rehearsal/1"
    assert answer["modules"] == [
        {"name": CURL, "result": "fails", "reason": done.modules[0].reason},
        {"name": RBD, "result": "untried", "reason": UNTRIED},
    ]


def test_who_writes_without_end_is_not_listened_to_without_end() -> None:
    seen = watch("yes", text="", timeout=60, most=1 << 16)
    assert seen.code is None
    assert 1 << 16 <= len(seen.output) <= 1 << 17


def test_what_a_command_is_told_it_reads() -> None:
    seen = watch("sh", "-c", "cat; echo end >&2; exit 3", text="x" * 200_000, timeout=60)
    assert (seen.code, seen.output) == (3, "x" * 200_000 + "end\n")
    assert watch("sh", "-c", "echo a; exec sleep 60", text="", timeout=0.5).code is None
