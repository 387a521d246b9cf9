# SPDX-License-Identifier: Apache-2.0
"""Image-text retrieval and matching: similarities, matching scores of selected pairs, and the ITC and ITM losses.

The ITC/ITM training of ALBEF, ALPRO, BLIP and the Q-Former is one function, [`ImageTextRetrievalMixin.itc_itm_loss`];
what differs between them is listed in [`RetrievalOptions`].

Shapes: B pairs of this process, W pairs of all processes, N image tokens, T text tokens, D hidden size, P projection
dimension, K pairs to score, M extra text rows of the matching pass.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from .distributed import exchange_numbers, first_row, gather, gather_ragged, gather_with_grad
from .forward_options import head_forward
from .itm_batching import check_pairs, cross_attention_cache, iter_image_chunks, itm_rows
from .losses import (
    ContrastiveOutput,
    at_least_float32,
    draw_negatives,
    in_batch_contrastive_loss,
    match_ids,
    negative_weights,
    queue_contrastive_loss,
    require_negatives,
)
from .memory import copies_before_update, fused_loss_backward
from .modeling_base import (
    check_input_ids,
    mask_padding,
    project_features,
    require_image_and_text,
    set_first_token,
    temperature_parameter,
)
from .momentum import enqueue, init_feature_queue, register_feature_queue, schedule_update
from .outputs import IGNORE_INDEX, LavisImageTextRetrievalOutput, PairScores, recorded_fields, vision_fields
from .task_base import ImageTextModel, get_text_features

MatchHead = Literal["itc", "itm", "both"]


@dataclass(frozen=True)
class RetrievalOptions:
    """
    How a head compares images with texts and trains on pairs. The defaults are those of ALBEF (section 3.2,
    https://arxiv.org/abs/2107.07651).

    Args:
        clamps_temperature (`bool`): whether a training step clamps the temperature.
        encodes_images_first (`bool`): whether images are encoded before texts. The other order needs less memory: the
            backward pass ends with the texts, when the much larger activations of the image encoder are freed already.
        candidates_receive_gradient (`bool`): whether in-batch candidates of the contrastive loss receive gradient.
        label_smoothing (`float`): label smoothing of the in-batch contrastive loss.
        negatives_from_online_features (`bool`): whether hard negatives are drawn by the online features, not by the
            similarities of the contrastive loss.
        negatives_from_all_processes (`bool`): whether hard negatives come from the batches of all processes.
        negative_floor (`float`): added to the probability of every hard negative.
        matches_single_pair (`bool`): whether a single pair, which has no negative, trains the matching head.
        uses_image_ids (`bool`): whether rows with equal image ids count as matches.
        num_itm_tokens (`int`): multimodal tokens that the matching head is applied to; its logits are averaged.
        pooled_only_argument (`str`): argument of `fuse` that skips what the matching head does not use.
        returns_pooled_only (`bool`): whether `multimodal_embeds` has only the tokens that the matching head uses.
        max_rows (`int`): default of `score_pairs`.
        num_row_splits (`int`): number of batches that `score_pairs` splits `max_rows` into; more for longer rows.
    """

    clamps_temperature: bool = True
    encodes_images_first: bool = False
    candidates_receive_gradient: bool = True
    label_smoothing: float = 0.0
    negatives_from_online_features: bool = False
    negatives_from_all_processes: bool = False
    negative_floor: float = 0.0
    matches_single_pair: bool = False
    uses_image_ids: bool = True
    num_itm_tokens: int = 1
    pooled_only_argument: str = "first_token_only"
    returns_pooled_only: bool = False
    max_rows: int = 256
    num_row_splits: int = 4


@dataclass
class EncodedPairs:
    """
    A training batch of image-text pairs after the encoders.

    Args:
        input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts, with `[CLS]` as first token.
        image_embeds (`Tensor` of shape `(B, N, D)`), text_embeds (`Tensor` of shape `(B, T, D)`): hidden states.
        image_features (`Tensor` of shape `(B, P)` or `(B, Q, P)`), text_features (`Tensor` of shape `(B, P)`):
            normalized features.
        recorded (`dict`): what was recorded in the encoders, as fields of the output.
        image_ids (`Tensor` of shape `(B,)`, *optional*): rows with equal ids belong to the same image.
        momentum (`dict`): hidden states of the momentum encoders, `image_embeds_m` and `text_embeds_m`.
        momentum_features (pair of `Tensor`s of shape `(B, P)`, *optional*): features of the momentum encoders.
        counts (`tuple[int, ...]`): number of pairs of each process.
        excluded (`Tensor` of shape `(B, B)` or `(B, W)`): boolean, candidates for hard negatives that are matches.
    """

    input_ids: Tensor
    attention_mask: Tensor
    image_embeds: Tensor
    text_embeds: Tensor
    image_features: Tensor
    text_features: Tensor
    recorded: dict[str, Any]
    image_ids: Tensor | None
    momentum: dict[str, Tensor]
    momentum_features: tuple[Tensor, Tensor] | None
    counts: tuple[int, ...]
    excluded: Tensor


class PairLoss(NamedTuple):
    """
    Losses of a batch of pairs.

    Args:
        fields (`dict`): losses, features and hidden states, as fields of the output.
        extra_hidden_states (`Tensor` of shape `(M, T, D)`, *optional*): multimodal hidden states of the extra texts.
    """

    fields: dict[str, Any]
    extra_hidden_states: Any


if TYPE_CHECKING:

    class _RetrievalModel(ImageTextModel, Protocol):
        """What the mixin needs from the head and its other bases."""

        temp: nn.Parameter
        itm_head: nn.Linear
        vision_model_m: nn.Module
        text_encoder_m: nn.Module
        vision_proj_m: nn.Module
        text_proj_m: nn.Module
        image_queue: Tensor
        text_queue: Tensor
        idx_queue: Tensor
        queue_ptr: Tensor

        def encode_for_itc(
            self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any
        ) -> tuple[Tensor, Tensor, Any]: ...
        def momentum_autocast(self) -> AbstractContextManager[Any]: ...
        def soft_target_weight(self, alpha: float | None) -> float: ...
else:
    _RetrievalModel = object


class ImageTextRetrievalMixin(_RetrievalModel):
    """
    Similarities, matching scores and ITC/ITM training, for heads with encoders, projections, a temperature and a
    matching head (ALBEF, section 3.2, https://arxiv.org/abs/2107.07651).

    With momentum encoders and a feature queue the contrastive loss is MoCo's, without them it uses the batches of all
    processes.
    """

    get_text_features = get_text_features

    def build_retrieval(self, config: PreTrainedConfig, momentum: bool = False, queue_with_ids: bool = False) -> None:
        """Create encoders, projections, matching head and temperature; with `momentum` momentum encoders and queue."""
        self.build_encoders(config, momentum)
        self.build_projections(config, momentum)
        self.itm_head = nn.Linear(config.text_config.hidden_size, 2)
        self.temp = temperature_parameter(config.logit_temperature)
        if momentum:
            register_feature_queue(self, config.queue_size, config.projection_dim, queue_with_ids)

    @property
    def retrieval_options(self) -> RetrievalOptions:
        """How the head compares images with texts and trains on pairs."""
        return RetrievalOptions()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        head: Any = self
        if module is head and hasattr(head, "queue_ptr"):
            init_feature_queue(head)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the temperature between 0.001 and 0.5, in families that do (ALBEF, section 3.2)."""
        if self.retrieval_options.clamps_temperature:
            if not self.temp.is_leaf and self.temp._is_view():  # all views of the flat parameter would become invalid
                raise ValueError(
                    "The temperature is part of a larger tensor and cannot be updated in-place, as under FSDP1. Use "
                    "DDP or FSDP2 (fsdp_config={'version': 2})."
                )
            self.temp.clamp_(0.001, 0.5)

    def finish_step(self) -> None:
        """Update what follows the weights after a step of the optimizer."""
        self.clamp_temperature()
        super().finish_step()  # type: ignore[misc]

    def draw_negatives(self, weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a hard negative per row of weights `(B, K)`: int64 `(B,)`."""
        return draw_negatives(weights, generator)

    # ---- inference ----

    def match(
        self,
        image_embeds: Tensor,
        input_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        text_embeds: Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Any,
    ) -> tuple[Tensor, Any]:
        """
        Run the matching head on texts and their images.

        Args:
            image_embeds (`Tensor` of shape `(images, N, D)`): hidden states of the images.
            input_ids, attention_mask (`Tensor` of shape `(B, T)`): texts.
            text_embeds (`Tensor` of shape `(B, T, D)`, *optional*): hidden states of the texts.
            pooled_only (`bool`, *optional*, defaults to `False`): compute in the last layer only the tokens that the
                matching head reads.
            kwargs: further arguments of `fuse`.

        Returns:
            Logits `(B, 2)` and the output of the multimodal encoder.
        """
        kwargs[self.retrieval_options.pooled_only_argument] = pooled_only
        output = self.fuse(image_embeds, input_ids, attention_mask, text_embeds=text_embeds, **kwargs)
        return self.itm_logits(output.last_hidden_state), output

    def itm_logits(self, hidden_states: Tensor) -> Tensor:
        """Matching logits `(B, 2)` of multimodal hidden states `(B, tokens, D)`."""
        num_tokens = self.retrieval_options.num_itm_tokens
        if num_tokens == 1:
            return self.itm_head(hidden_states[:, 0])
        return self.itm_head(hidden_states[:, :num_tokens]).mean(dim=1)

    @torch.no_grad()
    def score_pairs(
        self,
        images: Tensor,
        texts: Mapping[str, Tensor],
        pairs: Tensor,
        max_rows: int | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> PairScores:
        r"""
        Matching scores of selected pairs. Each image is encoded once, its keys and values are shared by all its texts,
        and each text is encoded once.

        Args:
            images (`Tensor` of shape `(images, num_channels, height, width)` or `(images, N, D)`): pixels, or hidden
                states from `encode_images`; for video heads clips with a dimension of frames.
            texts (mapping with `input_ids` and `attention_mask` of shape `(texts, T)`): the processor's output, and
                optionally `text_embeds` of shape `(texts, T, D)` from `encode_texts`.
            pairs (`Tensor` of shape `(K, 2)`): image row and text row of each pair.
            max_rows (`int`, *optional*): texts of the images that are in memory at once; 256 by default, 64 for video
                heads, whose rows are text and video tokens.
            interpolate_pos_encoding (`bool`, *optional*, defaults to `False`): accept images of another size by
                interpolating the position embeddings.

        Returns:
            [`PairScores`]: in the order of `pairs`.
        """
        max_rows = max_rows or self.retrieval_options.max_rows
        if images.ndim > 3:
            images = self.encode_images(images, interpolate_pos_encoding)
        input_ids, attention_mask = texts["input_ids"], texts.get("attention_mask")
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        pairs = check_pairs(pairs, images.shape[0], attention_mask.shape[0]).to(images.device)
        lengths = text_lengths(attention_mask)
        text_embeds = texts.get("text_embeds") if self.fuses_text_states else None
        if self.fuses_text_states and text_embeds is None and pairs.numel():
            longest = int(lengths.max())
            parts = zip(
                input_ids[:, :longest].split(max_rows), attention_mask[:, :longest].split(max_rows), strict=True
            )
            text_embeds = torch.cat([self.encode_texts(ids, mask) for ids, mask in parts])
        logits = torch.empty(pairs.shape[0], 2, dtype=self.itm_head.weight.dtype, device=images.device)
        batch_rows = max(max_rows // self.retrieval_options.num_row_splits, 1)
        for chunk in iter_image_chunks(pairs, lengths, max_rows, batch_rows=batch_rows):
            image_embeds = images[chunk.images]
            cache = cross_attention_cache() if len(chunk.batches) > 1 else None
            for batch in chunk.batches:
                length = int(lengths[batch.texts].max())
                # a text is gathered once, however many images of the chunk it is paired with
                rows, text_index = batch.texts.unique(return_inverse=True)
                batch_logits, _ = self.match(
                    image_embeds,
                    input_ids[rows, :length],
                    attention_mask[rows, :length],
                    text_embeds=None if text_embeds is None else text_embeds[rows, :length],
                    text_index=text_index,
                    encoder_index=batch.image_index,
                    past_key_values=cache,
                    pooled_only=True,
                )
                logits[batch.pairs] = batch_logits.to(logits.dtype)
        return PairScores(logits=logits, probabilities=logits.softmax(dim=-1)[:, 1])

    def similarity_fields(
        self, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> dict[str, Any]:
        """Similarities of all images with all texts, as fields of the output."""
        text_embeds, image_features, recorded = self.encode_for_itc(image_embeds, input_ids, attention_mask, **kwargs)
        text_features = self.project_texts(text_embeds)
        logits_per_image = self.compare_features(image_features, text_features) / self.temp
        return {
            **recorded_fields(recorded),
            "text_embeds": text_embeds,
            "image_features": image_features,
            "text_features": text_features,
            "logits_per_image": logits_per_image,
            "logits_per_text": logits_per_image.T,
        }

    def comparison_fields(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        match_head: MatchHead,
        interpolate_pos_encoding: bool,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """
        Similarities and matching logits without a loss, as fields of the output. Images alone give their hidden states
        `image_embeds`, which transformers' pipeline `image-feature-extraction` expects.
        """
        if match_head not in ("itc", "itm", "both"):
            raise ValueError(f"match_head is {match_head!r}; expected 'itc', 'itm' or 'both'.")
        if pixel_values is not None and input_ids is None and match_head == "itc":
            vision = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
            return {"image_embeds": vision.last_hidden_state, **vision_fields(vision)}
        pixel_values, input_ids = require_image_and_text(pixel_values, input_ids)
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        vision = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
        image_embeds = vision.last_hidden_state
        fields: dict[str, Any] = {"image_embeds": image_embeds, **vision_fields(vision)}
        if match_head != "itm":
            # hidden states and attentions are recorded in the matching pass, or in the only pass that runs
            recorded = kwargs if match_head == "itc" else {}
            fields.update(self.similarity_fields(image_embeds, input_ids, attention_mask, **recorded))
        if match_head != "itc":
            if image_embeds.shape[0] != input_ids.shape[0]:
                raise ValueError(
                    f"Matching needs pairs, but got {image_embeds.shape[0]} images and {input_ids.shape[0]} texts. "
                    "Pass as many texts as images, or use score_pairs for any combination."
                )
            logits, output = self.match(
                image_embeds,
                input_ids,
                attention_mask,
                text_embeds=fields.get("text_embeds"),
                pooled_only=self.retrieval_options.returns_pooled_only,
                **kwargs,
            )
            fields.update(logits=logits, multimodal_embeds=output.last_hidden_state, **recorded_fields(output))
        return fields

    # ---- training ----

    def encode_pairs(
        self,
        pixel_values: Tensor | None,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        image_ids: Tensor | None,
        update_state: bool | None = None,
        trim_padding: bool = True,
        interpolate_pos_encoding: bool = False,
        projection_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> EncodedPairs:
        """
        Check and encode a training batch. Nothing is updated for a batch that is refused; with `update_state` the
        temperature is clamped and the momentum encoders are updated first, as in the original.

        Args:
            pixel_values, input_ids, attention_mask, image_ids, update_state, interpolate_pos_encoding: see `forward`.
            trim_padding (`bool`, *optional*, defaults to `True`): remove columns that are padding in every row.
            projection_options (`dict`, *optional*): further arguments of `project_images`.
            kwargs: what to record in the encoders, for images and for texts alone.
        """
        pixel_values, input_ids = require_image_and_text(pixel_values, input_ids)
        if pixel_values.shape[0] != input_ids.shape[0]:
            raise ValueError(
                f"Training needs pairs, but got {pixel_values.shape[0]} images and {input_ids.shape[0]} texts."
            )
        check_input_ids(input_ids, attention_mask)
        if image_ids is not None and image_ids.numel() != input_ids.shape[0]:
            raise ValueError(f"Got {image_ids.numel()} image_ids for {input_ids.shape[0]} pairs; pass one per pair.")
        has_momentum = hasattr(self, "vision_model_m")
        options = self.retrieval_options
        image_ids = None if image_ids is None or not options.uses_image_ids else image_ids.reshape(-1)
        counts, excluded = self._exclude_matches(input_ids, image_ids)
        schedule_update(self, update_state)
        if self.training if update_state is None else update_state:
            self.clamp_temperature()
        input_ids = set_first_token(input_ids, self.config.cls_token_id)
        attention_mask = mask_padding(input_ids, attention_mask, self.config.pad_token_id)
        if trim_padding:
            input_ids, attention_mask = trim_common_padding(input_ids, attention_mask)
        # The momentum pass saves nothing for the backward pass: run first, its memory is free for the next.
        momentum: dict[str, Tensor] = {}
        momentum_features = None
        if has_momentum:
            with torch.no_grad(), self.momentum_autocast():
                image_m = self.vision_model_m(pixel_values, interpolate_pos_encoding=True).last_hidden_state
                text_m = self.text_encoder_m(input_ids, attention_mask, mode="text").last_hidden_state
                momentum = {"image_embeds_m": image_m, "text_embeds_m": text_m}
                momentum_features = (
                    project_features(image_m[:, 0], self.vision_proj_m),
                    project_features(text_m[:, 0], self.text_proj_m),
                )
        if not options.encodes_images_first:
            texts = self.text_encoder_outputs(input_ids, attention_mask, **kwargs)
        vision = self.image_encoder_outputs(pixel_values, interpolate_pos_encoding, **kwargs)
        image_features = self.project_images(vision.last_hidden_state, **(projection_options or {}))
        if options.encodes_images_first:
            texts = self.text_encoder_outputs(input_ids, attention_mask, **kwargs)
        return EncodedPairs(
            input_ids=input_ids,
            attention_mask=attention_mask,
            image_embeds=vision.last_hidden_state,
            text_embeds=texts.last_hidden_state,
            image_features=image_features,
            text_features=self.project_texts(texts.last_hidden_state),
            recorded={**recorded_fields(texts), **vision_fields(vision)},
            image_ids=image_ids,
            momentum=momentum,
            momentum_features=momentum_features,
            counts=counts,
            excluded=excluded,
        )

    def _exclude_matches(self, input_ids: Tensor, image_ids: Tensor | None) -> tuple[tuple[int, ...], Tensor]:
        """
        Number of pairs of each process, and the boolean `(B, B)` or `(B, W)` of candidates that are not negatives.

        A batch that cannot be trained on in one process raises in all of them: others would wait for it for ever.
        """
        options = self.retrieval_options
        needs_negatives = self.training and not torch.compiler.is_compiling()
        is_local = not options.negatives_from_all_processes
        lacks_negatives = False
        if is_local:
            excluded = _same_image(image_ids, (input_ids.shape[0],), input_ids, all_processes=False)
            lacks_negatives = needs_negatives and bool(excluded.all(dim=1).any())
        facts = exchange_numbers(input_ids.shape[0], image_ids is not None, lacks_negatives, device=input_ids.device)
        counts, has_ids, lacking = (tuple(column) for column in zip(*facts, strict=True))
        if len(set(has_ids)) > 1:
            raise ValueError(
                f"Got image_ids in the processes {[i for i, has in enumerate(has_ids) if has]}, but not in the others; "
                "give them in all processes or in none."
            )
        if len(counts) > 1 and any(lacking):
            raise ValueError(
                f"Matching needs a negative for every row, but of the batches of {counts} rows some have none in the "
                f"processes {[i for i, lacks in enumerate(lacking) if lacks]}: one example, or equal image_ids only. "
                "Give every process at least two different images per batch (drop_last=True, in TrainingArguments "
                "dataloader_drop_last=True, for the last one)."
            )
        if not is_local:
            excluded = _same_image(image_ids, counts, input_ids, all_processes=True)
        if needs_negatives and not (options.matches_single_pair and excluded.numel() == 1):
            require_negatives(~excluded.all(dim=1))
        return counts, excluded

    def itc_itm_loss(
        self,
        pairs: EncodedPairs,
        alpha: float | None = None,
        update_state: bool | None = None,
        output_intermediates: bool = False,
        extra_text_embeds: Tensor | None = None,
    ) -> PairLoss:
        """
        Contrastive and matching losses of a batch; with `update_state` its momentum features enter the queue.

        Args:
            pairs ([`EncodedPairs`]): the batch.
            alpha, update_state, output_intermediates: see `forward`.
            extra_text_embeds (`Tensor` of shape `(B, T, D)`, *optional*): hidden states of one more text per image,
                such as its masked text, to be fused with the image in the matching pass.
        """
        itc = self._itc_loss(pairs, alpha)
        similarities = self._hard_negatives(pairs, itc)
        loss_itm, logits, itm_inputs, extra = self._itm_loss(
            pairs, similarities, output_intermediates, extra_text_embeds
        )
        update_state = self.training if update_state is None else update_state
        if update_state and pairs.momentum_features is not None:
            self._update_queue(pairs.momentum_features, pairs)
        intermediates = None
        if output_intermediates:
            intermediates = {**vars(itc), **pairs.momentum, **itm_inputs}
            if self.retrieval_options.negatives_from_online_features:
                # parity: the original reports these similarities, not those with the queue
                intermediates.update(sim_i2t=similarities[0], sim_t2i=similarities[1])
        fields = {
            "loss": itc.loss + loss_itm,
            "loss_itc": itc.loss,
            "loss_itm": loss_itm,
            "logits": logits,
            "image_features": pairs.image_features,
            "text_features": pairs.text_features,
            "image_embeds": pairs.image_embeds,
            "text_embeds": pairs.text_embeds,
            "intermediates": intermediates,
            **pairs.recorded,
        }
        return PairLoss(fields, extra)

    def _itc_loss(self, pairs: EncodedPairs, alpha: float | None) -> ContrastiveOutput:
        """Contrastive loss against the momentum features of the batch and the queue, or against all batches."""
        if pairs.momentum_features is None:
            return self._in_batch_itc_loss(pairs)
        image_m, text_m = pairs.momentum_features
        batch, ids = image_m.shape[0], pairs.image_ids
        # The backward pass runs after the queue was overwritten.
        image_queue, text_queue = copies_before_update(self.image_queue, self.text_queue)
        image_queue, text_queue = image_queue.to(image_m.dtype), text_queue.to(text_m.dtype)
        # parity: the momentum features of the batch come before the queue
        image_candidates, text_candidates = (image_m.T, image_queue), (text_m.T, text_queue)
        if ids is None or not hasattr(self, "idx_queue"):
            total = batch + self.image_queue.shape[1]
            positives = torch.eye(batch, total, dtype=torch.bool, device=image_m.device)
        else:
            (idx_queue,) = copies_before_update(self.idx_queue)
            positives = match_ids(ids, torch.cat([ids, idx_queue[0]]))
        weight = self.soft_target_weight(alpha)
        # The queue is overwritten before the backward pass; differentiating here avoids a copy of it.
        return fused_loss_backward(
            lambda images, texts, temperature: queue_contrastive_loss(
                images, texts, image_candidates, text_candidates, temperature, positives, (image_m, text_m), weight
            ),
            (pairs.image_features, pairs.text_features, self.temp),
        )

    def _in_batch_itc_loss(self, pairs: EncodedPairs) -> ContrastiveOutput:
        options = self.retrieval_options
        gather_candidates = gather_with_grad if options.candidates_receive_gradient else gather
        images = gather_candidates(pairs.image_features, pairs.counts)
        texts = gather_candidates(pairs.text_features, pairs.counts)
        if not options.candidates_receive_gradient:
            images, texts = images.detach(), texts.detach()
        sim_i2t = self.compare_features(pairs.image_features, texts) / self.temp
        sim_t2i = self.compare_features(images, pairs.text_features).T / self.temp
        positives = _same_image(pairs.image_ids, pairs.counts, pairs.input_ids, all_processes=True)
        return in_batch_contrastive_loss(sim_i2t, sim_t2i, positives, options.label_smoothing)

    @torch.no_grad()
    def _hard_negatives(self, pairs: EncodedPairs, itc: ContrastiveOutput) -> tuple[Tensor, Tensor]:
        """
        Similarities of images to texts and of texts to images that hard negatives are drawn by, `(B, B)` or, with those
        of all processes, `(B, W)`.
        """
        options = self.retrieval_options
        batch, everywhere = pairs.text_features.shape[0], options.negatives_from_all_processes
        if options.negatives_from_online_features:
            # parity: by the online features, not by those of the momentum encoders
            images, texts = pairs.image_features, pairs.text_features
            if everywhere:
                images, texts = gather(images, pairs.counts), gather(texts, pairs.counts)
            sim_i2t = pairs.image_features @ texts.T / self.temp
            sim_t2i = pairs.text_features @ images.T / self.temp
        else:
            # parity: by the similarities of the contrastive loss, in which the momentum features of the batch come
            # first
            sim_i2t, sim_t2i = itc.sim_i2t.detach(), itc.sim_t2i.detach()
            if not everywhere:
                start = 0 if pairs.momentum_features is not None else first_row(pairs.counts)
                sim_i2t, sim_t2i = sim_i2t[:, start : start + batch], sim_t2i[:, start : start + batch]
        return sim_i2t, sim_t2i

    def _itm_loss(
        self, pairs: EncodedPairs, similarities: tuple[Tensor, Tensor], keep: bool, extra_text_embeds: Tensor | None
    ) -> tuple[Tensor, Tensor, dict[str, Any], Tensor | None]:
        """
        Loss of telling pairs from hard negatives, logits of the pairs `(B, 2)`, the inputs of the loss, and the hidden
        states `(B, T, D)` of the extra texts.

        3B pairs and the extra texts are fused in one pass; keys and values are computed once per image. In evaluation a
        pair without a negative does not enter the loss.
        """
        options = self.retrieval_options
        sim_i2t, sim_t2i = similarities
        excluded, batch = pairs.excluded, pairs.excluded.shape[0]
        image_embeds, input_ids, attention_mask = pairs.image_embeds, pairs.input_ids, pairs.attention_mask
        text_embeds = pairs.text_embeds if self.fuses_text_states else None
        count, counted = batch, None
        if excluded.numel() == 1 and options.matches_single_pair:
            count, images, texts = 0, *torch.zeros(2, 1, dtype=torch.long, device=excluded.device)
            labels = torch.ones_like(images)
        else:
            weights_t2i = negative_weights(sim_t2i, excluded, options.negative_floor)
            weights_i2t = negative_weights(sim_i2t, excluded, options.negative_floor)
            selected = None
            if not self.training and not torch.compiler.is_compiling() and bool(excluded.all(dim=1).any()):
                selected = (~excluded.all(dim=1)).nonzero()[:, 0]
                weights_t2i, weights_i2t, count = weights_t2i[selected], weights_i2t[selected], len(selected)
                counted = torch.cat([selected, torch.arange(batch, batch + 2 * count, device=selected.device)])
            # parity: images are drawn before texts
            images, texts, labels = itm_rows(
                self.draw_negatives(weights_t2i), self.draw_negatives(weights_i2t), selected, batch
            )
        if options.negatives_from_all_processes:
            if text_embeds is not None:
                raise ValueError("Negatives of other processes need texts as ids, but this model fuses hidden states.")
            input_ids = gather_ragged(input_ids, pairs.counts, self.config.pad_token_id)
            attention_mask = gather_ragged(attention_mask, pairs.counts)
            # negatives are numbered over all processes, the rows of this one only within it
            offset, end = first_row(pairs.counts), batch + count
            images = torch.cat([images[:batch] + offset, images[batch:end], images[end:] + offset])
            texts = torch.cat([texts[:end] + offset, texts[end:]])
            image_embeds, images = self._images_of_all_processes(image_embeds, images, pairs.counts)
        mask = attention_mask[texts]
        rows = None if text_embeds is None else text_embeds[texts]
        if rows is not None and extra_text_embeds is not None:
            rows = torch.cat([rows, extra_text_embeds])
            mask = torch.cat([mask, attention_mask])
            images = torch.cat([images, torch.arange(batch, device=images.device)])
        hidden_states = self.fuse(
            image_embeds,
            input_ids[texts],
            mask,
            text_embeds=rows,
            encoder_index=images,
            **{options.pooled_only_argument: not keep and extra_text_embeds is None},
        ).last_hidden_state
        logits = self.itm_logits(hidden_states[: labels.shape[0]])
        if counted is None:
            loss = F.cross_entropy(at_least_float32(logits), labels)
        else:
            loss = F.cross_entropy(at_least_float32(logits[counted]), labels[counted], reduction="sum")
            loss = loss / max(len(counted), 1)
        inputs: dict[str, Any] = {}
        if keep:
            inputs = {
                "itm_logits": logits,
                "itm_labels": labels,
                "multimodal_embeds": hidden_states[: labels.shape[0]],
            }
        extra = hidden_states[labels.shape[0] :] if extra_text_embeds is not None else None
        return loss, logits[:batch], inputs, extra

    @staticmethod
    def _images_of_all_processes(
        image_embeds: Tensor, images: Tensor, counts: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of the images that the rows `images` of all processes name, each once, and its new number."""
        gathered = gather_with_grad(image_embeds, counts)
        if len(counts) == 1 or torch.compiler.is_compiling():
            return gathered, images
        # Keys and values are computed for every image that is passed on, so only those that are used are.
        used, images = images.unique(return_inverse=True)
        return gathered[used], images

    def _update_queue(self, momentum_features: tuple[Tensor, Tensor], pairs: EncodedPairs) -> None:
        """Add the momentum features of all processes to the queue."""
        own_queues = zip((self.image_queue, self.text_queue), momentum_features, strict=True)
        queues = [(queue, gather(new, pairs.counts).T) for queue, new in own_queues]
        if hasattr(self, "idx_queue"):
            ids = pairs.image_ids
            if ids is None:
                ids = torch.full((momentum_features[0].shape[0],), IGNORE_INDEX, device=self.idx_queue.device)
            queues.append((self.idx_queue, gather(ids, pairs.counts)[None]))
        enqueue(queues, self.queue_ptr)

    # ---- forward of retrieval heads ----

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
    ) -> LavisImageTextRetrievalOutput:
        r"""
        Similarities and matching logits, or the training losses. Images alone give `image_embeds` alone.

        Returns:
            [`LavisImageTextRetrievalOutput`].
        """
        if not return_loss:
            return LavisImageTextRetrievalOutput(
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
        return LavisImageTextRetrievalOutput(
            **self.itc_itm_loss(pairs, alpha, update_state, output_intermediates).fields
        )


def _same_image(image_ids: Tensor | None, counts: tuple[int, ...], input_ids: Tensor, all_processes: bool) -> Tensor:
    """Boolean `(B, W)`, or `(B, B)` within this process: candidates that belong to the image of a row."""
    if image_ids is not None:
        return match_ids(image_ids, gather(image_ids, counts) if all_processes else image_ids)
    own = torch.arange(input_ids.shape[0], device=input_ids.device)
    if not all_processes:
        return match_ids(own, own)
    return match_ids(own + first_row(counts), torch.arange(sum(counts), device=own.device))


def text_lengths(attention_mask: Tensor) -> Tensor:
    """Lengths `(B,)` of texts with a mask `(B, T)`, up to the last token that is not padding."""
    columns = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return (attention_mask.bool() * columns).amax(dim=1)


def trim_common_padding(input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Remove columns on the right that are padding in every row: both `(B, T)` to `(B, longest text)`."""
    if torch.compiler.is_compiling():  # a length that depends on values would break the graph
        return input_ids, attention_mask
    length = max(int(text_lengths(attention_mask).max()), 1)
    return input_ids[:, :length], attention_mask[:, :length]


__all__ = [
    "EncodedPairs",
    "ImageTextRetrievalMixin",
    "MatchHead",
    "PairLoss",
    "RetrievalOptions",
    "trim_common_padding",
]
