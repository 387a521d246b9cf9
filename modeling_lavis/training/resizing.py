# SPDX-License-Identifier: Apache-2.0
"""Changing the image size, the number of frames and the length of the feature queue of a model."""

from typing import Any

import torch

from modeling_lavis.models.momentum import init_feature_queue, register_feature_queue
from modeling_lavis.models.vision_timesformer import resize_images


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
