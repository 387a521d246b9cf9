# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis export`: write a model for onnxruntime, OpenVINO or torch.export."""

import argparse
import sys
from typing import Any

from modeling_lavis.cli.options import first_line, silence_libraries
from modeling_lavis.cli.output import UsageError


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "export",
        help="write a model for onnxruntime, OpenVINO or torch.export",
        description="Write a model to a folder that onnxruntime, OpenVINO or torch.export runs, compare it with the "
        "model, and describe it in export.json. All verbs and pipelines take the folder as --model. The language model "
        "of BLIP-2 stays in torch.",
    )
    parser.add_argument("model", metavar="MODEL", help="folder or Hub repository")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="folder to write")
    parser.add_argument("--format", choices=("torch", "onnx", "openvino"), default="onnx", help="%(choices)s (onnx)")
    parser.add_argument(
        "--image-size",
        choices=("fixed", "dynamic"),
        default="fixed",
        help="%(choices)s: that of the model, or every multiple of its patch size (fixed)",
    )
    parser.add_argument(
        "--weights",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="%(choices)s: half and quarter of the size for onnx and openvino, with other results (float32)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder of a model")
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Export, and return the exit status."""
    silence_libraries()
    import torch

    from modeling_lavis.export import export_model
    from modeling_lavis.export.manifest import Manifest
    from modeling_lavis.hub.offline import repository_access
    from modeling_lavis.pipelines.loading import CheckpointHead

    try:
        with repository_access([args.model]):
            model = CheckpointHead.from_pretrained(args.model, dtype=torch.float32)
    except Exception as error:  # the readers of configurations, weights and tokenizers raise errors of many types
        raise UsageError(f"The model {args.model} cannot be used: {first_line(error)}") from error
    folder = export_model(
        model,
        args.output,
        format=args.format,
        image_size=args.image_size,
        weights=args.weights,
        overwrite=args.overwrite,
        on_step=_show_step,
    )
    if args.weights != "float32":
        _show_changes(Manifest.read(folder).verified)
    sys.stdout.write(f"{args.output}\n")
    return 0


def _show_step(step: str) -> None:
    sys.stderr.write(f"{step} ...\n")
    sys.stderr.flush()


def _show_changes(verified: dict[str, Any]) -> None:
    """What smaller weights changed on the images and texts of the comparison."""
    name, change = max(verified["relative_difference"].items(), key=lambda item: item[1])
    ids = f"{len(verified['equal'])} of {len(verified['equal']) + len(verified['different'])} ids or rankings are equal"
    sys.stderr.write(f"Outputs differ by up to {change:.2%} ({name}); {ids}.\n")
