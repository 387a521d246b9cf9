# SPDX-License-Identifier: Apache-2.0
"""Parts of LAVIS 1.0.2, built without network access. Imported in the Python of the peer `lavis` only.

Models of LAVIS contain tokenizers, whose vocabulary they download. The replacement below returns prepared ids, so that
tokenization is not measured, as for the other peers.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class PreparedText(dict):
    """Replaces the output of a tokenizer: keys as attributes, and a `to` that is a no-op."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def to(self, *args: Any, **kwargs: Any) -> "PreparedText":
        return self


class PreparedTokenizer:
    """Replaces the tokenizer of LAVIS.

    Args:
        texts: text -> ids, including [CLS] and [SEP]. Other texts raise a KeyError.
        special: attributes such as `bos_token_id`.
    """

    def __init__(self, texts: Mapping[str, Sequence[int]], **special: int) -> None:
        self._texts = texts
        vars(self).update(special)
        self.decoded: torch.Tensor | None = None

    def __call__(self, text: str | Sequence[str], return_tensors: str | None = None, **kwargs: Any) -> PreparedText:
        if isinstance(text, str) and return_tensors is None:
            return PreparedText(input_ids=list(self._texts[text]))
        rows = [self._texts[entry] for entry in ([text] if isinstance(text, str) else text)]
        longest = max(map(len, rows))
        if kwargs.get("padding") == "max_length":
            longest = max(longest, kwargs["max_length"])
        input_ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        return PreparedText(input_ids=input_ids, attention_mask=(input_ids != 0).long())

    def batch_decode(self, ids: torch.Tensor, **kwargs: Any) -> list[str]:
        self.decoded = ids
        return [""] * len(ids)


def vision_encoder(*, image_size: int, hidden_size: int, layers: int, heads: int) -> Any:
    """LAVIS's ViT with a patch size of 16."""
    from lavis.models.vit import VisionTransformerEncoder

    encoder = VisionTransformerEncoder(
        img_size=image_size, patch_size=16, embed_dim=hidden_size, depth=layers, num_heads=heads
    )
    encoder.vision_width = hidden_size
    return encoder


def med_config(**changes: Any) -> Any:
    """LAVIS's text configuration of BLIP-base, with changes."""
    import lavis
    from lavis.models.med import BertConfig

    path = os.path.join(os.path.dirname(lavis.__file__), "configs", "models", "med_config.json")
    config = BertConfig.from_json_file(path)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def with_tokenizer(model_class: Any, tokenizer: PreparedTokenizer) -> Any:
    """A subclass of a LAVIS model with a prepared tokenizer."""

    class Model(model_class):
        @classmethod
        def init_tokenizer(cls) -> PreparedTokenizer:
            return tokenizer

    return Model


def albef_retrieval(size: Any, texts: Mapping[str, Sequence[int]], max_txt_len: int = 30) -> Any:
    """LAVIS's ALBEF retrieval model with weights drawn by name.

    Args:
        size: size of the workload.
        texts: text -> ids.
        max_txt_len: length to which training pads texts.
    """
    from lavis.models.albef_models.albef_retrieval import AlbefRetrieval
    from lavis.models.med import XBertEncoder

    from benchmarks import weights

    config = med_config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden_size,
        encoder_width=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        fusion_layer=size.fusion_layer,
    )
    encoder = vision_encoder(
        image_size=size.image_size, hidden_size=size.hidden_size, layers=size.layers, heads=size.heads
    )
    tokenizer = PreparedTokenizer(texts, sep_token_id=102, pad_token_id=0)
    model = with_tokenizer(AlbefRetrieval, tokenizer)(
        encoder,
        XBertEncoder(config, add_pooling_layer=False),
        queue_size=size.queue,
        embed_dim=size.projection_dim,
        max_txt_len=max_txt_len,
    )
    weights.fill(model, weights.FROM_LAVIS)
    return model
