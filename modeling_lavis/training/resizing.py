# SPDX-License-Identifier: Apache-2.0
"""Changing the image size, the number of frames and the length of the feature queue of a model."""

from typing import Any

import torch
from torch import nn

from modeling_lavis.models.momentum import init_feature_queue, register_feature_queue
from modeling_lavis.models.vision_timesformer import LavisTimesformerModel
from modeling_lavis.models.vision_vit import LavisViTModel, interpolate_grid_positions, interpolate_sequence_positions


def resize_images(model: Any, image_size: int, num_frames: int | None = None) -> None:
    """
    Let a model take images of another size, or clips of another number of frames, by interpolating its learned
    position embeddings; those of its momentum encoder, too.

    Args:
        model (`PreTrainedModel`): a head of this package; changed in-place, with its configuration. Its processor has
            options of its own.
        image_size (`int`): side length of images or frames in pixels, a multiple of the patch size.
        num_frames (`int`, *optional*): number of frames; only for videos.

    Raises:
        ValueError: the size is not a multiple of the patch size, or the model has no encoder of videos.
    """
    for encoder in (module for module in model.modules() if isinstance(module, LavisViTModel)):
        config = encoder.config
        if image_size < 1 or image_size % config.patch_size:
            raise ValueError(
                f"image_size is {image_size}; expected a multiple of the patch size {config.patch_size} of the model."
            )
        side = image_size // config.patch_size
        positions = interpolate_grid_positions(
            encoder.pos_embed.detach(), (side, side), align_corners=encoder.align_position_corners
        )
        _replace(encoder, "pos_embed", positions)
        config.image_size = image_size
        if num_frames is not None:
            if not isinstance(encoder, LavisTimesformerModel):
                raise ValueError(f"num_frames is {num_frames}, but {type(model).__name__} takes images.")
            _replace(encoder, "time_embed", interpolate_sequence_positions(encoder.time_embed.detach(), num_frames))
            encoder.config.num_frames = num_frames
    model.config.vision_config.image_size = image_size
    if num_frames is not None:
        model.config.vision_config.num_frames = num_frames


def _replace(module: nn.Module, name: str, value: torch.Tensor) -> None:
    old = module.get_parameter(name)
    if value.shape != old.shape:
        setattr(module, name, nn.Parameter(value.clone(), requires_grad=old.requires_grad))


def resize_queue(model: Any, size: int) -> None:
    """
    Give a model an empty feature queue of another length, as at the beginning of training; without a queue, nothing
    changes.

    Args:
        model (`PreTrainedModel`): a head of this package; changed in-place, with its configuration.
        size (`int`): number of features.

    Raises:
        ValueError: the size is not positive.
    """
    if size < 1:
        raise ValueError(f"The size of the queue is {size}; expected a positive number.")
    if hasattr(model, "image_queue") and model.image_queue.shape[1] != size:
        dim, device = model.image_queue.shape[0], model.image_queue.device
        with torch.device(device):
            register_feature_queue(model, size, dim, hasattr(model, "idx_queue"))
        init_feature_queue(model)
    model.config.queue_size = size


__all__ = ["resize_images", "resize_queue"]
