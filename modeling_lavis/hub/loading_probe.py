# SPDX-License-Identifier: Apache-2.0
"""Loads a repository in a process of its own and stores what its model computes from what its processor prepares.

`publish` runs this file in fresh processes, for a folder and for what was uploaded from it, and compares the results.
The file imports nothing of this package, because it also runs where only the code of the repository is allowed:

    python loading_probe.py SOURCE OUTPUT [--revision COMMIT] [--cache FOLDER] [--without-package]
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

TEXTS = ("two dogs run on a beach", "what is in the image?")


def main() -> None:
    """Load SOURCE, run it, and write the tensors to OUTPUT (safetensors)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("output")
    parser.add_argument("--revision")
    parser.add_argument("--cache")
    parser.add_argument("--without-package", action="store_true")
    args = parser.parse_args()
    if args.without_package:
        sys.modules["modeling_lavis"] = None  # type: ignore[assignment]  # importing it raises, even if it is installed
    else:
        import modeling_lavis  # noqa: F401  (registers the classes)
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModel, AutoProcessor

    options = {name: value for name, value in (("revision", args.revision), ("cache_dir", args.cache)) if value}
    options["trust_remote_code"] = args.without_package
    model, info = AutoModel.from_pretrained(args.source, dtype="auto", output_loading_info=True, **options)
    if info.get("missing_keys"):
        # Raises an error, except for weights that a head derives from others, such as momentum encoders.
        model = AutoModel.from_pretrained(args.source, dtype="auto", **options)
    processor = AutoProcessor.from_pretrained(args.source, **options)
    model = model.eval()
    torch.use_deterministic_algorithms(True, warn_only=True)
    with torch.no_grad():
        tensors = compute(model, processor)
    facts = {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "processor": type(processor).__name__,
        "unexpected_keys": json.dumps(sorted(map(str, info.get("unexpected_keys") or ()))),
    }
    save_file(tensors, args.output, facts)


def compute(model: Any, processor: Any) -> dict[str, Any]:
    """
    Run a processor and a head on fixed inputs.

    Args:
        model (`PreTrainedModel`): a head.
        processor (`ProcessorMixin`): its processor.

    Returns:
        `dict[str, torch.Tensor]`: all tensors that the processor makes (`inputs.*`), that the forward pass returns
        (`forward.*`) and that are generated (`generated`).
    """
    found: dict[str, Any] = {}
    for name, value in _results(model, processor):
        found.update(_flat(value, name))
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in found.items()}


def _results(model: Any, processor: Any) -> Iterator[tuple[str, Any]]:
    """Inputs made by the processor, outputs of the forward pass, and generated ids, by name."""
    head = type(model).__name__
    texts = list(TEXTS)
    if model.main_input_name == "pixel_values_videos":
        inputs = processor(videos=_videos(), text=texts, return_tensors="pt")
    elif head.endswith("ForImagesAndTextClassification"):
        first, second = _images()
        inputs = processor(images=[[first, second], [second, first]], text=texts, return_tensors="pt")
    elif getattr(processor, "tokenizer", None) is None:
        inputs = processor(images=_images(), return_tensors="pt")
    else:
        # heads without a language model read whole texts; prompts are for those that continue them
        format_of_texts = {} if hasattr(model, "language_model") else {"text_format": "encoder"}
        inputs = processor(images=_images(), text=texts, return_tensors="pt", **format_of_texts)
    yield "inputs", inputs
    arguments = {name: _in_dtype(value, model.dtype) for name, value in inputs.items()}
    if "ForPreTraining" in head or head.endswith(("ForImageTextRetrieval", "ForVideoTextRetrieval")):
        yield "forward", model(**arguments, match_head="both")
    elif head.endswith("ForQuestionAnswering") and "Video" not in head or _decodes(model):
        yield "forward", model(**arguments, decoder_input_ids=arguments["input_ids"])
    else:
        yield "forward", model(**arguments)
    if model.can_generate():
        if not (head.endswith("ForQuestionAnswering") or hasattr(model, "language_model")):
            arguments = {"pixel_values": arguments["pixel_values"]}
        yield "generated", model.generate(**arguments, max_new_tokens=5, min_length=0, do_sample=False)


def _decodes(model: Any) -> bool:
    """Whether the head has a sequence-to-sequence language model, whose decoder needs ids."""
    return hasattr(model, "language_model") and bool(model.config.is_encoder_decoder)


def _images() -> list[Any]:
    """Two RGB images of different sizes with smooth and sharp parts."""
    import numpy as np
    from PIL import Image

    images = []
    for height, width, step in ((48, 64, 7), (80, 56, 11)):
        y, x = np.mgrid[:height, :width]
        values = np.stack([x * step % 256, y * step % 256, (x // 8 + y // 8) % 2 * 255], axis=-1)
        images.append(Image.fromarray(values.astype(np.uint8)))
    return images


def _videos() -> list[Any]:
    """Two videos of 8 frames."""
    import numpy as np

    first, second = (np.asarray(image) for image in _images())
    return [np.stack([np.roll(image, 3 * frame, axis=1) for frame in range(8)]) for image in (first, second)]


def _in_dtype(value: Any, dtype: Any) -> Any:
    return value.to(dtype) if value.is_floating_point() else value


def _flat(value: Any, name: str) -> dict[str, Any]:
    """Tensors inside dictionaries and sequences, by their path. Anything else, such as a cache, is left out."""
    if hasattr(value, "is_floating_point"):
        return {name: value}
    parts: Any = ()
    if isinstance(value, Mapping) or hasattr(value, "items"):
        parts = value.items()
    elif isinstance(value, (tuple, list)):
        parts = enumerate(value)
    found: dict[str, Any] = {}
    for key, part in parts:
        found.update(_flat(part, f"{name}.{key}"))
    return found


if __name__ == "__main__":
    main()
