# SPDX-License-Identifier: Apache-2.0
"""Convert a BLIP checkpoint of LAVIS or of the original BLIP repository into a Hub repository.

    python conversion_scripts/convert_lavis_blip.py blip_caption model_large_caption.pth OUTPUT --model-type large_coco

The same as `modeling-lavis convert`; see README.md beside this file.
"""

import argparse
import sys

from modeling_lavis.hub.command import add_arguments, run


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, convert, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    args = parser.parse_args(arguments)
    if not args.architecture.startswith("blip_"):
        parser.error(f"{args.architecture} is no BLIP architecture; use modeling-lavis convert, which knows them all")
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
