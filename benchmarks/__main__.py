# SPDX-License-Identifier: Apache-2.0
"""Entry point of `python -m benchmarks`."""

import sys

from benchmarks.cli import main

sys.exit(main())
