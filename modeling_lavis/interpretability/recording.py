# SPDX-License-Identifier: Apache-2.0
"""Record the attention weights of one forward pass, and weight them by gradients.

Shapes: h heads, Q queries, K keys.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

#: From attention weights `(..., h, Q, K)` of a record to how strongly queries use keys, `(..., Q, K)` each.
Relate = Callable[..., list[Tensor]]

# By name, because a class that was loaded with a repository is another object than that of this package.
_ATTENTION = frozenset({"ViTAttention", "BertSelfAttention", "BertCrossAttention"})
# Small gradients of half precision would underflow. A power of two changes no other digit.
_GRADIENT_SCALE = 256.0


class AttentionRecord(dict[Any, Tensor]):
    """
    Attention weights by the module that computed them, those of its last call.

    Args:
        keep_graph (`bool`): keep the weights `(..., h, Q, K)` in the autograd graph. Otherwise their mean over the
            heads is kept, `(..., Q, K)`, in float32 on the CPU.
    """

    def __init__(self, keep_graph: bool) -> None:
        super().__init__()
        self.keep_graph = keep_graph

    def add(self, key: Any, weights: Tensor | None) -> None:
        """Record weights `(..., h, Q, K)`; `ValueError` if attention returned none."""
        if weights is None:
            name = type(key).__name__ if isinstance(key, nn.Module) else f"The {key[0]} of the language model"
            raise ValueError(
                f"{name} returned no attention weights, which maps are made of; its attention has no eager "
                "implementation."
            )
        self[key] = weights if self.keep_graph else weights.detach().float().mean(dim=-3).cpu()


@contextmanager
def eager_attention(encoders: Sequence[PreTrainedModel]) -> Iterator[None]:
    """Switch encoders to eager attention, the only implementation that returns weights, and back."""
    models = [part for encoder in encoders for part in encoder.modules() if isinstance(part, PreTrainedModel)]
    before: list[str] = [model.config._attn_implementation for model in models]
    for encoder in encoders:
        encoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        for model, implementation in zip(models, before, strict=True):  # outer models first: they set the inner ones
            model.set_attn_implementation(implementation)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Context in which a model is in evaluation mode; afterwards each module has its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def recorded_attention(encoders: Sequence[PreTrainedModel], keep_graph: bool) -> Iterator[AttentionRecord]:
    """
    Context in which encoders run with eager attention and their attention weights are recorded. Afterwards they are as
    before, also after an error.

    Args:
        encoders (`Sequence[PreTrainedModel]`): parts of a model.
        keep_graph (`bool`): see [`AttentionRecord`].
    """
    record = AttentionRecord(keep_graph)

    def add(module: nn.Module, args: Any, output: tuple[Tensor, Tensor | None]) -> None:
        record.add(module, output[1])

    hooks = [
        module.register_forward_hook(add)
        for encoder in encoders
        for module in encoder.modules()
        if _ATTENTION.intersection(base.__name__ for base in type(module).__mro__)
    ]
    try:
        with eager_attention(encoders):
            yield record
    finally:
        for hook in hooks:
            hook.remove()


def as_recorded(*weights: Tensor) -> list[Tensor]:
    """The plain attention weights, whose mean over the heads was recorded."""
    return list(weights)


def grad_cam(score: Tensor, *weights: Tensor) -> list[Tensor]:
    """
    Grad-CAM (https://arxiv.org/abs/1610.02391) of attention: the weights, times the positive part of the gradient of a
    score, averaged over the heads.

    Args:
        score (`Tensor`): a scalar. Its graph is kept; gradients of parameters are not touched.
        weights (`Tensor` of shape `(..., h, Q, K)`): recorded with `keep_graph`.

    Returns:
        `list[Tensor]`: of shape `(..., Q, K)` each, in float32 on the CPU.

    Raises:
        ValueError: the score depends on none of the weights by anything that has a gradient.
    """
    if not score.requires_grad or not any(attention.requires_grad for attention in weights):
        raise ValueError(
            "Grad-CAM needs gradients, but all parameters that the attention depends on are frozen; call "
            "requires_grad_() on the pixel values or on the text encoder."
        )
    # A module may return another view of the weights than it computes with, which has no gradient.
    used = [attention if attention._base is None else attention._base for attention in weights]
    needed = [attention for attention in used if attention.requires_grad]
    found = iter(torch.autograd.grad(score * _GRADIENT_SCALE, needed, retain_graph=True, allow_unused=True))
    maps = []
    for attention, source in zip(weights, used, strict=True):
        gradient = next(found) if source.requires_grad else None
        if gradient is None:  # the score does not depend on it
            gradient = torch.zeros_like(source)
        positive = (gradient.float() / _GRADIENT_SCALE).clamp(min=0).view_as(attention)
        maps.append((attention.detach().float() * positive).mean(dim=-3).cpu())
    return maps


__all__ = [
    "AttentionRecord",
    "Relate",
    "as_recorded",
    "eager_attention",
    "evaluation_mode",
    "grad_cam",
    "recorded_attention",
]
