# SPDX-License-Identifier: Apache-2.0
"""Convert an ALPRO checkpoint of LAVIS or of the original ALPRO repository into a Hub repository.

    python conversion_scripts/convert_alpro.py alpro_retrieval alpro_msrvtt_retrieval.pt OUTPUT --model-type msrvtt

The same as `modeling-lavis convert`; see README.md beside this file.
"""

import sys

from modeling_lavis.hub.command import run_script


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, convert, and return the exit status."""
    return run_script(__doc__.splitlines()[0], "alpro_", "ALPRO", arguments)


if __name__ == "__main__":
    sys.exit(main())
