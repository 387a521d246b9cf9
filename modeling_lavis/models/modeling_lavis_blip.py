# SPDX-License-Identifier: Apache-2.0
"""BLIP (Li et al., 2022, https://arxiv.org/abs/2201.12086): all heads.

Shapes: B batch size, R text rows, N image tokens, T text tokens, D hidden size.
"""

import re
from copy import deepcopy
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput

from .checkpoint_formats import register_keys
from .configuration_lavis_blip import LavisBlipConfig
from .forward_options import head_forward
from .generation import GroundedGenerationMixin, images_for_decoder, shared_cross_attention_cache
from .head_loading import head_of
from .losses import causal_lm_loss
from .modeling_base import (
    HeadStart,
    check_labels,
    check_text_length,
    mask_padding,
    set_first_token,
    start_after_padding,
)
from .momentum import MomentumDistillationMixin
from .outputs import LavisGenerationOutput, LavisPreTrainingOutput
from .task_base import FeatureExtractionMixin, ImageTextPreTrainedModel, get_image_features
from .task_classification import ClassificationMixin
from .task_pretraining import ImageTextPreTrainingMixin
from .task_question_answering import QuestionAnsweringMixin
from .task_retrieval import ImageTextRetrievalMixin, MatchHead, RetrievalOptions
from .text_bert import LavisBertLMHeadModel
from .transformers_compat import accepts_cache, cache_output

# A pretraining checkpoint stores what encoder and decoder share once, under the encoder's names.
_SHARED_MODULES = r"(embeddings|encoder\.layer\.\d+\.(?:crossattention|intermediate|output))\."
_SHARED_WITH_ENCODER = {rf"^text_encoder\.{_SHARED_MODULES}": r"text_decoder.bert.\1."}


