# SPDX-License-Identifier: Apache-2.0
"""How attention leads to the patches of all frames of a video.

Shapes: T text tokens, F frames, P patches of a frame, N = P + 1 positions (class token first).
"""

from typing import Any

import torch
from torch import Tensor

from modeling_lavis.interpretability.recording import AttentionRecord, Relate
from modeling_lavis.interpretability.routes import Combine, ImageRoute, Matrices, Route, step


class VideoRoute(Route):
    """
    Words attend to positions of the frames, whose states are averaged over the frames, and positions to frames (ALPRO).

    Maps of one layer multiply how strongly a word attends to a position with the share of each frame in it, by the
    temporal attention of the last block of the video encoder.

    Args:
        model (`PreTrainedModel`): the head.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.blocks = model.text_encoder.encoder.layer
        self.text_encoders = [model.text_encoder]
        config = model.text_encoder.config
        self.layers = list(range(config.num_text_layers, len(self.blocks)))

    def encoders(self, all_layers: bool) -> list[Any]:
        """As in the base class; one layer needs the temporal attention of the video encoder, too."""
        return super().encoders(all_layers=True)

    @property
    def default_layer(self) -> int:
        """The third multimodal layer, as in ALBEF, whose layers these are; ALPRO's paper has no maps."""
        return max(min(self.layers[0] + 2, self.layers[-1] - 1), self.layers[0])

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        temporal = record[self.vision_model.blocks[-1].temporal_attn]
        joint, over_time = relate(record[self.blocks[layer].attention.self], temporal)
        positions = over_time.shape[1]
        words = joint[0, : joint.shape[-1] - positions, -positions + 1 :]  # (T, P)
        frames = over_time[0, 1:].mean(dim=-2)  # (P, F)
        total = frames.sum(dim=-1, keepdim=True)
        shares = torch.where(total > 0, frames / total.clamp(min=torch.finfo(total.dtype).tiny), 1 / frames.shape[-1])
        return words * shares.T[:, None]

    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        videos = roll_out_video(self.vision_model, matrices, combine)  # (N, F * P)
        text_tokens = matrices[self.blocks[self.layers[0]].attention.self].shape[-1] - len(videos)
        states = torch.cat([torch.zeros(text_tokens, videos.shape[-1]), videos])
        for number in self.layers:
            states = step(matrices[self.blocks[number].attention.self][0], states, combine)
        return _by_frame(states[:text_tokens], len(videos) - 1)


class VideoFeatureRoute(ImageRoute):
    """
    The class token of the video encoder, from which the features of a video are made, attends to patches (ALPRO).

    Args:
        model (`PreTrainedModel`): the head.
    """

    def attended(self, record: AttentionRecord, relate: Relate, layer: int) -> Tensor:
        (frames,) = relate(record[self.vision_model.blocks[layer].attn])  # (1, F, N, N)
        return frames[0, :, :1, 1:]

    def rolled_out(self, matrices: Matrices, combine: Combine) -> Tensor:
        videos = roll_out_video(self.vision_model, matrices, combine)
        return _by_frame(videos[:1], len(videos) - 1)


def roll_out_video(vision_model: Any, matrices: Matrices, combine: Combine) -> Tensor:
    """How much of each position `(N, F * P)` of a video encoder, averaged over the frames, comes from which patch."""
    frames, positions, _ = matrices[vision_model.blocks[0].attn][0].shape
    patches = torch.eye(frames * (positions - 1)).unflatten(0, (frames, positions - 1)).transpose(0, 1)
    states = torch.cat([torch.zeros_like(patches[:1]), patches])  # (N, F, F * P)
    for block in vision_model.blocks:
        # the class token has no temporal attention, and is the same for all frames
        states = torch.cat([states[:1], step(matrices[block.temporal_attn][0, 1:], states[1:], combine)])
        states = step(matrices[block.attn][0], states.transpose(0, 1), combine).transpose(0, 1)
        states = torch.cat([states[:1].mean(dim=1, keepdim=True).expand_as(states[:1]), states[1:]])
    return states.mean(dim=1)


def _by_frame(states: Tensor, patches: int) -> Tensor:
    """`(tokens, F * P)` to `(F, tokens, P)`."""
    return states.unflatten(-1, (-1, patches)).transpose(0, 1)


__all__ = ["VideoFeatureRoute", "VideoRoute"]
