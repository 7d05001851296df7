# SPDX-License-Identifier: Apache-2.0
"""Runs inside the root: `status --json` over a directory that looks like /proc."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from holdover.cli.output import print_json
from holdover.cli.setup import make_holdover, read_config
from holdover.cli.status import _status_json
from holdover.procfs import ProcFs

place = Path(sys.argv[1])
for name in ("self", str(os.getpid())):
    (place / name).unlink(missing_ok=True)
(place / "self").symlink_to(str(os.getpid()))
(place / str(os.getpid())).symlink_to(f"/proc/{os.getpid()}")
holdover = make_holdover(read_config(Namespace(setting=[])), proc=ProcFs(place))
print_json(_status_json(holdover, *holdover.status()))
