# SPDX-License-Identifier: Apache-2.0
"""Adopts a guest and lets it go, again and again: by the command, and by what the command runs."""

import json

from lab.chroot import Lab

__all__ = ["adopt_and_release"]

# Arguments: pid, delivery, rounds. It is one process: a start of Python takes as long as a round.
# What was not as it should be is told in JSON.
_SCRIPT = """
import json, sys
from holdover.cli.arguments import parse_arguments
from holdover.cli.setup import make_holdover, read_config
from holdover.errors import HoldoverError
from holdover.releasing import release
from holdover.steps.plan import Aim
pid, delivery, rounds = sys.argv[1:]
config = read_config(parse_arguments(["protect", "--delivery", delivery, pid]))
holdover = make_holdover(config, ask_journal=True)
failed = []
for number in range(int(rounds)):
    try:
        (protected,) = holdover.carry_out(Aim.PROTECT, [int(pid)]).outcomes
        released = release(holdover, int(pid))
    except HoldoverError as error:
        failed.append([number, str(error)])
        continue
    seen = [(o.state, o.delivery, o.changed, o.failed) for o in (protected, released)]
    if seen != [("protected", delivery, True, False), ("current", None, True, False)]:
        failed.append([number, str(seen)])
print(json.dumps(failed))
"""


def adopt_and_release(lab: Lab, pid: int, delivery: str, rounds: int) -> list[object]:
    """So many rounds, the last by the real command; what was not as it should be.

    Afterwards nothing is held, so that the next rounds begin with a snapshot to be taken.
    """
    words = (str(pid), delivery, str(rounds - 1))
    failed: list[object] = json.loads(lab.root.run("python3", "-I", "-c", _SCRIPT, *words).stdout)
    protected = lab.holdover("protect", "--delivery", delivery, str(pid))
    seen = lab.status(pid)
    released = lab.holdover("release", str(pid))
    failed += [done.stderr for done in (protected, released) if done.returncode]
    if (seen["state"], seen["delivery"]) != ("protected", delivery):
        failed.append(seen)
    lab.holdover("gc")
    if held := lab.held():
        failed.append(held)
    return failed
