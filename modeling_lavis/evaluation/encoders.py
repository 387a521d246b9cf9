# SPDX-License-Identifier: Apache-2.0
"""What the retrieval engine needs of a model: features and hidden states of images and texts, and their comparison.

Shapes: b images, r texts, N image tokens, T text tokens, D hidden size, Q features per image, P projection dimension.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modeling_lavis.models.modeling_base import mask_padding


class Encoded(NamedTuple):
    """
    Images or texts after an encoder.

    Args:
        features (`Tensor` of shape `(b, P)` or `(b, Q, P)`): normalized features.
        states (`Tensor` of shape `(b, N, D)`, *optional*): hidden states, if matching needs them.
    """

    features: Tensor
    states: Tensor | None


class RetrievalEncoder:
    """
    A model as the retrieval engine sees it.

    Args:
        model: a head with `get_image_features` (or `get_video_features`) and `get_text_features`. With `score_pairs`,
            which takes hidden states of images, candidates can be matched.

    Raises:
        TypeError: If the model lacks one of these methods.
    """

    #: whether hidden states of images have to be kept for matching, or can be had again for nothing
    keeps_states = True

    def __init__(self, model: Any) -> None:
        self.model = model
        #: whether the model is one of this package, or has the same steps
        self.has_steps = all(
            hasattr(model, name) for name in ("encode_images", "project_images", "encode_texts", "project_texts")
        )
        self.image_method = next(
            (name for name in ("get_image_features", "get_video_features") if hasattr(model, name)), None
        )
        if not self.has_steps and (self.image_method is None or not hasattr(model, "get_text_features")):
            raise TypeError(
                f"Retrieval got {type(model).__name__}, which has no get_image_features and get_text_features; "
                "expected a head for image-text or video-text retrieval, or a model such as transformers' CLIPModel."
            )
        self.has_matching = hasattr(model, "score_pairs")
        self.fuses_text_states = self.has_matching and bool(getattr(model, "fuses_text_states", False))
        self.image_argument = getattr(model, "main_input_name", "pixel_values")
        if self.image_argument not in ("pixel_values", "pixel_values_videos"):
            self.image_argument = "pixel_values"

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return torch.device(self.model.device)

    @property
    def modality(self) -> str:
        """What is retrieved in addition to texts: `"image"` or `"video"`."""
        return "video" if self.image_argument == "pixel_values_videos" else "image"

    @property
    def fixed_text_length(self) -> int | None:
        """Length that texts have to be padded to; `None` for models of this package, which mask padding."""
        if self.has_steps:
            return None
        # SigLIP reads the last token of the padded text, without a mask, and CLIP does not mind
        return int(self.model.config.get_text_config().max_position_embeddings)

    def attention_mask(self, texts: Mapping[str, Tensor]) -> Tensor:
        """Mask `(S, T)` of the tokens that count."""
        input_ids, mask = texts["input_ids"], texts.get("attention_mask")
        if self.has_steps:
            return mask_padding(input_ids, mask, self.model.config.pad_token_id)
        return torch.ones_like(input_ids) if mask is None else mask

    def encode_images(self, inputs: Tensor | Mapping[str, Tensor]) -> Encoded:
        """Encode a batch of pixels `(b, ...)`, or of inputs by name."""
        if self.has_steps and isinstance(inputs, Tensor):
            states = self.image_states(inputs)
            return Encoded(self.model.project_images(states), states if self.has_matching else None)
        named = {self.image_argument: inputs} if isinstance(inputs, Tensor) else inputs
        named = {name: values.to(self.device) for name, values in named.items()}
        return self._features(getattr(self.model, str(self.image_method))(**named))

    def image_states(self, inputs: Tensor | Mapping[str, Tensor]) -> Tensor:
        """Hidden states `(b, N, D)` of a batch alone, for matching."""
        if self.has_steps and isinstance(inputs, Tensor):
            return self.model.encode_images(inputs.to(self.device))
        return required(self.encode_images(inputs).states)

    def encode_texts(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """Encode texts `(r, T)`; hidden states are returned if matching starts from them."""
        named = {name: values.to(self.device) for name, values in inputs.items() if values is not None}
        if self.has_steps:
            states = self.model.encode_texts(named["input_ids"], named.get("attention_mask"))
            return Encoded(self.model.project_texts(states), states if self.fuses_text_states else None)
        encoded = self._features(self.model.get_text_features(**named))
        return encoded if self.fuses_text_states else Encoded(encoded.features, None)

    def compare(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Cosine similarities `(images, texts)`."""
        if hasattr(self.model, "compare_features"):
            return self.model.compare_features(image_features, text_features)
        if image_features.ndim == 3:
            return torch.einsum("bqp,rp->bqr", image_features, text_features).amax(dim=1)
        return image_features @ text_features.T

    def _features(self, output: Any) -> Encoded:
        """Normalized features of what `get_*_features` returned: an output, a tuple, or the features themselves."""
        if isinstance(output, Tensor):
            features, states = output, None
        elif isinstance(output, tuple):
            states, features = output[0], output[1]
        else:
            features, states = output.pooler_output, output.last_hidden_state
        return Encoded(F.normalize(features.float(), dim=-1), states if self.has_matching else None)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """No gradients, and no dropout; afterwards the model is in its earlier mode."""
        training = getattr(self.model, "training", False)
        if training:
            self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self.model.train()


class StatesEncoder(RetrievalEncoder):
    """An encoder whose images are hidden states `(b, N, D)` in memory already."""

    keeps_states = False

    def image_states(self, inputs: Any) -> Tensor:
        return inputs.to(self.device)


def required(states: Tensor | None) -> Tensor:
    """Hidden states; `ValueError` if the model returned none."""
    if states is None:
        raise ValueError(
            "The model has score_pairs, but its get_image_features returns no hidden states to match with; expected an "
            "output with last_hidden_state and pooler_output. To rank by similarity only, pass rerank=False."
        )
    return states


__all__ = ["Encoded", "RetrievalEncoder", "StatesEncoder", "required"]
