# SPDX-License-Identifier: Apache-2.0
"""Collators of videos: rows of a data set to a batch for one of the ALPRO heads; see `collators` for how they are used.

Letters: B batch, F frames, T text tokens, S side.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modeling_lavis.data.collators import Row, RowCollator, image_number, one_of
from modeling_lavis.models.outputs import IGNORE_INDEX


class VideoCollator(RowCollator):
    """Base of the collators of videos: finds fields, reads clips.

    Args:
        processor: an `AlproProcessor`.
        transform: video to clip (F, 3, S, S), e.g. `alpro_video_train(224, 8)`; None takes the processor's own
            (evaluation) one. What is random in it is drawn from torch's global generator.
        image_root: folder that relative paths of videos start from.
        columns: {field name here: name in the rows}, where they differ.
        text_options: options of the tokenizer, e.g. {"padding": "max_length"}.
        on_error: "raise", or "skip" to leave out rows whose video cannot be read.

    Rows may have `start` and `end`, seconds of the part that is looked at.
    """

    def __init__(self, *args: Any, on_error: str = "raise", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if on_error not in ("raise", "skip"):
            raise ValueError(f"on_error is {on_error!r}; expected 'raise' or 'skip'.")
        self.on_error = on_error

    def _clips(self, rows: Sequence[Row]) -> tuple[list[Row], torch.Tensor]:
        """The rows whose videos can be read, and their clips (B, F, 3, S, S)."""
        kept, clips, reasons = [], [], []
        for row in rows:
            try:
                clips.append(self._clip(row))
            except (OSError, ValueError) as error:
                if self.on_error == "raise":
                    raise
                reasons.append(str(error))
            else:
                kept.append(row)
        if not clips:
            listed = "".join(f"\n{reason}" for reason in reasons[:5])
            raise ValueError(f"None of the {len(rows)} videos of a batch can be read.{listed}")
        return kept, torch.stack(clips)

    def _clip(self, row: Row) -> torch.Tensor:
        video = self._picture(self._field(row, "video"))
        part = {side: self._field(row, side) for side in ("start", "end") if self._has(row, side)}
        if self.transform is not None:
            return self.transform(video, **part)
        return self.processor.video_processor([video], return_tensors="pt", **part)["pixel_values_videos"][0]


class VideoTextCollator(VideoCollator):
    """Rows {video, caption, video_id} for `AlproForVideoTextRetrieval`.

    Returns `pixel_values_videos`, `input_ids`, `attention_mask` and `return_loss` (True). A caption may be a list of
    strings, of which one is drawn.

    Args (besides those of `VideoCollator`):
        use_ids: also return `image_ids` (B,), so that rows with equal `video_id` are positives of each other. The
            published models were trained without, on batches in which a video may be its own negative.

    To get `eval_loss` from a Trainer, set `TrainingArguments(label_names=["return_loss"])`.
    """

    def __init__(self, *args: Any, use_ids: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.use_ids = use_ids

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        rows, clips = self._clips(rows)
        batch: dict[str, Any] = {"pixel_values_videos": clips}
        batch.update(self._texts([one_of(self._field(row, "caption")) for row in rows]))
        if self.use_ids:
            batch["image_ids"] = torch.tensor([image_number(self._field(row, "video_id")) for row in rows])
        batch["return_loss"] = True
        return batch


class VideoQuestionAnsweringCollator(VideoCollator):
    """Rows {video, question, answer} for `AlproForVideoQuestionAnswering`.

    Returns `pixel_values_videos`, `input_ids`, `attention_mask`, and `labels` (B,) if the rows have answers: the
    answer's class, -100, which no loss counts, where it is not in the list. Numbers are taken as they are.

    Args (besides those of `VideoCollator`):
        label2id: the model's `config.label2id`, or LAVIS's `ans2label.json`.
    """

    def __init__(self, *args: Any, label2id: Mapping[str, int], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label2id = dict(label2id)
        self.text_options = {"cleaning": "question", **self.text_options}

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        rows, clips = self._clips(rows)
        batch: dict[str, Any] = {"pixel_values_videos": clips}
        batch.update(self._texts([self._field(row, "question") for row in rows]))
        if self._has(rows[0], "answer"):
            batch["labels"] = torch.tensor([self._label(self._field(row, "answer")) for row in rows], dtype=torch.long)
        return batch

    def _label(self, answer: str | int) -> int:
        return self.label2id.get(answer, IGNORE_INDEX) if isinstance(answer, str) else int(answer)


__all__ = ["VideoCollator", "VideoQuestionAnsweringCollator", "VideoTextCollator"]
