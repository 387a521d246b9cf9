"""The linear map of decoding steps: the numbers of torch's, for any number of rows, with and without gradients."""

import pytest
import torch

from modeling_lavis.models.memory import SkinnyLinear


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (2, 4), (3, 3), (12, 1), (40, 1), (41, 1), (5, 20), (0, 3)])
@pytest.mark.parametrize("outputs", [18, 64, 75])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_same_as_linear(shape: tuple[int, ...], bias: bool, outputs: int, dtype: torch.dtype) -> None:
    linear = SkinnyLinear(24, outputs, bias=bias, dtype=dtype)
    inputs = torch.randn(*shape, 24, dtype=dtype)
    with torch.no_grad():
        found = linear(inputs)
        expected = torch.nn.functional.linear(inputs, linear.weight, linear.bias)
    assert found.shape == expected.shape
    assert found.dtype == dtype
    assert torch.allclose(found, expected, atol=1e-6)


def test_gradients_flow() -> None:
    linear = SkinnyLinear(6, 5)
    inputs = torch.randn(12, 6, requires_grad=True)
    linear(inputs).sum().backward()
    assert torch.allclose(inputs.grad, linear.weight.sum(dim=0).expand(12, 6))


def test_autocast_decides_the_dtype() -> None:
    linear = SkinnyLinear(6, 5)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(torch.randn(12, 6)).dtype == torch.bfloat16
