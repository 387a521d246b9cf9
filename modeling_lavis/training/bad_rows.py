# SPDX-License-Identifier: Apache-2.0
"""Report of the rows that a collator skipped, as a callback of transformers' Trainer."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from modeling_lavis.data.checks import SkipBadRows, SkippedRows

logger = logging.get_logger(__name__)


class BadRowReport(TrainerCallback):
    """
    Report skipped rows after each epoch in which there were new ones, and at the end of training.

    The report is a warning. At the end of training, `state.log_history`, and with it `trainer_state.json`, gets an
    entry `skipped_rows` with their number, also if it is 0.

    Args:
        collator ([`SkipBadRows`]): the collator of the Trainer, of `make_collator(on_bad_row="skip")`.

    Raises:
        TypeError: the collator does not skip rows.
    """

    def __init__(self, collator: Any) -> None:
        if not isinstance(collator, SkipBadRows):
            raise TypeError(
                f"Got {type(collator).__name__}; expected a collator of make_collator(..., on_bad_row='skip')."
            )
        self.collator = collator
        self._reported = 0

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report rows that were skipped since the last report."""
        self._report(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Report what was skipped in all."""
        summary = self._report(state)
        state.log_history.append({"skipped_rows": summary.count, "epoch": state.epoch, "step": state.global_step})

    def _report(self, state: TrainerState) -> SkippedRows:
        summary = self.collator.summary()
        if summary.count > self._reported and state.is_world_process_zero:
            logger.warning(str(summary), extra={"is_report": True})
        self._reported = summary.count
        return summary


__all__ = ["BadRowReport"]
