# SPDX-License-Identifier: Apache-2.0
"""Parts of LAVIS 1.0.2 built without a network. Imported only in the Python of the peer `lavis`.

LAVIS holds tokenizers inside its models and downloads their vocabulary. The stand-in below hands out ids that were
prepared beforehand: the peer then pays nothing for tokenisation, as this project does not.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch


class PreparedText(dict):
    """Looks like the tokenizer's output: keys as attributes, and a `to` that stays where it is."""

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
    """Stands in for LAVIS's tokenizer.

    Args:
        texts: string -> its ids, [CLS] and [SEP] included. A string that is not there is an error.
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


def vision_tower(*, image_size: int, width: int, layers: int, heads: int) -> Any:
    """LAVIS's ViT with patches of 16 pixels."""
    from lavis.models.vit import VisionTransformerEncoder

    tower = VisionTransformerEncoder(img_size=image_size, patch_size=16, embed_dim=width, depth=layers, num_heads=heads)
    tower.vision_width = width
    return tower


def med_config(**changes: Any) -> Any:
    """The text configuration that LAVIS ships for BLIP-base, with changes."""
    import lavis
    from lavis.models.med import BertConfig

    path = os.path.join(os.path.dirname(lavis.__file__), "configs", "models", "med_config.json")
    config = BertConfig.from_json_file(path)
    for name, value in changes.items():
        setattr(config, name, value)
    return config


def with_tokenizer(model_class: Any, tokenizer: PreparedTokenizer) -> Any:
    """A subclass of a LAVIS model whose tokenizer is the prepared one."""

    class Model(model_class):
        @classmethod
        def init_tokenizer(cls) -> PreparedTokenizer:
            return tokenizer

    return Model


def albef_retrieval(size: Any, texts: Mapping[str, Sequence[int]], max_txt_len: int = 30) -> Any:
    """LAVIS's ALBEF retrieval model with weights drawn by name.

    Args:
        size: a workload's size.
        texts: string -> its ids.
        max_txt_len: tokens to which training pads.
    """
    from lavis.models.albef_models.albef_retrieval import AlbefRetrieval
    from lavis.models.med import XBertEncoder

    from benchmarks import weights

    config = med_config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        encoder_width=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        fusion_layer=size.fusion_layer,
    )
    tower = vision_tower(image_size=size.image_size, width=size.width, layers=size.layers, heads=size.heads)
    tokenizer = PreparedTokenizer(texts, sep_token_id=102, pad_token_id=0)
    model = with_tokenizer(AlbefRetrieval, tokenizer)(
        tower,
        XBertEncoder(config, add_pooling_layer=False),
        queue_size=size.queue,
        embed_dim=size.common_width,
        max_txt_len=max_txt_len,
    )
    weights.fill(model, weights.FROM_LAVIS)
    return model
