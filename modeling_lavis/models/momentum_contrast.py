# SPDX-License-Identifier: Apache-2.0
"""Contrastive learning with momentum twins and queues, and the batch for matching: what ALBEF and BLIP train alike.

Letters: B rows of this process, W rows of all processes, P width of the common space, Q length of the queue.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from .contrastive import ContrastiveOutput, contrastive_loss, draw_negatives, same_ids
from .distributed import gather, gather_with_grad, rank
from .early_gradient import with_early_gradient
from .modeling_base import LavisPreTrainedModel
from .momentum import ModulePairs, freeze_twins, initialise_twins, push_to_queue, resize_twins, update_twins

_NO_ID = -100


class MomentumContrastMixin(LavisPreTrainedModel):
    """
    Twins, queues, temperature and hard negatives of a head.

    The head names its twins and calls [`add_queues`] in its constructor; initialisation and freezing happen here.
    Stands before the family's base class among the bases.
    """

    #: weight of the twins' soft targets; a callback may ramp it, `None` takes the configuration's `alpha`
    distill_alpha: float | None = None

    @property
    def momentum_pairs(self) -> ModulePairs:
        """Online modules and their twins: the twin of `name` is called `name_m`."""
        twins = [(name.removesuffix("_m"), child) for name, child in self.named_children() if name.endswith("_m")]
        return [(getattr(self, name), twin) for name, twin in twins]

    def add_queues(self, with_ids: bool) -> None:
        """Queues of past features, as buffers that are saved."""
        size, width = self.config.queue_size, self.config.projection_dim
        self.register_buffer("image_queue", torch.zeros(width, size))
        self.register_buffer("text_queue", torch.zeros(width, size))
        if with_ids:
            self.register_buffer("idx_queue", torch.full((1, size), _NO_ID))
        self.register_buffer("queue_ptr", torch.zeros(1, dtype=torch.long))

    def initialise_momentum(self) -> None:
        """Fill what no checkpoint has filled: temperature, queues, twins."""
        if hasattr(self, "temp"):
            init.constant_(self.temp, self.config.logit_temperature)
        if hasattr(self, "queue_ptr"):
            for queue in (self.image_queue, self.text_queue):
                init.normal_(queue)
                init.copy_(queue, F.normalize(queue, dim=0))
            init.zeros_(self.queue_ptr)
        if hasattr(self, "idx_queue"):
            init.constant_(self.idx_queue, _NO_ID)
        initialise_twins(self.momentum_pairs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            self.initialise_momentum()

    def tie_weights(self, missing_keys: set[str] | None = None, **kwargs: Any) -> None:
        """Tie shared weights and freeze the twins; called after construction and after loading."""
        super().tie_weights(missing_keys=missing_keys, **kwargs)
        # A tie may have given an online weight its value after its twin was initialised from it.
        for name in missing_keys or ():
            top, _, rest = name.partition(".")
            if top.endswith("_m"):
                with torch.no_grad():
                    self.get_parameter(name).copy_(self.get_parameter(f"{top.removesuffix('_m')}.{rest}"))
        # Loading replaces parameters, so a freeze in the constructor would be lost.
        freeze_twins(self.momentum_pairs)

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the vocabulary, that of the twins included."""
        embeddings = super().resize_token_embeddings(*args, **kwargs)
        resize_twins(self.momentum_pairs)
        self.tie_weights()
        return embeddings

    def begin_step(self, update_state: bool) -> None:
        """What the original does before a training forward: clamp the temperature and move the twins."""
        if update_state:
            with torch.no_grad():
                self.temp.clamp_(0.001, 0.5)
            update_twins(self.momentum_pairs, self.config.momentum)

    def soft_target_weight(self, alpha: float | None) -> float:
        """Weight of the soft targets: the argument, else what a callback has set, else the configuration's."""
        if not self.config.use_distill:
            return 0.0
        for value in (alpha, self.distill_alpha):
            if value is not None:
                return float(value)
        return float(self.config.alpha)

    def contrast(
        self,
        image_features: Tensor,
        text_features: Tensor,
        momentum_features: tuple[Tensor, Tensor] | None,
        image_ids: Tensor | None,
        alpha: float | None,
        update_state: bool,
    ) -> ContrastiveOutput:
        """
        Contrastive loss of the batch against itself and the queue; the queue takes in the batch afterwards.

        Args:
            image_features, text_features (`Tensor` of shape `(B, P)`): normalised features.
            momentum_features (pair of `Tensor`s of shape `(B, P)`, *optional*): the twins' image and text features,
                without gradient. Without them the batches of all processes are compared with each other and no queue
                is used.
            image_ids (`Tensor` of shape `(B,)`, *optional*): equal ids are positives of each other.
            alpha (`float`, *optional*): weight of the soft targets.
            update_state (`bool`): whether the queue takes in the batch.
        """
        batch = image_features.shape[0]
        ids = None if image_ids is None else image_ids.reshape(-1)
        if momentum_features is None:
            return self._contrast_within_batch(image_features, text_features, ids)
        image_m, text_m = momentum_features
        # parity: the twins' features of the batch stand before the queue
        image_banks = (image_m.T, self.image_queue.to(image_m.dtype))
        text_banks = (text_m.T, self.text_queue.to(text_m.dtype))
        if ids is None or not hasattr(self, "idx_queue"):
            candidates = batch + self.image_queue.shape[1]
            positives = torch.eye(batch, candidates, dtype=torch.bool, device=image_m.device)
        else:
            positives = same_ids(ids, torch.cat([ids, self.idx_queue[0]]))
        weight = self.soft_target_weight(alpha)
        # The queue changes below, before the backward pass: differentiating now saves a copy of it.
        result = with_early_gradient(
            lambda images, texts, temperature: contrastive_loss(
                images, texts, image_banks, text_banks, temperature, positives, (image_m, text_m), weight
            ),
            (image_features, text_features, self.temp),
        )
        if update_state:
            queues = [(self.image_queue, gather(image_m).T), (self.text_queue, gather(text_m).T)]
            if hasattr(self, "idx_queue"):
                entries = ids if ids is not None else torch.full((batch,), _NO_ID, device=image_m.device)
                queues.append((self.idx_queue, gather(entries)[None]))
            push_to_queue(queues, self.queue_ptr)
        return result

    def _contrast_within_batch(
        self, image_features: Tensor, text_features: Tensor, ids: Tensor | None
    ) -> ContrastiveOutput:
        batch = image_features.shape[0]
        images, texts = gather_with_grad(image_features), gather_with_grad(text_features)
        if ids is None:
            own = torch.arange(batch, device=images.device) + rank() * batch
            positives = same_ids(own, torch.arange(images.shape[0], device=images.device))
        else:
            positives = same_ids(ids, gather(ids))
        return contrastive_loss(image_features, text_features, (images.T,), (texts.T,), self.temp, positives)

    def draw_negatives(self, weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One hard negative per row of weights (B, K): int64 (B,)."""
        return draw_negatives(weights, generator)


def matching_rows(negative_images: Tensor, negative_texts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """
    The rows of a matching batch: B positives, then each text with its negative image, then each image with its
    negative text (ALBEF, section 3.2).

    Args:
        negative_images (`Tensor` of shape `(B,)`): image row for each text.
        negative_texts (`Tensor` of shape `(B,)`): text row for each image.

    Returns:
        image rows (3B,), text rows (3B,) and labels (3B,), 1 for the positives.
    """
    own = torch.arange(negative_images.shape[0], device=negative_images.device)
    images = torch.cat([own, negative_images, own])
    texts = torch.cat([own, own, negative_texts])
    labels = torch.cat([torch.ones_like(own), torch.zeros_like(own), torch.zeros_like(own)])
    return images, texts, labels


__all__ = ["MomentumContrastMixin", "matching_rows"]
