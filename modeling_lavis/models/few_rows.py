# SPDX-License-Identifier: Apache-2.0
"""A linear map that is also fast for the few rows of a decoding step.

Letters: R rows, I inputs, O outputs, S slices of the outputs.
"""

import torch
from torch import Tensor, nn

# With a single row the library's product of a matrix and a vector wins, with many rows its blocks are large enough.
_FEWEST, _SLICED, _MOST = 2, 15, 40
_SLICE = 32


class FewRowsLinear(nn.Linear):
    """
    [`torch.nn.Linear`] for maps that a decoder applies to one token of each beam.

    With a dozen rows the time goes into reading the weight, which the library's matrix product does at a third of what
    the memory of a CPU can give. Cut into slices of outputs that are multiplied as a batch, or as `weight @ rows.T`,
    the same weight is read up to twice as fast. Other numbers of rows, dtypes and devices, and gradients, take the
    usual way.
    """

    def forward(self, input: Tensor) -> Tensor:
        # In this order: a compiler may not know the number of rows.
        if (
            torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or input.device.type != "cpu"
            or input.dtype != torch.float32
            or self.weight.dtype != torch.float32
        ):
            return super().forward(input)
        count = input.numel() // self.in_features
        if not _FEWEST <= count <= _MOST:
            return super().forward(input)
        rows = input.reshape(count, self.in_features)
        # only MKL multiplies a batch in one go
        if count <= _SLICED and torch.backends.mkl.is_available():
            outputs = _by_slices(rows, self.weight, self.bias)
        else:
            outputs = _by_columns(rows, self.weight, self.bias)
        return outputs.reshape(*input.shape[:-1], -1)


def _by_slices(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The map as a batch of products, one for each slice of the outputs: `(R, I)` to `(R, O)`."""
    slices, rest = divmod(weight.shape[0], _SLICE)
    whole = weight.shape[0] - rest
    parts = weight[:whole].unflatten(0, (slices, _SLICE)).transpose(1, 2)  # (S, I, O / S)
    batch = rows.expand(slices, -1, -1)
    if bias is None:
        outputs = torch.bmm(batch, parts)
    else:
        outputs = torch.baddbmm(bias[:whole].view(slices, 1, _SLICE), batch, parts)
    outputs = outputs.transpose(0, 1).flatten(1)
    if rest:
        last = nn.functional.linear(rows, weight[whole:], bias if bias is None else bias[whole:])
        outputs = torch.cat([outputs, last], dim=1)
    return outputs


def _by_columns(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The map as `weight @ rows.T`: `(R, I)` to `(R, O)`."""
    outputs = weight @ rows.T if bias is None else torch.addmm(bias[:, None], weight, rows.T)
    return outputs.T


__all__ = ["FewRowsLinear"]
