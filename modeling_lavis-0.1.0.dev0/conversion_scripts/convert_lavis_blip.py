# SPDX-License-Identifier: Apache-2.0
"""Convert a BLIP checkpoint of LAVIS or of the original BLIP repository to a Hub repository.

    python conversion_scripts/convert_lavis_blip.py blip_caption model_large_caption.pth OUTPUT --model-type large_coco

Equivalent to `modeling-lavis convert`; see README.md in this folder.
"""

import sys

from modeling_lavis.hub.command import run_script


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, convert, and return the exit status."""
    return run_script(__doc__.splitlines()[0], "blip_", "BLIP", arguments)


if __name__ == "__main__":
    sys.exit(main())
