# SPDX-License-Identifier: Apache-2.0
"""Convert an ALPRO checkpoint of LAVIS or of the original ALPRO repository to a Hub repository.

    python conversion_scripts/convert_alpro.py alpro_retrieval alpro_msrvtt_retrieval.pt OUTPUT --model-type msrvtt

Equivalent to `modeling-lavis convert`; see README.md in this folder.
"""

import sys

from modeling_lavis.hub.command import run_script


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, convert, and return the exit status."""
    return run_script(__doc__.splitlines()[0], "alpro_", "ALPRO", arguments)


if __name__ == "__main__":
    sys.exit(main())
