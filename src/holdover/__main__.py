# SPDX-License-Identifier: Apache-2.0
import sys

from holdover.cli.main import main

sys.exit(main())
