# SPDX-License-Identifier: Apache-2.0
"""Configurations of this project's models for the workloads."""

from typing import Any


def encoder_configs(size: Any) -> dict[str, dict[str, Any]]:
    """Image and text encoder in the size of a workload, as arguments of a configuration."""
    layers = {"hidden_size": size.hidden_size, "num_hidden_layers": size.layers, "num_attention_heads": size.heads}
    return {
        "vision_config": {"image_size": size.image_size, "patch_size": 16, **layers},
        "text_config": {
            "vocab_size": size.vocabulary,
            "intermediate_size": size.intermediate_size,
            "max_position_embeddings": 512,
            **layers,
        },
    }


def blip_config(size: Any) -> Any:
    """BLIP in the size of a workload."""
    from modeling_lavis import LavisBlipConfig

    return LavisBlipConfig(**encoder_configs(size), use_momentum=False)


def albef_config(size: Any, use_momentum: bool) -> Any:
    """ALBEF in the size of a workload, which also has fusion_layer, projection_dim and queue."""
    from modeling_lavis import AlbefConfig

    encoders = encoder_configs(size)
    return AlbefConfig(
        vision_config=encoders["vision_config"],
        text_config={**encoders["text_config"], "fusion_layer": size.fusion_layer},
        projection_dim=size.projection_dim,
        queue_size=size.queue,
        use_momentum=use_momentum,
    )
