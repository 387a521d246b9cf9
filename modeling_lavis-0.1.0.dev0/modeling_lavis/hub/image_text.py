# SPDX-License-Identifier: Apache-2.0
"""Table entries shared by the families that have an image (or video) encoder and a text encoder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeling_lavis.hub import initial_values
from modeling_lavis.hub.families import Drop, NewWeights

PUBLISHED_TOKENIZER = "bert-base-uncased"

ENCODERS = frozenset({"visual_encoder", "text_encoder"})
PROJECTIONS = frozenset({"vision_proj", "text_proj"})
QUEUES = frozenset({"image_queue", "text_queue", "queue_ptr"})
ID_QUEUE = frozenset({"idx_queue"})

NEW_HEAD = NewWeights(
    "cls_head.{rest}", initial_values.linear, "new classification head, normal weights and zero biases"
)
NEW_TEMPERATURE = NewWeights("temp", initial_values.temperature, "initial temperature")
OPTIONAL_TEMPERATURE = NewWeights("temp", initial_values.temperature, "initial temperature", only_in_transfer=False)
NEW_QUEUES = (
    NewWeights("image_queue", initial_values.feature_queue, "random features", only_in_transfer=False),
    NewWeights("text_queue", initial_values.feature_queue, "random features", only_in_transfer=False),
    NewWeights("queue_ptr", initial_values.zero_pointer, "zero", only_in_transfer=False),
)
NEW_ID_QUEUE = NewWeights(
    "idx_queue", initial_values.empty_id_queue, "-100, which is the id of no image", only_in_transfer=False
)
POSITION_IDS = Drop("{rest}.position_ids", "constant position ids")


def load_tokenizer(source: str | Path | None, make: Callable[[str], Any]) -> Any:
    """
    Load the tokenizer of a family.

    Args:
        source (`str` or `Path`, *optional*, defaults to `"bert-base-uncased"`): folder or Hub id of a BERT tokenizer.
        make (`Callable`): function that returns the family's tokenizer for a folder or Hub id.

    Raises:
        OSError: If there is no tokenizer, or the published one cannot be downloaded.
    """
    name = str(source or PUBLISHED_TOKENIZER)
    try:
        tokenizer = make(name)
    except Exception as error:  # the tokenizers library raises bare exceptions for damaged files
        raise _no_tokenizer(name, (str(error).strip().splitlines() or ["it cannot be read"])[0]) from error
    # Offline, transformers returns an empty vocabulary for a repository that is not in its cache.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise _no_tokenizer(name, "its vocabulary is empty, so it is neither cached nor can it be downloaded.")
    return tokenizer


def load_bert_tokenizer(source: str | Path | None) -> Any:
    """Load a BERT tokenizer without added tokens; see [`load_tokenizer`]."""
    from modeling_lavis.models.tokenization_lavis import bert_tokenizer

    return load_tokenizer(source, bert_tokenizer)


def _no_tokenizer(name: str, reason: str) -> OSError:
    return OSError(
        f"The tokenizer {name!r} cannot be loaded: {reason} Use --tokenizer with the folder of a BERT tokenizer (its "
        "vocab.txt is enough) or with a Hub id that can be reached."
    )
