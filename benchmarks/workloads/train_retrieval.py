# SPDX-License-Identifier: Apache-2.0
"""One training step of retrieval: ALBEF at 384 pixels, batch of 4, queue of 65,536, AdamW; in a plain loop, and in the
loop of LavisTrainer.

The timed steps use dropout, so their losses differ randomly between peers; the compared output is the contrastive loss
of an earlier forward pass without dropout.
"""

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Run, Tensors, Workload
from benchmarks.workloads.caption import make_pixels
from benchmarks.workloads.retrieval import Size as RetrievalSize
from benchmarks.workloads.retrieval import make_texts, padded


@dataclass(frozen=True)
class Size(RetrievalSize):
    """Sizes of model and task: one text per image, padded to `padding` tokens."""

    images: int = 4
    texts: int = 4
    queue: int = 65536
    padding: int = 30


def fill(model: nn.Module, rename: weights.Rename, size: Size) -> None:
    """Fill parameters and queues with equal values for all peers."""
    weights.fill(model, rename)
    with torch.no_grad():
        for name in ("image_queue", "text_queue"):
            queue = weights.draw(name, (size.projection_dim, size.queue))
            getattr(model, name).copy_(nn.functional.normalize(queue, dim=0))
        model.temp.fill_(0.07)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """AdamW in the form that transformers' Trainer uses by default, for all peers."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-5, weight_decay=0.02, fused=True)


def _our_model_and_batch(size: Size, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    from benchmarks.our_parts import albef_config
    from modeling_lavis import AlbefForImageTextRetrieval

    model = AlbefForImageTextRetrieval(albef_config(size, use_momentum=True))
    fill(model, weights.FROM_OURS, size)
    batch: dict[str, Any] = {
        "pixel_values": make_pixels(size.images, size.image_size).to(dtype),
        **padded(make_texts(size), size.padding),
        "image_ids": torch.arange(size.images),
        "return_loss": True,
        "alpha": 0.2,
    }
    return model.to(dtype), batch


def build_ours(size: Size, dtype: torch.dtype) -> Run:
    model, batch = _our_model_and_batch(size, dtype)
    return _steps(model, lambda: model(**batch, update_state=True))


def build_trainer(size: Size, dtype: torch.dtype) -> Run:
    """The same step in the loop of LavisTrainer."""
    from benchmarks.trainer_steps import MANY, TrainerSteps, training_arguments
    from modeling_lavis.training import LavisTrainer

    model, batch = _our_model_and_batch(size, dtype)
    first = _first_loss(model, lambda: model(**batch, update_state=True))

    def make_trainer(callbacks: Any) -> Any:
        return LavisTrainer(
            model,
            training_arguments(tempfile.gettempdir(), per_device_train_batch_size=1),
            _only_row,
            train_dataset=[batch] * MANY,
            callbacks=callbacks,
            ramp_epochs=None,  # alpha is in the batch
            curves=False,
        )

    return TrainerSteps(make_trainer, {"loss_itc": first})


def _only_row(rows: list[Any]) -> Any:
    return rows[0]


def build_lavis(size: Size, dtype: torch.dtype) -> Run:
    from benchmarks import lavis_parts

    texts = {f"text {index}": ids for index, ids in enumerate(make_texts(size))}
    model = lavis_parts.albef_retrieval(size, texts, max_txt_len=size.padding)
    fill(model, weights.FROM_LAVIS, size)
    model = model.to(dtype)
    samples = {
        "image": make_pixels(size.images, size.image_size).to(dtype),
        "text_input": list(texts),
        "image_id": torch.arange(size.images),
        # half of the ramp of two epochs, so that alpha is 0.2
        "epoch": 1,
        "iters": 0,
        "num_iters_per_epoch": 10,
    }
    return _steps(model, lambda: model(dict(samples)))


def _first_loss(model: nn.Module, forward: Any) -> torch.Tensor:
    """The contrastive loss without dropout."""
    model.eval()
    with torch.no_grad():
        first: torch.Tensor = forward().loss_itc.detach().clone()
    model.train()
    return first


def _steps(model: nn.Module, forward: Any) -> Run:
    first = _first_loss(model, forward)
    optimizer = optimizer_of(model)

    def run() -> Tensors:
        optimizer.zero_grad(set_to_none=True)
        forward().loss.backward()
        optimizer.step()
        return {"loss_itc": first}

    return run


def count_flops(size: Size) -> float:
    """Forward and backward passes (twice a forward pass) of encoders and ITM; forward passes of momentum encoders."""
    image_tokens = (size.image_size // 16) ** 2 + 1
    lengths = [len(text) for text in make_texts(size)]
    encoded = size.images * flops.vit(size.image_size, size.hidden_size, size.layers)
    for length in lengths:
        encoded += size.fusion_layer * flops.bert_layer(length, length, size.hidden_size, size.intermediate_size)
    fusion = size.layers - size.fusion_layer
    matched = size.images * fusion * flops.project_keys_and_values(image_tokens, size.hidden_size, size.hidden_size)
    for length in lengths:
        matched += 3 * fusion * flops.bert_layer(length, length, size.hidden_size, size.intermediate_size, image_tokens)
    return 4 * encoded + 3 * matched


SIZES = {
    "full": Size(),
    "tiny": Size(image_size=32, hidden_size=32, layers=2, heads=2, projection_dim=16, queue=16),
}
WORKLOAD = Workload(
    name="train_retrieval",
    summary="ALBEF retrieval, 384 px, one AdamW step, batch 4, queue 65,536",
    sizes=SIZES,
    builders={OURS: build_ours, "lavis": build_lavis},
    count_flops=count_flops,
    trains=True,
)
THROUGH_TRAINER = Workload(
    name="train_retrieval_trainer",
    summary="the same step in the loop of LavisTrainer, and LAVIS's in a plain loop",
    sizes=SIZES,
    builders={OURS: build_trainer, "lavis": build_lavis},
    count_flops=count_flops,
    trains=True,
)
