# SPDX-License-Identifier: Apache-2.0
"""Convert a BLIP-2 checkpoint of LAVIS, with its image tower and language model, into a Hub repository.

    python conversion_scripts/convert_lavis_blip_2.py blip2_opt blip2_pretrained_opt2.7b.pth OUTPUT \\
        --model-type pretrain_opt2.7b --vision-checkpoint eva_vit_g.pth --language-model facebook/opt-2.7b

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
    if not args.architecture.startswith("blip2"):
        parser.error(f"{args.architecture} is no BLIP-2 architecture; use modeling-lavis convert, which knows them all")
    return run(args)


if __name__ == "__main__":
    sys.exit(main())
