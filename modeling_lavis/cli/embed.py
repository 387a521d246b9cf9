# SPDX-License-Identifier: Apache-2.0
"""`modeling-lavis embed`: features of images or videos and of texts, for search."""

import argparse
import json
from pathlib import Path
from typing import Any

from modeling_lavis.cli.jobs import JOB_INPUTS, add_job_options, given_job_options, run_job
from modeling_lavis.cli.options import (
    add_inputs,
    add_model_options,
    check_texts,
    find_model_inputs,
    non_empty_text,
    open_pipeline,
    takes_videos,
)
from modeling_lavis.cli.output import (
    Results,
    UsageError,
    atomic_file,
    check_output_file,
    iterate_results,
    one_line,
    warn,
)

_SUFFIXES = (".npz", ".safetensors", ".json")
_JOB_SUFFIXES = (".jsonl", ".parquet")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the verb to the subparsers of the command, and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "embed",
        help="extract features of images or videos and of texts",
        description="Extract projected and normalized features, whose dot products are cosine similarities. Without "
        '--output they are printed as JSON lines, {"file": ..., "image_features": [...]} and {"text": ..., '
        '"text_features": [...]}. The output file contains image_features (images, dimensions) with files, and '
        "text_features (texts, dimensions) with texts; in .safetensors the names are JSON arrays in the metadata. "
        "Video models give video_features. Collections of any size go to .jsonl, .parquet or WebDataset shards, "
        "without --text; --columns text=NAME adds features of a text of each row." + JOB_INPUTS,
    )
    add_inputs(parser, needed=False)
    parser.add_argument(
        "--text",
        metavar="TEXT",
        type=non_empty_text,
        nargs="+",
        action="extend",
        default=[],
        help="one or several texts",
    )
    parser.add_argument(
        "--output", metavar="PATH", type=Path, help=f"file or folder to write: {', '.join(_SUFFIXES + _JOB_SUFFIXES)}"
    )
    add_model_options(parser)
    add_job_options(parser, output=False)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace) -> int:
    """Embed images or videos and texts, and return the exit status."""
    if not args.inputs and not args.text:
        raise UsageError("There is nothing to embed. Give images or videos, --text, or both.")
    job_options = given_job_options(args)
    is_job = args.output is not None and (args.output_format or args.output.suffix.lower() in _JOB_SUFFIXES)
    if is_job and args.text:
        raise UsageError("--text is for .npz, .safetensors and .json; collections have texts in a column.")
    if job_options and not is_job:
        raise UsageError(f"{args.output} is written at once; give a name that ends in {' or '.join(_JOB_SUFFIXES)}.")
    if args.output is not None and not is_job:
        check_output_file(args.output, (*_SUFFIXES, *_JOB_SUFFIXES))
    extractor = open_pipeline("multimodal-feature-extraction", args)
    if is_job:
        return run_job(args, "embed", extractor, {})
    if args.text:
        check_texts(extractor, "--text", args.text)
    # Features have no readable text form, so they are printed as JSON even without --json.
    results = Results(as_json=args.json or args.output is None)
    modality = "video" if takes_videos(extractor) else "image"
    columns: dict[str, list[Any]] = {"files": [], f"{modality}_features": [], "texts": [], "text_features": []}

    def add_features(kind: str, name: str, values: Any) -> None:
        columns["texts" if kind == "text" else "files"].append(name)
        columns[f"{kind}_features"].append(values)
        if args.output is None:
            key = "text" if kind == "text" else "file"
            results.add({key: name, f"{kind}_features": values.tolist()}, "")

    def extract(names: Any) -> Any:
        return extractor(names, features=f"{modality}_features", return_tensors="np", on_error="return")

    for name, row in iterate_results(find_model_inputs(extractor, args), extract, results):
        add_features(modality, name, row[f"{modality}_features"])
    if args.text:
        rows = extractor(text=args.text, features="text_features", return_tensors="np")
        for given, row in zip(args.text, rows):
            add_features("text", given, row["text_features"])
    if args.output is not None:
        if not columns["files"] and not columns["texts"]:
            warn(f"{args.output} was not written: there are no features.")
            return 1
        write(args.output, columns)
        record = {"output": str(args.output), "files": len(columns["files"]), "texts": len(columns["texts"])}
        results.add(record, f"{one_line(str(args.output))}: {record['files']} {modality}s, {record['texts']} texts")
    return results.status


def write(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write names and features atomically, in the format of the path's suffix."""
    import numpy as np

    names = {name: columns[name] for name in ("files", "texts") if columns[name]}
    features = {
        name: np.stack(columns[name]).astype(np.float32)
        for name in columns
        if name.endswith("_features") and columns[name]
    }
    with atomic_file(path) as file:
        if path.suffix.lower() == ".npz":
            arrays: dict[str, Any] = {
                **{name: np.array(values, dtype=str) for name, values in names.items()},
                **features,
            }
            np.savez(file, **arrays)
        elif path.suffix.lower() == ".safetensors":
            from safetensors.numpy import save

            file.write(save(features, metadata={name: json.dumps(values) for name, values in names.items()}))
        else:
            lists = {name: values.tolist() for name, values in features.items()}
            file.write((json.dumps({**names, **lists}) + "\n").encode())
