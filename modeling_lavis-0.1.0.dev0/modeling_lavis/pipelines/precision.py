# SPDX-License-Identifier: Apache-2.0
"""The dtype in which a pipeline runs a model whose dtype the caller left open.

Checkpoints are often stored in half precision to save space. An accelerator computes fast in it, a CPU mostly does not:
without instructions for a dtype, PyTorch converts it for every operation, and generation in float16 takes three to four
times as long as in float32. Converting to float32 is exact.

| device | stored | computed |
| --- | --- | --- |
| any | float32 | float32 |
| CPU | float16 | float32 |
| CPU with instructions for bfloat16 (AVX512-BF16, AMX, ARM's BF16) | bfloat16 | bfloat16 |
| another CPU | bfloat16 | float32 |
| accelerator | float16, bfloat16 | as stored |
"""

import logging
import platform
from functools import cache
from typing import Any

import torch

logger = logging.getLogger(__name__)

_HALF = (torch.float16, torch.bfloat16)


def fast_dtype(stored: torch.dtype, device: torch.device | str) -> torch.dtype:
    """
    The dtype for a model stored in another one, see the table at the head of this file.

    Args:
        stored (`torch.dtype`): dtype of the weights.
        device (`torch.device` or `str`): device on which the model runs.

    Returns:
        `torch.dtype`: `stored`, or `torch.float32`.
    """
    if torch.device(device).type != "cpu" or stored not in _HALF:
        return stored
    return stored if stored == torch.bfloat16 and cpu_has_bfloat16() else torch.float32


@cache
def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16, so that PyTorch computes faster in it than in float32."""
    try:
        if platform.machine().lower() in ("arm64", "aarch64"):
            return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        # The check for ARM would not do: on x86 it accepts AVX512 without instructions for bfloat16.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    except (AttributeError, RuntimeError):  # private functions, and a build without oneDNN
        return False


def use_fast_dtype(model: Any, device: torch.device | str) -> None:
    """
    Convert a model in-place to float32 if it is stored in a dtype that is slow on its device, and log that once.

    A model that is quantized or spread over several devices stays as it is.

    Args:
        model (`PreTrainedModel`): the model.
        device (`torch.device` or `str`): device on which the model runs.
    """
    if getattr(model, "hf_device_map", None) is not None or getattr(model, "hf_quantizer", None) is not None:
        return
    stored = {values.dtype for values in (*model.parameters(), *model.buffers())} & set(_HALF)
    slow = sorted(str(dtype) for dtype in stored if fast_dtype(dtype, device) != dtype)
    if not slow:
        return
    model.float()
    model.config.dtype = torch.float32
    logger.warning(
        f"The weights of {getattr(model, 'name_or_path', '') or type(model).__name__} are stored in"
        f" {' and '.join(name.removeprefix('torch.') for name in slow)}, in which this CPU is slow. The model runs in"
        f" float32. To choose the dtype, pass it: dtype={slow[0]}, or --dtype {slow[0].removeprefix('torch.')} on the"
        " command line."
    )
