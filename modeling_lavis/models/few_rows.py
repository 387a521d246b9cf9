# SPDX-License-Identifier: Apache-2.0
"""A linear map that is also fast for the few rows of a decoding step.

Letters: R rows, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

# Below, the library's own product of vectors wins; above, its blocks are large enough.
_FEWEST, _MOST = 9, 40


class FewRowsLinear(nn.Linear):
    """
    [`torch.nn.Linear`] for maps that a decoder applies to one token of each beam.

    With a dozen rows the time goes into reading the weight. On a CPU `weight @ rows.T` reads a large one up to twice as
    fast as `rows @ weight.T`. Other numbers of rows, dtypes and devices, and gradients, take the usual way.
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
        rows = input.numel() // self.in_features
        if not _FEWEST <= rows <= _MOST:
            return super().forward(input)
        columns = input.reshape(rows, self.in_features).T  # (I, R)
        bias: Tensor | None = self.bias
        if bias is None:
            outputs = self.weight @ columns
        else:
            outputs = torch.addmm(bias[:, None], self.weight, columns)
        return outputs.T.reshape(*input.shape[:-1], -1)


__all__ = ["FewRowsLinear"]
