# SPDX-License-Identifier: Apache-2.0
"""ALBEF (Li et al., 2021, https://arxiv.org/abs/2107.07651): all heads.

Shapes: B batch size, N image tokens, T text tokens, D hidden size, V vocabulary size.
"""

import re
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint_formats import register_keys
from .configuration_albef import AlbefConfig
from .forward_options import head_forward
from .head_loading import HUB_OPTIONS, head_of, read_weights
from .losses import MaskDraws, draw_masks, mask_tokens, masked_lm_loss
from .modeling_base import HeadStart
from .momentum import MomentumDistillationMixin
from .outputs import LavisPreTrainingOutput
from .task_base import FeatureExtractionMixin, ImageTextPreTrainedModel, get_image_features
from .task_classification import ClassificationMixin
from .task_question_answering import QuestionAnsweringMixin
from .task_retrieval import ImageTextRetrievalMixin, MatchHead
from .text_bert import BertEmbeddings, BertLMHead


class AlbefPreTrainedModel(ImageTextPreTrainedModel):
    """Base of the ALBEF heads: an image encoder, and a text encoder with fusion layers."""

    config: AlbefConfig
    #: images per text
    num_images = 1

    def __init__(self, config: AlbefConfig, *args: Any, **kwargs: Any) -> None:
        if config.text_config.pair_image_layers and self.num_images == 1:
            raise ValueError(
                f"This configuration belongs to a model for two images (text_config.pair_image_layers), but "
                f"{type(self).__name__} takes one image. Use AlbefForImagesAndTextClassification, or start from a "
                "checkpoint for one image."
            )
        # from_pretrained(..., use_token_type_embeddings=...) changes a complete configuration
        config.sync_token_types()
        super().__init__(config, *args, **kwargs)

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie shared weights and freeze unused token type embeddings; called after construction and after loading."""
        super().tie_weights(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, BertEmbeddings) and hasattr(module, "token_type_embeddings"):
                if not module.implicit_type:
                    module.token_type_embeddings.requires_grad_(False)


class AlbefModel(FeatureExtractionMixin, AlbefPreTrainedModel):
    """
    ALBEF feature extractor for images, texts and pairs (https://arxiv.org/abs/2107.07651): the LAVIS architecture
    `albef_feature_extractor`.

    Args:
        config ([`AlbefConfig`]): model configuration; this head has no momentum encoders. `use_token_type_embeddings`
            selects the numbers of LAVIS or of ALBEF's authors.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lavis import AlbefConfig, AlbefModel

    >>> config = AlbefConfig(
    ...     vision_config={"image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    ...     text_config={"hidden_size": 32, "num_hidden_layers": 2, "fusion_layer": 1, "num_attention_heads": 2},
    ... )
    >>> model = AlbefModel(config).eval()
    >>> features = model(pixel_values=torch.rand(1, 3, 32, 32), input_ids=torch.tensor([[101, 2023, 102]]))
    >>> tuple(features.multimodal_embeds.shape)
    (1, 3, 32)

    ```
    """

    get_image_features = get_image_features

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_feature_extractor(config)
        self.post_init()


class AlbefForImageTextRetrieval(ImageTextRetrievalMixin, MomentumDistillationMixin, AlbefPreTrainedModel):
    """
    ALBEF for image-text retrieval and matching: contrastive features, and a head that classifies whether a text matches
    an image (https://arxiv.org/abs/2107.07651, section 4). The LAVIS architecture `albef_retrieval`.

    Args:
        config ([`AlbefConfig`]): model configuration; with `use_momentum=False` the head has neither momentum encoders
            nor a feature queue.
    """

    get_image_features = get_image_features

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_retrieval(config, config.use_momentum, queue_with_ids=True)
        self.post_init()


class AlbefForPreTraining(ImageTextRetrievalMixin, MomentumDistillationMixin, AlbefPreTrainedModel):
    """
    ALBEF with its three pretraining losses: image-text contrastive, image-text matching and masked language modeling
    (https://arxiv.org/abs/2107.07651, sections 3.2 and 3.3). The LAVIS architecture `albef_pretrain`.

    Args:
        config ([`AlbefConfig`]): model configuration; with `use_momentum=False` the head has neither momentum encoders
            nor a feature queue.
    """

    get_image_features = get_image_features

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_retrieval(config, config.use_momentum, queue_with_ids=False)
        self._tied_weights_keys = {}
        for suffix in ("", "_m") if config.use_momentum else ("",):
            setattr(self, f"mlm_head{suffix}", BertLMHead(config.text_config))
            words = f"text_encoder{suffix}.embeddings.word_embeddings.weight"
            self._tied_weights_keys[f"mlm_head{suffix}.predictions.decoder.weight"] = words
            self._tied_weights_keys[f"mlm_head{suffix}.predictions.decoder.bias"] = f"mlm_head{suffix}.predictions.bias"
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        """The decoder of the MLM head."""
        return self.mlm_head.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        """Replace the decoder of the MLM head and its bias."""
        self.mlm_head.predictions.decoder = value
        self.mlm_head.predictions.bias = value.bias

    def draw_masks(self, input_ids: Tensor, generator: torch.Generator | None = None) -> MaskDraws:
        """Draw which tokens of the texts `(B, T)` are masked."""
        return draw_masks(input_ids, self.config.mlm_probability, self.config.text_config.vocab_size, generator)

    def momentum_mlm_head(self, hidden_states: Tensor) -> Tensor:
        """Logits `(M, V)` of the momentum MLM head."""
        with self.momentum_autocast():
            return self.mlm_head_m(hidden_states)

    @head_forward
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_ids: Tensor | None = None,
        match_head: MatchHead = "itc",
        return_loss: bool = False,
        alpha: float | None = None,
        update_state: bool | None = None,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisPreTrainingOutput:
        r"""
        As [`AlbefForImageTextRetrieval.forward`], with a third loss, `loss_mlm`.

        Args:
            image_ids (`Tensor` of shape `(batch_size,)`, *optional*):
                Rows with equal ids belong to the same image and are never hard negatives of each other.

        Returns:
            [`LavisPreTrainingOutput`].
        """
        if not return_loss:
            return LavisPreTrainingOutput(
                **self.comparison_fields(
                    pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs
                )
            )
        config = self.config
        pairs = self.encode_pairs(
            pixel_values,
            input_ids,
            attention_mask,
            image_ids,
            update_state,
            trim_padding=not output_intermediates,
            interpolate_pos_encoding=interpolate_pos_encoding,
            **kwargs,
        )
        masked_ids, labels = mask_tokens(
            pairs.input_ids,
            self.draw_masks(pairs.input_ids),
            config.mask_token_id,
            config.pad_token_id,
            config.cls_token_id,
        )
        masked_embeds = self.encode_texts(masked_ids, pairs.attention_mask)
        fields, hidden_states = self.itc_itm_loss(pairs, alpha, update_state, output_intermediates, masked_embeds)
        momentum_head, momentum_states = None, None
        if config.use_momentum and config.use_distill:
            momentum_head = self.momentum_mlm_head
            with torch.no_grad(), self.momentum_autocast():
                momentum_states = self.text_encoder_m(
                    masked_ids, pairs.attention_mask, encoder_hidden_states=pairs.momentum["image_embeds_m"]
                ).last_hidden_state
        loss_mlm = masked_lm_loss(
            self.mlm_head, hidden_states, labels, momentum_head, momentum_states, self.soft_target_weight(alpha)
        )
        fields = {**fields, "loss": fields["loss"] + loss_mlm}
        if fields["intermediates"] is not None:
            fields["intermediates"] = {
                **fields["intermediates"],
                "mlm_input_ids": masked_ids,
                "mlm_labels": labels,
                "mlm_embeds": hidden_states,
                "mlm_embeds_m": momentum_states,
            }
        return LavisPreTrainingOutput(loss_mlm=loss_mlm, **fields)


class AlbefForQuestionAnswering(QuestionAnsweringMixin, MomentumDistillationMixin, AlbefPreTrainedModel):
    """
    ALBEF for visual question answering, with momentum distillation (https://arxiv.org/abs/2107.07651, section 4): the
    best of a closed answer list by `rank_answers`, open answers by `generate`. The LAVIS architecture `albef_vqa`.

    Args:
        config ([`AlbefConfig`]): model configuration; `answer_config` describes the answer decoder. The head has
        momentum
            encoders if `use_momentum` and `use_distill` are set.
    """

    head_starts = dict.fromkeys(
        ("AlbefForPreTraining", "AlbefModel", "AlbefForImageTextRetrieval"),
        HeadStart({r"^mlm_head\.": "text_decoder.cls."}),
    )

    def __init__(self, config: AlbefConfig) -> None:
        if config.answer_config is None:
            config = deepcopy(config)  # the caller's configuration is not changed
            config.answer_config = config.default_answer_config()
        super().__init__(config)
        self.build_question_answering(config, config.answer_config, momentum=config.use_momentum and config.use_distill)
        self.post_init()

    def copied_weights(self) -> dict[str, str]:
        """The answer decoder starts as the fusion layers of another head, as in the original."""
        if head_of(self.config) in (None, type(self).__name__):
            return {}
        encoder = {name: value.shape for name, value in self.text_encoder.named_parameters()}
        first, copies = self.config.text_config.num_text_layers, {}
        for name, value in self.text_decoder.bert.named_parameters():
            source = re.sub(r"^encoder\.layer\.(\d+)\.", lambda layer: f"encoder.layer.{int(layer[1]) + first}.", name)
            if encoder.get(source) == value.shape:
                copies[f"text_decoder.bert.{name}"] = f"text_encoder.{source}"
        return copies


class AlbefForImageAndTextClassification(ClassificationMixin, MomentumDistillationMixin, AlbefPreTrainedModel):
    """
    ALBEF for classifying an image and a text together, as in visual entailment, with momentum distillation
    (https://arxiv.org/abs/2107.07651, section 4). The LAVIS architecture `albef_classification`.

    Args:
        config ([`AlbefConfig`]): model configuration with `num_labels`. The head has momentum encoders if
        `use_momentum`
            and `use_distill` are set.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.build_classifier(config, momentum=config.use_momentum and config.use_distill)
        self.post_init()


class AlbefForImagesAndTextClassification(ClassificationMixin, MomentumDistillationMixin, AlbefPreTrainedModel):
    """
    ALBEF for classifying a text about two images, as in NLVR2, with momentum distillation
    (https://arxiv.org/abs/2107.07651, section 4): fusion layers come in pairs, one layer per image, that share their
    key and value projections. The LAVIS architecture `albef_nlvr`.

    Args:
        config ([`AlbefConfig`]): model configuration with `num_labels`; `pair_image_layers` is set in its text
            configuration. The published model has 18 layers, 12 of them fusion layers. The head has momentum encoders
            if `use_momentum` and `use_distill` are set.
    """

    num_images = 2
    # parity: the soft targets come from the text encoder itself on the momentum image encoder; the momentum text
    # encoder is updated but not used
    use_momentum_text_encoder = False

    @classmethod
    def double_images(cls, config: Any) -> Any:
        """Twice as many fusion layers, one of each pair for each image."""
        text = config.text_config
        text.num_hidden_layers += text.num_hidden_layers - text.num_text_layers
        text.pair_image_layers = True
        return config

    @classmethod
    def _load_weights(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        source, config = pretrained_model_name_or_path, kwargs.get("config")
        if source is None or config is None or head_of(config) in (None, cls.__name__):
            return super()._load_weights(source, *args, **kwargs)
        # parity: both layers of a pair use the keys and values of the second
        text = config.text_config
        first = "|".join(str(layer) for layer in range(text.num_text_layers, text.num_hidden_layers, 2))
        unused = re.compile(rf"text_encoder(_m)?\.encoder\.layer\.({first})\.crossattention\.self\.(key|value)\.")
        access = {name: value for name in HUB_OPTIONS if (value := kwargs.pop(name, None)) is not None}
        state = {name: value for name, value in read_weights(source, access).items() if not unused.match(name)}
        model, info = super()._load_weights(None, *args, state_dict=state, **kwargs)
        model.config._name_or_path = str(source)
        return model, info

    def __init__(self, config: AlbefConfig) -> None:
        if not config.text_config.pair_image_layers:
            config = deepcopy(config)  # the caller's configuration is not changed
            config.text_config.pair_image_layers = True
        super().__init__(config)
        self.build_classifier(config, momentum=config.use_momentum and config.use_distill)
        self.post_init()


register_keys(AlbefConfig.model_type, scalar_temperature=True)


__all__ = [
    "AlbefForImageAndTextClassification",
    "AlbefForImageTextRetrieval",
    "AlbefForImagesAndTextClassification",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefModel",
    "AlbefPreTrainedModel",
]
