# SPDX-License-Identifier: Apache-2.0
"""Rows that the tables of families with an image tower and a text encoder share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeling_lavis.hub import initial_values
from modeling_lavis.hub.families import Drop, Fresh

PUBLISHED_TOKENIZER = "bert-base-uncased"

TOWERS = frozenset({"visual_encoder", "text_encoder"})
PROJECTIONS = frozenset({"vision_proj", "text_proj"})
QUEUES = frozenset({"image_queue", "text_queue", "queue_ptr"})
ID_QUEUE = frozenset({"idx_queue"})

NEW_HEAD = Fresh("cls_head.{rest}", initial_values.linear, "new classification head, normal weights and zero biases")
TEMPERATURE = Fresh("temp", initial_values.temperature, "temperature at its start", only_in_transfer=False)
FRESH_QUEUES = (
    Fresh("image_queue", initial_values.feature_queue, "random features", only_in_transfer=False),
    Fresh("text_queue", initial_values.feature_queue, "random features", only_in_transfer=False),
    Fresh("queue_ptr", initial_values.zero_pointer, "zero", only_in_transfer=False),
)
FRESH_IDS = Fresh("idx_queue", initial_values.empty_id_queue, "-100, the id of no image", only_in_transfer=False)
NEW_TEMPERATURE = Fresh("temp", initial_values.temperature, "temperature at its start")
CONSTANT_POSITIONS = Drop("{rest}.position_ids", "a constant, the numbers of the positions")


def load_tokenizer(source: str | Path | None, make: Callable[[str], Any]) -> Any:
    """A family's tokenizer.

    Args:
        source: folder or Hub id of a BERT tokenizer; `bert-base-uncased` when not given.
        make: makes the family's tokenizer of it.

    Raises:
        OSError: there is no tokenizer, or no network to fetch the published one; says what to give.
    """
    name = str(source or PUBLISHED_TOKENIZER)
    try:
        tokenizer = make(name)
    except Exception as error:  # tokenizers raises bare exceptions for damaged files
        raise _no_tokenizer(name, (str(error).strip().splitlines() or ["it cannot be read"])[0]) from error
    # Offline, transformers answers the name of a repository that it has not cached with an empty vocabulary.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise _no_tokenizer(name, "it has no words, so it is not in the cache and cannot be fetched.")
    return tokenizer


def _no_tokenizer(name: str, reason: str) -> OSError:
    return OSError(
        f"The tokenizer {name!r} could not be loaded: {reason} Give the folder of a BERT tokenizer (or just of its "
        "vocab.txt), or a Hub id that is reachable, with --tokenizer."
    )
