# SPDX-License-Identifier: Apache-2.0
"""BLIP as a captioner: an image tower and a causal decoder that attends to it.

Letters: B images, N image tokens, T text tokens, V vocabulary.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .cache_names import returned, takes_cache
from .configuration_lavis_blip import LavisBlipConfig
from .generation import SharedCrossAttentionCache, with_first_token
from .image_captioning import ImageCaptioningMixin
from .language_loss import mean_over_tokens, next_token_loss
from .modeling_base import HUB_OPTIONS, check_labels
from .modeling_lavis_blip_base import LavisBlipPreTrainedModel
from .outputs import LavisGenerationOutput
from .text_bert import LavisBertLMHeadModel
from .vision_vit import LavisViTModel

# A pretraining checkpoint holds what encoder and decoder share once, under the encoder's names.
_SHARED_PARTS = r"(embeddings|encoder\.layer\.\d+\.(?:crossattention|intermediate|output))\."
_SHARED_WITH_ENCODER = {rf"^text_encoder\.{_SHARED_PARTS}": r"text_decoder.bert.\1."}


class BlipCaptioningMixin(ImageCaptioningMixin):
    """Decoding captions, for heads with an image tower and a text decoder that attends to it."""

    def read_captions(
        self,
        image_embeds: Tensor,
        decoder_input_ids: Tensor,
        decoder_attention_mask: Tensor | None,
        decoder_position_ids: Tensor | None,
        past_key_values: Cache | None,
        use_cache: bool | None,
        logits_to_keep: int | Tensor,
        **kwargs: Any,
    ) -> LavisGenerationOutput:
        """One pass of the decoder; see [`ImageCaptioningMixin.decode_captions`]."""
        if past_key_values is None and use_cache:
            text_config = self.config.text_config
            past_key_values = SharedCrossAttentionCache(
                DynamicCache(config=text_config), DynamicCache(config=text_config)
            )
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
            **returned(past_key_values),
        )


class LavisBlipForConditionalGeneration(BlipCaptioningMixin, LavisBlipPreTrainedModel):
    """
    BLIP for captioning (https://arxiv.org/abs/2201.12086, section 3.2): the LAVIS architecture `blip_caption`.

    Args:
        config ([`LavisBlipConfig`]): sizes; the decoder has no twins.
    """

    def __init__(self, config: LavisBlipConfig) -> None:
        super().__init__(config)
        self.vision_model = LavisViTModel._from_config(config.vision_config)
        self.text_decoder = LavisBertLMHeadModel._from_config(config.text_config)
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """As transformers' `from_pretrained`, from checkpoints of [`LavisBlipForPreTraining`] too."""
        source = config
        if not isinstance(source, PreTrainedConfig):
            options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
            source = LavisBlipConfig.from_pretrained(config or pretrained_model_name_or_path, **options)
        if source.architectures == ["LavisBlipForPreTraining"]:
            kwargs["key_mapping"] = {**_SHARED_WITH_ENCODER, **(kwargs.get("key_mapping") or {})}
        return super().from_pretrained(pretrained_model_name_or_path, *model_args, config=config, **kwargs)

    @takes_cache
    @can_return_tuple
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
            pixel_values (`Tensor` of shape `(batch_size, channels, height, width)`): images.
            input_ids (`Tensor` of shape `(batch_size, T)`): captions; `[DEC]` is set in slot 0.
            attention_mask (`Tensor` of shape `(batch_size, T)`, *optional*): 1 for tokens.
            labels (`Tensor` of shape `(batch_size, T)`, *optional*): the captions with -100 where nothing is to be
                learned (prompt, padding). The loss is the label-smoothed mean over the other tokens.
            decoder_input_ids, decoder_attention_mask, decoder_position_ids: the same by the names that `generate`
                uses.
            encoder_outputs (`BaseModelOutput`, *optional*): image states in place of `pixel_values`; one row may serve
                several rows of text.
            past_key_values (`Cache`, *optional*), use_cache (`bool`, *optional*): keys and values of earlier tokens.
            logits_to_keep (`int`, *optional*, defaults to 0): logits of the last tokens only; 0 for all.
            output_intermediates (`bool`, *optional*, defaults to `False`): also return logits and labels by name.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): take images of another size.
            token_type_ids: accepted for transformers' pipelines, without effect.

        Returns:
            [`LavisGenerationOutput`].
        """
        if decoder_input_ids is None:
            if input_ids is None:
                raise ValueError(
                    "Captions are needed as input_ids (or decoder_input_ids); labels alone hide the prompt."
                )
            decoder_input_ids = with_first_token(input_ids, self.config.bos_token_id)
            decoder_attention_mask = attention_mask
        if labels is not None and labels.shape != decoder_input_ids.shape:
            raise ValueError(
                f"Got labels of shape {tuple(labels.shape)} for captions of shape {tuple(decoder_input_ids.shape)}; "
                "labels are the captions themselves, with -100 where nothing is to be learned."
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
        if labels is not None and output.logits is not None:
            smoothing = self.config.label_smoothing
            loss = mean_over_tokens(next_token_loss(output.logits, labels, smoothing), labels)
            kept = {"decoder_logits": output.logits, "decoder_labels": labels} if output_intermediates else None
            # A new output, because the loss has to be its first entry.
            output = LavisGenerationOutput(**{**output, "loss": loss, "loss_lm": loss, "intermediates": kept})
        return output


__all__ = ["BlipCaptioningMixin", "LavisBlipForConditionalGeneration"]
