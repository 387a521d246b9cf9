# SPDX-License-Identifier: Apache-2.0
"""Weights of exported graphs in float16 or int8.

`float16` is a matter of storage: both engines convert such weights to float32 when they open a graph. `int8` weights
are multiplied as they are: each output of a linear layer has its own scale, and the engine quantizes the inputs of the
layer when it runs. What is not a linear layer (embeddings, convolutions, normalization) is stored in float16 then.
"""

from pathlib import Path
from typing import Any

import numpy as np

#: precisions of weights, the largest first
PRECISIONS = ("float32", "float16", "int8")
# Smaller tensors stay as they are: they hardly take space, and constants such as the value of masks need their range.
_SMALLEST = 1024
_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)


def with_smaller_onnx_weights(model: Any, precision: str, scratch: Path) -> Any:
    """
    An ONNX model with smaller weights.

    Args:
        model (`onnx.ModelProto`): the model in float32, which is changed.
        precision (`str`): `"float16"` or `"int8"`.
        scratch (`Path`): folder for temporary files.
    """
    if precision == "int8":
        model = _quantized_linear_layers(model, scratch)
    _store_in_float16(model)
    return model


def _quantized_linear_layers(model: Any, scratch: Path) -> Any:
    """The model with integer products in place of products with a weight; standard operators of ONNX."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    # The exporter has inferred shapes and folded constants; without the mark there is a warning that asks for both.
    add_pre_process_metadata(model)
    quantized = scratch / "quantized.onnx"
    quantize_dynamic(
        model,
        quantized,
        op_types_to_quantize=["MatMul"],  # and Gemm, which is split into a product and a sum
        per_channel=True,
        weight_type=QuantType.QInt8,
        use_external_data_format=True,  # a message of more than 2 GiB has no bytes
    )
    return onnx.load(quantized)


def _store_in_float16(model: Any) -> None:
    """Store large weights in float16, and convert them to float32 before they are used."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < _SMALLEST:
            continue
        values = numpy_helper.to_array(tensor)
        if np.abs(values).max() > _LARGEST_FLOAT16:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}.float32", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def compress_openvino_weights(model: Any) -> None:
    """
    Store the weights of linear layers in int8, with a scale for each output.

    The processor plugin multiplies them without converting them first, because it knows the pattern of constant,
    conversion and scale.

    Args:
        model (`openvino.Model`): the model in float32, which is changed.
    """
    from openvino import opset13 as operators

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weight = node.input_value(1).get_node()
        if weight.get_type_name() != "Constant" or weight.get_output_size() != 1 or len(weight.shape) != 2:
            continue
        values = weight.data
        if values.dtype != np.float32 or values.size < _SMALLEST:
            continue
        inputs = 1 if node.get_attributes()["transpose_b"] else 0
        scales = np.abs(values).max(axis=inputs, keepdims=True) / 127
        scales[scales == 0] = 1
        integers = operators.constant(np.rint(values / scales).astype(np.int8))
        scaled = operators.multiply(operators.convert(integers, "f32"), operators.constant(scales))
        node.input(1).replace_source_output(scaled.output(0))


__all__ = ["PRECISIONS", "compress_openvino_weights", "with_smaller_onnx_weights"]
