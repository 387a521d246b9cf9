# SPDX-License-Identifier: Apache-2.0
"""Layers in pairs that read two images with the same keys and values (ALBEF on NLVR2, section 4)."""

from .configuration_text_bert import LavisBertConfig


def shared_image_projections(config: LavisBertConfig) -> dict[str, str]:
    """
    Parameters of the second layer of each pair and the parameters of the first that they are.

    Pairs are counted from the first layer with cross-attention on; keys and values are shared, queries are not.

    Args:
        config ([`LavisBertConfig`]): which layers attend to images.

    Raises:
        ValueError: the layers with cross-attention do not form pairs.
    """
    layers = [layer for layer in range(config.num_hidden_layers) if config.has_cross_attention(layer)]
    if len(layers) % 2:
        raise ValueError(
            f"{len(layers)} layers attend to images, which do not form pairs; choose num_hidden_layers and "
            "fusion_layer so that their number is even."
        )
    name = "encoder.layer.{}.crossattention.self.{}.{}".format
    return {
        name(second, projection, kind): name(first, projection, kind)
        for first, second in zip(layers[::2], layers[1::2], strict=True)
        for projection in ("key", "value")
        for kind in ("weight", "bias")
    }


__all__ = ["shared_image_projections"]
