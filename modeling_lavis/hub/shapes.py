# SPDX-License-Identifier: Apache-2.0
"""Model sizes inferred from the shapes of the weights, and their comparison with the requested settings."""

import itertools
import math
import re
from collections.abc import Mapping
from typing import Any

from modeling_lavis.models.configuration_vision import size_from_ratio

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

HEAD_DIM = 64  # of every published encoder whose settings do not give the number of heads
#: Pattern of the number of a block in a key; longer numbers are not blocks.
BLOCK_NUMBER = r"([0-9]{1,6})"


def size_of(shapes: Shapes, name: str, axis: int) -> int:
    """
    Return one dimension of a weight.

    Raises:
        ValueError: If the checkpoint has no such weight, or the weight has too few dimensions.
    """
    if name not in shapes:
        raise ValueError(
            f"The checkpoint has no weight {name!r}, which is needed to infer a size. Check that it is complete."
        )
    if len(shapes[name]) <= (axis if axis >= 0 else -axis - 1):
        raise ValueError(f"The weight {name!r} has shape {shapes[name]}, which is not one of this family.")
    return shapes[name][axis]


def count_blocks(shapes: Shapes, prefix: str) -> int:
    """
    Return the number of consecutive blocks `prefix0.`, `prefix1.` and so on.

    Raises:
        ValueError: If there is no block, or one is missing in between.
    """
    numbered = re.compile(re.escape(prefix) + BLOCK_NUMBER + r"\.")
    numbers = {int(match[1]) for name in shapes if (match := numbered.match(name))}
    if not numbers or numbers != set(range(len(numbers))):
        missing = next(number for number in itertools.count() if number not in numbers)
        raise ValueError(f"The checkpoint has no weights {prefix}{missing}.*. Check that it is complete.")
    return len(numbers)


def text_encoder_prefix(shapes: Shapes) -> str:
    """Return the prefix of the text encoder's keys, which contains `bert.` in pretraining checkpoints."""
    is_pretraining = any(name.startswith("text_encoder.bert.") for name in shapes)
    return "text_encoder.bert." if is_pretraining else "text_encoder."


def vision_sizes(shapes: Shapes, prefix: str = "visual_encoder.") -> dict[str, Any]:
    """
    Return the sizes of a ViT by their names in the `vision` section of the settings (without `num_heads`).

    Raises:
        ValueError: If a weight is missing, or the patches do not form a square.
    """
    hidden_size = size_of(shapes, f"{prefix}pos_embed", 2)
    patch_size = size_of(shapes, f"{prefix}patch_embed.proj.weight", 3)
    patches = size_of(shapes, f"{prefix}pos_embed", 1) - 1
    side = math.isqrt(max(patches, 0))
    if patches < 1 or side * side != patches:
        raise ValueError(
            f"{prefix}pos_embed has {patches} patches, which do not form a square. Only encoders of square images can "
            "be converted."
        )
    return {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "depth": count_blocks(shapes, f"{prefix}blocks."),
        "intermediate_size": size_of(shapes, f"{prefix}blocks.0.mlp.fc1.weight", 0),
    }


def text_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """
    Return the sizes of a BERT by their names in the `text` section of the settings (without `num_attention_heads`).

    Raises:
        ValueError: If a weight is missing.
    """
    layers = f"{prefix}encoder.layer."
    return {
        "vocab_size": size_of(shapes, f"{prefix}embeddings.word_embeddings.weight", 0),
        "hidden_size": size_of(shapes, f"{prefix}embeddings.word_embeddings.weight", 1),
        "max_position_embeddings": size_of(shapes, f"{prefix}embeddings.position_embeddings.weight", 0),
        "num_hidden_layers": count_blocks(shapes, layers),
        "intermediate_size": size_of(shapes, f"{layers}0.intermediate.dense.weight", 0),
    }


def with_intermediate_size(requested: Mapping[str, Any], hidden_size: int) -> dict[str, Any]:
    """Return the `vision` section of the settings with `intermediate_size` in the place of `mlp_ratio`."""
    rest = {key: value for key, value in requested.items() if key != "mlp_ratio"}
    if requested.get("mlp_ratio") is None or rest.get("intermediate_size") is not None:
        return rest
    return {**rest, "intermediate_size": size_from_ratio(hidden_size, requested["mlp_ratio"])}


def num_heads(hidden_size: int, requested: int | None, section: str, key: str) -> int:
    """
    Return the number of attention heads, which cannot be inferred from shapes.

    Args:
        hidden_size (`int`): hidden size of the encoder.
        requested (`int`, *optional*, defaults to one head for every 64 dimensions): the requested number of heads.
        section (`str`): section of the settings, for the error.
        key (`str`): entry of the section, for the error.

    Raises:
        ValueError: If no number is requested and the hidden size is not a multiple of 64.
    """
    if requested is not None:
        return requested
    if hidden_size % HEAD_DIM:
        raise ValueError(
            f"The number of attention heads of the {section} encoder with hidden size {hidden_size} cannot be inferred "
            f"(published encoders have one for every {HEAD_DIM} dimensions). Set it with --config: "
            f'{{"{section}": {{"{key}": ...}}}}.'
        )
    return hidden_size // HEAD_DIM


def merge_sizes(
    section: str, inferred: Mapping[str, Any], requested: Mapping[str, Any], overridable: frozenset[str]
) -> dict[str, Any]:
    """
    Merge the sizes inferred from a checkpoint into the requested settings.

    Args:
        section (`str`): section of the settings, for the error.
        inferred (`Mapping[str, Any]`): sizes of the checkpoint.
        requested (`Mapping[str, Any]`): settings, sizes among them.
        overridable (`frozenset[str]`): sizes that may differ. The requested value takes precedence.

    Raises:
        ValueError: If a requested size that is not overridable differs from that of the checkpoint.
    """
    differing = [
        f"{key} is {requested[key]} in the configuration and {value} in the checkpoint"
        for key, value in inferred.items()
        if key not in overridable and requested.get(key) is not None and requested[key] != value
    ]
    if differing:
        raise ValueError(
            f"The {section} section does not fit the checkpoint: {'; '.join(differing)}. Correct it or leave it out: "
            "sizes are inferred from the checkpoint."
        )
    return {**requested, **inferred, **{key: requested[key] for key in overridable if requested.get(key) is not None}}
