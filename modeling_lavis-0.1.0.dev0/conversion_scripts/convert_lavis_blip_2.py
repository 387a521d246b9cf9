# SPDX-License-Identifier: Apache-2.0
"""Convert a BLIP-2 checkpoint of LAVIS, with its image encoder and language model, to a Hub repository.

    python conversion_scripts/convert_lavis_blip_2.py blip2_opt blip2_pretrained_opt2.7b.pth OUTPUT \\
        --model-type pretrain_opt2.7b --vision-checkpoint eva_vit_g.pth --language-model facebook/opt-2.7b

Equivalent to `modeling-lavis convert`; see README.md in this folder.
"""

import sys

from modeling_lavis.hub.command import run_script


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, convert, and return the exit status."""
    return run_script(__doc__.splitlines()[0], "blip2", "BLIP-2", arguments)


if __name__ == "__main__":
    sys.exit(main())
