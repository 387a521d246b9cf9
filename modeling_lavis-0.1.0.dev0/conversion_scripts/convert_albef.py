# SPDX-License-Identifier: Apache-2.0
"""Convert an ALBEF checkpoint of LAVIS or of the original ALBEF repository to a Hub repository.

    python conversion_scripts/convert_albef.py albef_retrieval albef_coco_retrieval_lavis.pt OUTPUT --model-type coco

Equivalent to `modeling-lavis convert`; see README.md in this folder.
"""

import sys

from modeling_lavis.hub.command import run_script


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, convert, and return the exit status."""
    return run_script(__doc__.splitlines()[0], "albef_", "ALBEF", arguments)


if __name__ == "__main__":
    sys.exit(main())
