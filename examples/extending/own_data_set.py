# SPDX-License-Identifier: Apache-2.0
"""A data set of your own: a file format that `load_data` does not know, and rows that are made while training.

python examples/extending/own_data_set.py --output own_data_set
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch.utils.data import Dataset
from transformers import TrainingArguments

from modeling_lavis import (
    LavisBlipForConditionalGeneration,
    LavisBlipProcessor,
    LavisTrainer,
    check_data,
    load_data,
    make_collator,
)
from modeling_lavis.embedded import embedded_images, embedded_model_path


def read_album(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a file with lines `image<TAB>title<TAB>title...`: one list of captions for each image."""
    for line in path.read_text(encoding="utf-8").splitlines():
        image, *titles = line.split("\t")
        yield {"image": str(path.parent / image), "titles": titles}


class MirroredRows(Dataset):
    """Every row twice, the second time with the mirrored image: a map-style data set needs a length and an index."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = dict(self.rows[index % len(self.rows)])
        if index >= len(self.rows):
            row["image"] = ImageOps.mirror(Image.open(row["image"]).convert("RGB"))
        return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Write an album, read it, check it, and train on it for a few steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", required=True, help="folder of the run")
    output = Path(parser.parse_args(arguments).output)
    output.mkdir(parents=True, exist_ok=True)
    lines = [f"{image.path}\t{image.caption}\ta drawing" for image in embedded_images()[:4]]
    (output / "album.tsv").write_text("\n".join(lines), encoding="utf-8")

    rows = load_data(list(read_album(output / "album.tsv")), "captioning", columns={"caption": "titles"})
    check_data(rows, "captioning").raise_if_bad()
    print(rows[0]["caption"])

    processor = LavisBlipProcessor.from_pretrained(embedded_model_path())
    trainer = LavisTrainer(
        model=LavisBlipForConditionalGeneration.from_pretrained(embedded_model_path(), dtype=torch.float32),
        args=TrainingArguments(output, num_train_epochs=1, per_device_train_batch_size=4, report_to="none"),
        data_collator=make_collator("captioning", processor),
        train_dataset=MirroredRows(rows),
        processing_class=processor,
    )
    trainer.train()
    print(trainer.state.global_step, "steps")


if __name__ == "__main__":
    main()
