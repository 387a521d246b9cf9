# SPDX-License-Identifier: Apache-2.0
"""Reading the sizes of towers off the shapes of their weights, and checking them against what is asked for."""

import math
import re
from collections.abc import Mapping
from typing import Any

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

HEAD_DIM = 64  # of every published tower that does not say otherwise


def size_of(shapes: Shapes, name: str, axis: int) -> int:
    """One dimension of a weight.

    Raises:
        ValueError: the checkpoint has no such weight.
    """
    if name not in shapes:
        raise ValueError(
            f"The checkpoint has no weight {name!r}, from which a size is read. Check that it is complete."
        )
    if len(shapes[name]) <= (axis if axis >= 0 else -axis - 1):
        raise ValueError(f"The weight {name!r} has the shape {shapes[name]}, which is not one of this family.")
    return shapes[name][axis]


def count(shapes: Shapes, prefix: str) -> int:
    """Number of consecutive blocks `prefix0.`, `prefix1.` and so on.

    Raises:
        ValueError: there is none, or one is missing in between.
    """
    numbers = {int(match[1]) for name in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))}
    if not numbers or numbers != set(range(len(numbers))):
        missing = sorted(set(range(max(numbers, default=0) + 1)) - numbers)
        raise ValueError(f"The checkpoint has no weights {prefix}{missing[0]}.*. Check that it is complete.")
    return len(numbers)


def vision_sizes(shapes: Shapes, prefix: str = "visual_encoder.") -> dict[str, Any]:
    """Sizes of a ViT, in the words of a golden set's `vision` section (without `num_heads`)."""
    hidden_size = size_of(shapes, f"{prefix}pos_embed", 2)
    patch_size = size_of(shapes, f"{prefix}patch_embed.proj.weight", 3)
    patches = size_of(shapes, f"{prefix}pos_embed", 1) - 1
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(
            f"{prefix}pos_embed has {patches} patches, which form no square. Only square inputs can be converted."
        )
    return {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "hidden_size": hidden_size,
        "depth": count(shapes, f"{prefix}blocks."),
        "mlp_ratio": size_of(shapes, f"{prefix}blocks.0.mlp.fc1.weight", 0) / hidden_size,
    }


def text_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Sizes of a BERT, in the words of a golden set's `text` section (without `num_attention_heads`)."""
    layers = f"{prefix}encoder.layer."
    return {
        "vocab_size": size_of(shapes, f"{prefix}embeddings.word_embeddings.weight", 0),
        "hidden_size": size_of(shapes, f"{prefix}embeddings.word_embeddings.weight", 1),
        "max_position_embeddings": size_of(shapes, f"{prefix}embeddings.position_embeddings.weight", 0),
        "num_hidden_layers": count(shapes, layers),
        "intermediate_size": size_of(shapes, f"{layers}0.intermediate.dense.weight", 0),
    }


def heads(width: int, asked: int | None, section: str, key: str) -> int:
    """Number of attention heads, which no shape shows: what is asked for, else one for every 64 of the width."""
    if asked is not None:
        return asked
    if width % HEAD_DIM:
        raise ValueError(
            f"The number of attention heads of a {section} tower of width {width} cannot be guessed (published towers "
            f'have one for every {HEAD_DIM}). Say it in --config: {{"{section}": {{"{key}": ...}}}}.'
        )
    return width // HEAD_DIM


def agree(section: str, measured: Mapping[str, Any], asked: Mapping[str, Any], free: frozenset[str]) -> dict[str, Any]:
    """Merge sizes read from a checkpoint with those asked for.

    Args:
        section: what they describe, for the error.
        measured: sizes in the checkpoint.
        asked: settings, sizes among them.
        free: sizes that may differ; what is asked for wins.

    Raises:
        ValueError: another size is asked for than the checkpoint has.
    """
    differing = [
        f"{key} is {asked[key]} in the configuration and {value} in the checkpoint"
        for key, value in measured.items()
        if key not in free and asked.get(key) is not None and asked[key] != value
    ]
    if differing:
        raise ValueError(
            f"The {section} section does not fit the checkpoint: {'; '.join(differing)}. Correct it or leave it out: "
            "sizes are read from the checkpoint."
        )
    return {**asked, **measured, **{key: asked[key] for key in free if asked.get(key) is not None}}
