# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of the parts, a multiply-add counted as two. Norms, softmax and additions are left out.

Letters: N image tokens, T text tokens, K tokens attended to, D width, L layers, V vocabulary, p patch size.
"""


def linear(rows: float, inputs: float, outputs: float) -> float:
    """A matrix product of `rows` vectors."""
    return 2.0 * rows * inputs * outputs


def attention(queries: float, keys: float, width: float) -> float:
    """Scores and weighted sum of one attention, all heads together, without its projections."""
    return 4.0 * queries * keys * width


def vit(image_size: int, width: int, layers: int, patch: int = 16) -> float:
    """One image through a ViT with a class token and feed-forward layers of four times its width."""
    patches = (image_size // patch) ** 2
    tokens = patches + 1
    layer = linear(tokens, width, 12 * width) + attention(tokens, tokens, width)
    return linear(patches, 3 * patch * patch, width) + layers * layer


def bert_layer(tokens: float, keys: float, width: int, feed_forward: int, cross_keys: float = 0) -> float:
    """`tokens` through one layer that see `keys` tokens of text and `cross_keys` others, already projected."""
    work = linear(tokens, width, 4 * width) + attention(tokens, keys, width)
    work += linear(tokens, width, 2 * feed_forward)
    if cross_keys:
        work += linear(tokens, width, 2 * width) + attention(tokens, cross_keys, width)
    return work


def project_keys_and_values(tokens: float, inputs: int, width: int) -> float:
    """Keys and values of the states that one layer's cross-attention looks at."""
    return linear(tokens, inputs, 2 * width)


def lm_head(tokens: float, width: int, vocabulary: int) -> float:
    """Transform and vocabulary projection at `tokens` positions."""
    return linear(tokens, width, width) + linear(tokens, width, vocabulary)
