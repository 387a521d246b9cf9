# SPDX-License-Identifier: Apache-2.0
"""`explain`: maps of where a model looked.

Shapes: K words, M pictures, T text tokens, P patches, H rows and W columns of the patch grid.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from modeling_lavis.interpretability.explanation import Explanation
from modeling_lavis.interpretability.query_routes import QFormerRoute
from modeling_lavis.interpretability.recording import (
    AttentionRecord,
    Relate,
    as_recorded,
    evaluation_mode,
    grad_cam,
    recorded_attention,
)
from modeling_lavis.interpretability.routes import Combine, add, average, patch_grid
from modeling_lavis.interpretability.scores import Scored, find_task
from modeling_lavis.models.image_conversion import (
    apply_exif_orientation,
    open_image,
    parse_background,
    to_numpy,
    to_rgb,
    to_rgb_array,
)
from modeling_lavis.pipelines.loading import unwrap_adapters

Method = Literal["gradcam", "relevance", "rollout", "attention"]
METHODS: tuple[Method, ...] = ("gradcam", "relevance", "rollout", "attention")
_OVER_LAYERS = {"relevance": add, "rollout": average}


def explain(
    model: Any,
    processor: Any,
    image: Any,
    text: str | None = None,
    *,
    method: Method = "gradcam",
    target: str | int | None = None,
    layer: int | None = None,
) -> Explanation:
    """
    Explain a score of a model by maps of where it looked, one for each word.

    What is scored follows from the head. Heads for retrieval and pretraining score whether the text matches,
    classifiers a class, heads for question answering an answer; the words are those of the text. Heads for captions and
    with a language model score the text that they write, whose words have the maps, each that of its own
    log-probability.

    Parameters, their gradients, the attention implementation and the mode (training or evaluation) are left as they
    are.

    Args:
        model ([`PreTrainedModel`]): a head of this package, with or without adapters of PEFT.
        processor ([`ProcessorMixin`]): its processor.
        image: an image (path, URL, PIL image, array), a pair of images for NLVR2, or a video for ALPRO (path, array,
            list of frames).
        text (`str`, *optional*): the text, question or statement; for heads that write a text their prompt, by default
            that of the processor. A head for pretraining writes a caption if there is none.
        method (`str`, *optional*, defaults to `"gradcam"`): `"gradcam"`, attention weights times the positive part of
            the gradient of the score (https://arxiv.org/abs/1610.02391; ALBEF, section 6.3,
            https://arxiv.org/abs/2107.07651); `"relevance"`, the same weights of all layers, of the image encoder, too,
            one after the other (https://arxiv.org/abs/2103.15679, without its normalization); `"rollout"`, attention
            rolled out over all layers (https://arxiv.org/abs/2005.00928); or `"attention"`, the attention weights of
            one layer. The last two do not depend on the score.
        target (`str` or `int`, *optional*): what is scored: `"match"` (the default), `"mismatch"`, or `"similarity"`,
            the cosine of the features, with one map for the whole text; a class, by name or number, by default the most
            likely one; an answer or a caption, by default the one that the model generates with three beams.
        layer (`int`, *optional*): layer of the text encoder, decoder or Q-Former, counted from 0. By default that of
            the family's paper: the third fusion layer of ALBEF; the corresponding one of ALPRO; the eighth of 12 layers
            for BLIP, as in LAVIS; the last layer of the Q-Former with cross-attention; for similarities the last block
            of the image encoder. Not for relevance and rollout.

    Returns:
        [`Explanation`].

    Raises:
        ValueError: the head has no score to explain, text, target or method do not fit it, there is no such layer, or
            the language model returns no attention weights.
        OSError: the image cannot be read.

    Example:

    ```python
    >>> explanation = explain(model, processor, "beach.jpg", "a dog on the beach")  # doctest: +SKIP
    >>> explanation.save("maps.png")  # doctest: +SKIP
    >>> explanation.map("dog").shape  # at the size of the image  # doctest: +SKIP
    torch.Size([480, 640])

    ```
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(map(repr, METHODS))}.")
    if text is not None and not isinstance(text, str):
        raise ValueError(f"text is {text!r}; expected one string.")
    over_layers = method in _OVER_LAYERS
    if over_layers and layer is not None:
        raise ValueError(f"layer is {layer}, but {method} uses all layers; leave it out.")
    head = unwrap_adapters(model)
    with_gradient = method in ("gradcam", "relevance")
    # tensors that are made in inference mode could not get gradients
    with torch.inference_mode(False), torch.set_grad_enabled(with_gradient), evaluation_mode(head):
        pixels, pictures = _open_pictures(head, processor, image)
        # The path from the pixels makes attention differentiable, also where all parameters are frozen.
        pixels = {name: values.to(head.device).requires_grad_(with_gradient) for name, values in pixels.items()}
        task = find_task(head, processor, pixels, text, target)
        if layer is None:
            layer = None if over_layers else task.route.default_layer
        elif layer not in task.route.layers:
            raise ValueError(
                f"Layer {layer} of {type(head).__name__} does not lead to the image; choose one of {task.route.layers}."
            )
        with recorded_attention(task.route.encoders(over_layers), keep_graph=with_gradient) as record:
            scored = task.run(record)
            token_maps = partial(_token_maps, task.route, record, layer, _OVER_LAYERS.get(method))
            grids, overall = _word_maps(scored, token_maps, with_gradient)
            queries = token_maps(_total(scored), by_query=True) if isinstance(task.route, QFormerRoute) else None
    grid = patch_grid(head, next(iter(pixels.values())), grids.shape[-1])
    shared: dict[str, Any] = {
        "pictures": pictures,
        "score": scored.score,
        "score_name": task.score_name,
        "target": task.target,
        "method": method,
        "layer": layer,
    }
    by_query = None
    if queries is not None:
        maps = queries.transpose(0, 1).unflatten(-1, grid)  # (Q, M, H, W)
        names = [f"query {number}" for number in range(len(maps))]
        by_query = Explanation(names, maps, maps.mean(dim=0), **shared)
    words = [word.text for word in scored.words]
    return Explanation(words, grids.unflatten(-1, grid), overall.unflatten(-1, grid), queries=by_query, **shared)


def _token_maps(
    route: Any,
    record: AttentionRecord,
    layer: int | None,
    combine: Combine | None,
    score: Tensor,
    by_query: bool = False,
) -> Tensor:
    """Maps of text tokens `(M, T, P)`, or of query tokens, by the gradient of a score where the method has one."""
    relate: Relate = partial(grad_cam, score) if record.keep_graph else as_recorded
    if combine is None:
        return (route.by_query if by_query else route.attended)(record, relate, layer)
    matrices = dict(zip(record, relate(*record.values()), strict=True))
    return (route.rolled_out_by_query if by_query else route.rolled_out)(matrices, combine)


def _word_maps(scored: Scored, maps: Callable[[Tensor], Tensor], with_gradient: bool) -> tuple[Tensor, Tensor]:
    """Maps of the words `(K, M, P)`, means over their tokens, and the mean over the tokens of all words `(M, P)`."""
    made: dict[int, Tensor] = {}  # words that share a score share the maps of the tokens, without gradients all do
    sums = []
    for word, derived in zip(scored.words, scored.derived, strict=True):
        key = id(derived) if with_gradient else 0
        if key not in made:
            made[key] = maps(derived)
        sums.append(made[key][:, list(word.tokens)].sum(dim=1))
    counts = torch.tensor([len(word.tokens) for word in scored.words])
    total = torch.stack(sums)
    return total / counts[:, None, None], total.sum(dim=0) / counts.sum()


def _total(scored: Scored) -> Tensor:
    """The score of all words together."""
    return torch.stack(list({id(derived): derived for derived in scored.derived}.values())).sum()


def _open_pictures(head: Any, processor: Any, image: Any) -> tuple[dict[str, Tensor], list[PIL.Image.Image]]:
    """Pixel values by the name of the model's argument, for one text, and the pictures to draw."""
    if "video" in head.input_modalities:
        video_processor = processor.video_processor
        pixels = video_processor([image], return_tensors="pt")["pixel_values_videos"]
        return {"pixel_values_videos": pixels}, _frames(pixels[0], video_processor)
    images = [image]
    if getattr(head, "num_images", 1) == 2:
        if not isinstance(image, (list, tuple)) or len(image) != 2:
            raise ValueError(f"{type(head).__name__} takes two images; expected a list of two as image.")
        images = list(image)
    opened = [open_image(one) for one in images]
    pixels = processor.image_processor(images=[opened] if len(opened) == 2 else opened, return_tensors="pt")
    return {"pixel_values": pixels["pixel_values"]}, [_as_picture(one, processor.image_processor) for one in opened]


def _as_picture(image: Any, image_processor: Any) -> PIL.Image.Image:
    """An image in the orientation and on the background that the model sees."""
    background = parse_background(image_processor.background)
    if isinstance(image, PIL.Image.Image):
        upright = apply_exif_orientation(image) if image_processor.do_exif_transpose else image
        return to_rgb(upright, background)
    return PIL.Image.fromarray(to_rgb_array(to_numpy(image), background=background))


def _frames(pixels: Tensor, video_processor: Any) -> list[PIL.Image.Image]:
    """Frames `(F, C, H, W)` as the model gets them, without their normalization."""
    values = pixels.float()
    if video_processor.do_normalize:
        mean, std = (torch.tensor(getattr(video_processor, f"image_{name}")) for name in ("mean", "std"))
        values = values * std.reshape(-1, 1, 1) + mean.reshape(-1, 1, 1)
    if video_processor.do_rescale:
        values = values / video_processor.rescale_factor
    frames = values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [PIL.Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]


__all__ = ["METHODS", "Method", "explain"]