class LavisBlipPreTrainedModel(ImageTextPreTrainedModel):
    """Base of the BLIP heads: an image encoder, and a text encoder or decoder with cross-attention."""

    config: LavisBlipConfig
    #: images per text
    num_images = 1

    def __init__(self, config: LavisBlipConfig, *args: Any, **kwargs: Any) -> None:
        if config.text_config.num_image_streams == 2 and self.num_images == 1:
            raise ValueError(
                f"This configuration belongs to a model for two images (text_config.num_image_streams), but "
                f"{type(self).__name__} takes one image. Use LavisBlipForImagesAndTextClassification, or start from a "
                "checkpoint for one image."
            )
        super().__init__(config, *args, **kwargs)

    def decode_captions(
        self,
        decoder_input_ids: Tensor,
        pixel_values: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        interpolate_pos_encoding: bool = False,
        encoder_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        """
        One pass of the text decoder over texts `(R, T)` and their images; see `forward` for the arguments. The mask
        that `generate` passes with encoder hidden states is ignored: image tokens have no padding.
        """
        image_embeds, vision = images_for_decoder(
            self, pixel_values, encoder_outputs, interpolate_pos_encoding, **kwargs
        )
        if past_key_values is None and use_cache:
            past_key_values = shared_cross_attention_cache(self.config.text_config)
        logits, output = self.text_decoder(
            decoder_input_ids,
            attention_mask=decoder_attention_mask,
            position_ids=decoder_position_ids,
            encoder_hidden_states=image_embeds,
            past_key_values=past_key_values,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        return LavisGenerationOutput(
            logits=logits,
            encoder_last_hidden_state=image_embeds,
            image_embeds=image_embeds,
            decoder_hidden_states=output.hidden_states,
            decoder_attentions=output.attentions,
            cross_attentions=output.cross_attentions,
            **vision,
            **cache_output(past_key_values),
        )


class LavisBlipModel(FeatureExtractionMixin, LavisBlipPreTrainedModel):
    """
    BLIP feature extractor for images, texts and pairs (https://arxiv.org/abs/2201.12086): the LAVIS architecture
    `blip_feature_extractor`.

    Args:
        config ([`LavisBlipConfig`]): model configuration; this head has no momentum encoders.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lavis import LavisBlipConfig, LavisBlipModel

    >>> config = LavisBlipConfig(
    ...     vision_config={"image_size": 32, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    ...     text_config={"vocab_size": 30524, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    ... )
    >>> model = LavisBlipModel(config).eval()
    >>> features = model(pixel_values=torch.rand(1, 3, 32, 32), input_ids=torch.tensor([[101, 2023, 102]]))
    >>> tuple(features.multimodal_embeds.shape)
    (1, 3, 32)

    ```
    """

    get_image_features = get_image_features

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_feature_extractor(config)
        self.post_init()


class LavisBlipForImageTextRetrieval(ImageTextRetrievalMixin, MomentumDistillationMixin, LavisBlipPreTrainedModel):
    """
    BLIP for image-text retrieval and matching: contrastive features, and a head that classifies whether a text matches
    an image (https://arxiv.org/abs/2201.12086, section 3.2). The LAVIS architectures `blip_retrieval` and
    `blip_image_text_matching`.

    Args:
        config ([`LavisBlipConfig`]): model configuration; with `use_momentum=False` the head has neither momentum
            encoders nor a feature queue.
    """

    get_image_features = get_image_features

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_retrieval(config, config.use_momentum, queue_with_ids=True)
        self.post_init()

    @property
    def retrieval_options(self) -> RetrievalOptions:
        """parity: hard negatives are drawn by the online features, not by those of the momentum encoders."""
        return RetrievalOptions(
            negatives_from_online_features=True, negatives_from_all_processes=self.config.negative_all_rank
        )


class LavisBlipForPreTraining(ImageTextPreTrainingMixin, MomentumDistillationMixin, LavisBlipPreTrainedModel):
    """
    BLIP with its three pretraining losses: image-text contrastive, image-text matching and captioning. Encoder and
    decoder share all weights but those of self-attention (https://arxiv.org/abs/2201.12086, sections 3.1 and 3.2). The
    LAVIS architecture `blip_pretrain`.

    Args:
        config ([`LavisBlipConfig`]): model configuration; with `use_momentum=False` the head has neither momentum
            encoders nor a feature queue.
    """

    get_image_features = get_image_features

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_retrieval(config, config.use_momentum, queue_with_ids=False)
        self.text_decoder = LavisBertLMHeadModel._from_config(config.text_config)
        words = "text_encoder.embeddings.word_embeddings.weight"
        self._tied_weights_keys = {
            **{
                f"text_decoder.bert.{name}": f"text_encoder.{name}"
                for name, _ in self.text_encoder.named_parameters()
                if ".attention." not in name
            },
            "text_decoder.cls.predictions.decoder.weight": words,
        }
        self.post_init()

    @property
    def retrieval_options(self) -> RetrievalOptions:
        """parity: every hard negative gets a minimum probability."""
        return RetrievalOptions(negative_floor=1e-4)

    @accepts_cache
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
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisPreTrainingOutput:
        r"""
        Similarities and matching logits; with `return_loss=True` the three training losses; with `decoder_input_ids` a
        pass of the caption decoder, which is what `generate` calls. Images alone give `image_embeds` alone.

        Args:
            image_ids (`Tensor` of shape `(batch_size,)`, *optional*):
                Rows with equal ids belong to the same image and are never hard negatives of each other.

        Returns:
            [`LavisPreTrainingOutput`].
        """
        if decoder_input_ids is not None:
            decoded = self.decode_captions(
                decoder_input_ids,
                pixel_values,
                decoder_attention_mask,
                decoder_position_ids,
                encoder_outputs,
                past_key_values,
                use_cache,
                logits_to_keep,
                interpolate_pos_encoding=interpolate_pos_encoding,
                **kwargs,
            )
            return LavisPreTrainingOutput(**self.decoder_fields(decoded))
        if not return_loss:
            return LavisPreTrainingOutput(
                **self.comparison_fields(
                    pixel_values, input_ids, attention_mask, match_head, interpolate_pos_encoding, **kwargs
                )
            )
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
        pair_loss = self.itc_itm_loss(pairs, alpha, update_state, output_intermediates)
        decoder_input_ids = set_first_token(pairs.input_ids, self.config.bos_token_id)
        logits, _ = self.text_decoder(
            decoder_input_ids, attention_mask=pairs.attention_mask, encoder_hidden_states=pairs.image_embeds
        )
        # parity: padding is recognized by its id
        is_padding = decoder_input_ids == self.config.pad_token_id
        return self.add_caption_loss(pair_loss, logits, decoder_input_ids, is_padding)


class LavisBlipForConditionalGeneration(GroundedGenerationMixin, LavisBlipPreTrainedModel):
    """
    BLIP for image captioning (https://arxiv.org/abs/2201.12086, section 3.2): the LAVIS architecture `blip_caption`.

    Args:
        config ([`LavisBlipConfig`]): model configuration; this head has no momentum encoders.
    """

    head_starts = {
        "LavisBlipForPreTraining": HeadStart(_SHARED_WITH_ENCODER),
        "LavisBlipForQuestionAnswering": HeadStart(
            differs="has a decoder that cross-attends to questions, not to images"
        ),
    }

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.vision_model = self.vision_model_class._from_config(config.vision_config)
        self.text_decoder = LavisBertLMHeadModel._from_config(config.text_config)
        self.post_init()

    @accepts_cache
    @head_forward
    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
        decoder_position_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        output_intermediates: bool = False,
        interpolate_pos_encoding: bool = False,
        token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        r"""
        Args:
            input_ids (`Tensor` of shape `(batch_size, sequence_length)`):
                Captions, padded on either side; the first token is replaced by `[DEC]`.
            labels (`Tensor` of shape `(batch_size, sequence_length)`, *optional*):
                The captions, with -100 at positions that the loss ignores (prompt, padding). The loss is the
                label-smoothed cross entropy, averaged over the other tokens.

        Returns:
            [`LavisGenerationOutput`].
        """
        if decoder_input_ids is None:
            if input_ids is None:
                raise ValueError(
                    "The decoder needs captions as input_ids (or decoder_input_ids); labels do not contain the prompt."
                )
            decoder_attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
            decoder_input_ids, decoder_position_ids = start_after_padding(
                input_ids, decoder_attention_mask, self.config.bos_token_id, decoder_position_ids
            )
            check_text_length(input_ids.shape[1], self.config.text_config.max_position_embeddings)
        if labels is not None and labels.shape != decoder_input_ids.shape:
            raise ValueError(
                f"Got labels of shape {tuple(labels.shape)} for captions of shape {tuple(decoder_input_ids.shape)}; "
                "labels are the captions themselves, with -100 at positions to ignore."
            )
        if labels is not None:
            labels = check_labels(labels, self.config.text_config.vocab_size)
        output = self.decode_captions(
            decoder_input_ids,
            pixel_values,
            decoder_attention_mask,
            decoder_position_ids,
            encoder_outputs,
            past_key_values,
            use_cache,
            0 if labels is not None else logits_to_keep,
            interpolate_pos_encoding,
            **kwargs,
        )
        if labels is None or output.logits is None:
            return output
        loss = causal_lm_loss(output.logits, labels, self.config.label_smoothing)
        intermediates = {"decoder_logits": output.logits, "decoder_labels": labels} if output_intermediates else None
        # a new output, because the loss has to be its first entry
        return LavisGenerationOutput(**{**output, "loss": loss, "loss_lm": loss, "intermediates": intermediates})


class LavisBlipForQuestionAnswering(QuestionAnsweringMixin, LavisBlipPreTrainedModel):
    """
    BLIP for visual question answering (https://arxiv.org/abs/2201.12086, section 5.3): open answers by `generate`, the
    best of a closed answer list by `rank_answers`. The LAVIS architecture `blip_vqa`.

    Args:
        config ([`LavisBlipConfig`]): model configuration; this head has no momentum encoders.
    """

    head_starts = {"LavisBlipForPreTraining": HeadStart(copies_are_complete=True)}

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        # the decoder attends to questions, whose hidden size is that of the text encoder
        decoder_config = deepcopy(config.text_config)
        decoder_config.encoder_hidden_size = decoder_config.hidden_size
        self.build_question_answering(config, decoder_config, momentum=False)
        self.post_init()

    def copied_weights(self) -> dict[str, str]:
        """What encoder and decoder share in a pretraining checkpoint, which stores it under the encoder's names."""
        if head_of(self.config) != "LavisBlipForPreTraining":
            return {}
        decoder = dict(self.text_decoder.bert.named_parameters())
        return {
            f"text_decoder.bert.{name}": f"text_encoder.{name}"
            for name, online in self.text_encoder.named_parameters()
            if ".attention." not in name and decoder[name].shape == online.shape
        }

    @property
    def attends_question_padding(self) -> bool:
        """parity: generated answers, unlike ranked ones, attend to the padding of shorter questions."""
        return self.config.attend_question_padding


class LavisBlipForImageAndTextClassification(ClassificationMixin, MomentumDistillationMixin, LavisBlipPreTrainedModel):
    """
    BLIP for classifying an image and a text together, as in visual entailment, with momentum distillation. The LAVIS
    architecture `blip_classification`. parity: the first token of its texts is `[CLS]`, not `[ENC]`.

    Args:
        config ([`LavisBlipConfig`]): model configuration with `num_labels`. The head has momentum encoders if
            `use_momentum` and `use_distill` are set.
    """

    # as in the original, whose published start is a captioner
    head_starts = {"LavisBlipForConditionalGeneration": HeadStart({r"^text_decoder\.bert\.": "text_encoder."})}

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.build_classifier(config, momentum=config.use_momentum and config.use_distill)
        self.post_init()


class LavisBlipForImagesAndTextClassification(ClassificationMixin, LavisBlipPreTrainedModel):
    """
    BLIP for classifying a text about two images, as in NLVR2 (https://arxiv.org/abs/2201.12086, section 5.4): every
    layer of the text encoder cross-attends to both. The LAVIS architecture `blip_nlvr`, which has no momentum encoders.

    Args:
        config ([`LavisBlipConfig`]): model configuration with `num_labels`; `num_image_streams` of its text
        configuration
            is set to 2.
    """

    num_images = 2
    # both images start with the cross-attention of one
    head_starts = dict.fromkeys(
        (
            "LavisBlipModel",
            "LavisBlipForImageTextRetrieval",
            "LavisBlipForPreTraining",
            "LavisBlipForQuestionAnswering",
            "LavisBlipForImageAndTextClassification",
        ),
        HeadStart({f"crossattention.{name}.": f"crossattention.{name}0." for name in ("self", "output.dense")}),
    )

    def __init__(self, config: LavisBlipConfig) -> None:
        config = deepcopy(config)  # the caller's configuration is not changed
        config.text_config.num_image_streams = 2
        super().__init__(config)
        self.build_classifier(config, momentum=False)
        self.post_init()

    def copied_weights(self) -> dict[str, str]:
        """The cross-attention to the second image starts as that to the first."""
        if head_of(self.config) == type(self).__name__:
            return {}
        names = [name for name, _ in self.text_encoder.named_parameters()]
        pairs = {name: re.sub(r"(\.crossattention\.(?:self|output\.dense))1\.", r"\g<1>0.", name) for name in names}
        return {f"text_encoder.{name}": f"text_encoder.{first}" for name, first in pairs.items() if name != first}

    @property
    def first_token_id(self) -> int | None:
        """`[ENC]`, as in every image-grounded text."""
        return self.config.enc_token_id


register_keys(LavisBlipConfig.model_type, scalar_temperature=True)


__all__ = [
    "LavisBlipForConditionalGeneration",
    "LavisBlipForImageAndTextClassification",
    "LavisBlipForImageTextRetrieval",
    "LavisBlipForImagesAndTextClassification",
    "LavisBlipForPreTraining",
    "LavisBlipForQuestionAnswering",
    "LavisBlipModel",
    "LavisBlipPreTrainedModel",
]
