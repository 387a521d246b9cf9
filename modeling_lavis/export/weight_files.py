# SPDX-License-Identifier: Apache-2.0
"""One file of weights beside several ONNX files, with every weight once: graphs of one head share most of them."""

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WEIGHTS_FILE = "weights.data"
# Smaller tensors stay in the ONNX file, where shape inference can read them.
_SMALLEST = 1024
# what onnxruntime needs to map a tensor into memory
_ALIGNMENT = 4096


class SharedWeights:
    """
    The file of weights in a folder.

    Args:
        folder (`Path`): folder of the ONNX files.
        precision (`str`, *optional*, defaults to `"float32"`): that weights are stored in, see
            [`modeling_lavis.export.weight_precision`].
    """

    def __init__(self, folder: Path, precision: str = "float32") -> None:
        self.path = folder / WEIGHTS_FILE
        self.precision = precision
        self._places: dict[str, tuple[int, int]] = {}

    def move(self, model: Any) -> None:
        """Move the weights of an ONNX model (`onnx.ModelProto`) to the file."""
        for tensor in model.graph.initializer:
            if not tensor.HasField("raw_data") or len(tensor.raw_data) < _SMALLEST:
                continue
            offset, length = self._place(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = tensor.EXTERNAL
            for key, value in (("location", WEIGHTS_FILE), ("offset", str(offset)), ("length", str(length))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value

    def _place(self, values: bytes) -> tuple[int, int]:
        """Offset and length of values in the file, which are appended if it does not have them."""
        digest = hashlib.sha256(values).hexdigest()
        if digest not in self._places:
            with open(self.path, "ab") as file:
                file.write(bytes(-file.tell() % _ALIGNMENT))
                self._places[digest] = (file.tell(), len(values))
                file.write(values)
        return self._places[digest]

    @contextlib.contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """Context manager that yields a folder beside the file, which is removed afterwards."""
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            yield Path(folder)


__all__ = ["WEIGHTS_FILE", "SharedWeights"]
