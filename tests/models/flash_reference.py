"""Flash attention on a CPU: plain softmax in the place of the kernels, all of transformers' code around them real."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import modeling_flash_attention_utils


def _softmax_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> Tensor:
    """One sequence, `(T, H, d)` and `(N, H, d)`; the last query is aligned with the last key."""
    scores = torch.einsum("thd,nhd->htn", query, key) * scale
    if causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1 + scores.shape[2] - scores.shape[1])
        scores = scores.masked_fill(later, float("-inf"))
    return torch.einsum("htn,nhd->thd", scores.softmax(dim=-1), value)


def flash_attn_func(
    query: Tensor, key: Tensor, value: Tensor, softmax_scale: float, causal: bool = False, **kwargs: Any
) -> Tensor:
    """Equal lengths: `(B, T, H, d)`."""
    rows = zip(query, key, value, strict=True)
    return torch.stack([_softmax_attention(*row, softmax_scale, causal) for row in rows])


def flash_attn_varlen_func(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    softmax_scale: float,
    causal: bool = False,
    **kwargs: Any,
) -> Tensor:
    """Packed sequences: `(tokens, H, d)`."""
    query_lengths, key_lengths = cu_seqlens_q.diff().tolist(), cu_seqlens_k.diff().tolist()
    assert (max(query_lengths), max(key_lengths)) == (max_seqlen_q, max_seqlen_k)
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32
    parts = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    return torch.cat([_softmax_attention(*part, softmax_scale, causal) for part in parts])


def kernel_options(query_length: int, is_causal: bool, softmax_scale: float, **kwargs: Any) -> dict[str, Any]:
    """What transformers makes of its arguments for the kernels."""
    lengths = {name: kwargs[name] for name in ("max_seqlen_q", "max_seqlen_k") if name in kwargs}
    return {"softmax_scale": softmax_scale, "causal": is_causal and query_length > 1, **lengths}


class KernelOptions(tuple):
    """One function for both kernels, as older versions of transformers have it, and one for each in newer ones."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return kernel_options(*args, **kwargs)


@contextmanager
def flash_attention(model: nn.Module) -> Iterator[list[str]]:
    """Run `model` with `flash_attention_2`; yields the names of the kernels that were called."""
    utils: Any = modeling_flash_attention_utils
    called: list[str] = []

    def counted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            called.append(function.__name__)
            return function(*args, **kwargs)

        return call

    kernels = (counted(flash_attn_func), counted(flash_attn_varlen_func), None, utils._pad_input, utils._unpad_input)
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    with pytest.MonkeyPatch.context() as patch:
        options = KernelOptions((kernel_options, kernel_options))
        patch.setattr(utils, "lazy_import_flash_attention", lambda *args, **kwargs: (kernels, options))
        for config in configs.values():
            config._attn_implementation_internal = "flash_attention_2"
        try:
            yield called
        finally:
            for key, config in configs.items():
                config._attn_implementation_internal = before[key]
