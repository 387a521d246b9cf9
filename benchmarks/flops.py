# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of model parts; a multiply-add counts as two. Norms, softmax and additions are left out."""


def linear(rows: float, inputs: float, outputs: float) -> float:
    """A matrix product of `rows` vectors."""
    return 2.0 * rows * inputs * outputs


def attention(queries: float, keys: float, hidden_size: float) -> float:
    """Scores and weighted sums of an attention with all its heads, without projections."""
    return 4.0 * queries * keys * hidden_size


def vit(image_size: int, hidden_size: int, layers: int, patch: int = 16) -> float:
    """One image through a ViT with a class token and an MLP ratio of 4."""
    patches = (image_size // patch) ** 2
    tokens = patches + 1
    layer = linear(tokens, hidden_size, 12 * hidden_size) + attention(tokens, tokens, hidden_size)
    return linear(patches, 3 * patch * patch, hidden_size) + layers * layer


def bert_layer(tokens: float, keys: float, hidden_size: int, intermediate_size: int, cross_keys: float = 0) -> float:
    """`tokens` through a layer that attends to `keys` text tokens and to `cross_keys` already projected tokens."""
    work = linear(tokens, hidden_size, 4 * hidden_size) + attention(tokens, keys, hidden_size)
    work += linear(tokens, hidden_size, 2 * intermediate_size)
    if cross_keys:
        work += linear(tokens, hidden_size, 2 * hidden_size) + attention(tokens, cross_keys, hidden_size)
    return work


def project_keys_and_values(tokens: float, inputs: int, hidden_size: int) -> float:
    """Keys and values for the cross-attention of a layer."""
    return linear(tokens, inputs, 2 * hidden_size)


def lm_head(tokens: float, hidden_size: int, vocabulary: int) -> float:
    """Transform and vocabulary projection at `tokens` positions."""
    return linear(tokens, hidden_size, hidden_size) + linear(tokens, hidden_size, vocabulary)
