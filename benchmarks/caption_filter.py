# SPDX-License-Identifier: Apache-2.0
"""Precision and recall of the filter of CapFilt: images with captions of their own, and with wrong ones.

    python -m benchmarks.caption_filter DATA --split val

DATA is what `modeling_lavis.load_data` reads as captions. Each image is scored with its own caption, with ten of other
images, drawn at random, and with the one of the others that shares most words with its own. A caption is kept if its
score is at least a threshold. Recall is the share of the own captions that are kept. Precision is the share of own
captions among those kept, for one own and one wrong caption per image: a random one, or the similar one.
"""

import argparse
import json
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeling_lavis.files import whole_file

THRESHOLDS = {"score": (0.1, 0.5, 0.9), "similarity": (0.5, 0.7, 0.8)}
_KINDS = ("own", "random", "similar")
_NAMES = {"score": "probability", "similarity": "cosine"}
_RANDOM = 10  # captions drawn at random for each image


def wrong_captions(captions: Sequence[str], seed: int = 0) -> list[tuple[list[str], str]]:
    """
    For each caption, some of other texts drawn at random, and the one of another text with most of its words.

    Args:
        captions (`Sequence[str]`): the captions.
        seed (`int`, *optional*, defaults to 0): of the random numbers.

    Raises:
        ValueError: all captions are equal.
    """
    draws = random.Random(seed)
    texts = sorted(set(captions))
    if len(texts) < 2:
        raise ValueError(f"There are {len(captions)} captions, all of one text; expected several texts.")
    words = {text: set(text.split()) for text in texts}
    found = []
    for caption in captions:
        others = [text for text in texts if text != caption]
        # of those with as many common words the one with the fewest others
        similar = max(others, key=lambda text: (len(words[text] & words[caption]), -len(words[text])))
        found.append((draws.choices(others, k=_RANDOM), similar))
    return found


def caption_scores(rows: Sequence[Mapping[str, Any]], model: str, batch_size: int) -> dict[str, dict[str, list[float]]]:
    """
    Scores of captions by kind: `"own"`, `"random"` and `"similar"`, each with a list of `"score"` and `"similarity"`.
    """
    from modeling_lavis import jobs

    wrong = wrong_captions([row["caption"] for row in rows])
    data = [
        {"image": row["image"], "text": [row["caption"], similar, *others]}
        for row, (others, similar) in zip(rows, wrong, strict=True)
    ]
    found: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in THRESHOLDS} for kind in _KINDS}
    for record in jobs.match(data, model, batch_size=batch_size):
        for kind, match in zip(("own", "similar", *["random"] * _RANDOM), record["matches"], strict=True):
            for name in THRESHOLDS:
                found[kind][name].append(match[name])
    return found


def table(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Recall and both precisions at each threshold."""
    rows = []
    for name, thresholds in THRESHOLDS.items():
        for least in thresholds:
            kept = {kind: float(np.mean(np.array(scores[kind][name]) >= least)) for kind in _KINDS}
            precision = {kind: kept["own"] / ((kept["own"] + kept[kind]) or 1) for kind in _KINDS[1:]}
            row = {"kept": f"{_NAMES[name]} at least {least}", "recall": kept["own"]}
            rows.append({**row, **{f"precision, {kind}": value for kind, value in precision.items()}})
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Score, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caption_filter", description=__doc__)
    parser.add_argument("data", help="images with captions, as load_data reads them")
    parser.add_argument("--split", help="split of the data, such as val")
    parser.add_argument("--model", help="folder or Hub id of the filter (the embedded model)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to FILE")
    options = parser.parse_args(arguments)
    from modeling_lavis import load_data
    from modeling_lavis.embedded import embedded_model_path

    data = load_data(options.data, "captioning", split=options.split)
    rows = [{"image": row["image"], "caption": _first(row["caption"])} for row in data]
    found = table(caption_scores(rows, options.model or embedded_model_path(), options.batch_size))
    print(f"{len(rows)} images\n\n{as_markdown(found)}")
    if options.json is not None:
        with whole_file(options.json) as partial:
            partial.write_text(json.dumps({"images": len(rows), "table": found}, indent=2) + "\n", encoding="utf-8")
    return 0


def _first(caption: str | list[str]) -> str:
    return caption if isinstance(caption, str) else caption[0]


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    heads = list(rows[0])
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for row in rows:
        cells = [row["kept"], *(f"{row[head]:.3f}" for head in heads[1:])]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
