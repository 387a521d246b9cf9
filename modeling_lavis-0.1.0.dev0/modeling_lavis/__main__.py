# SPDX-License-Identifier: Apache-2.0
"""`python -m modeling_lavis` is the command `modeling-lavis`."""

import sys

from modeling_lavis.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
