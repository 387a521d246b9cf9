# SPDX-License-Identifier: Apache-2.0
"""Memory per GPU and throughput of the published training runs, computed: `python -m benchmarks.training_table`.

A model of full size is run forward and backward with the batch of its recipe on fake tensors, which have shapes and no
values. Operations (matrix products and attention) and the bytes that are kept for the backward pass are counted as they
occur; nothing is estimated from the number of parameters. So the table is made on a CPU, in minutes and little memory.

Assumptions: one process of several; autocast to bfloat16 with weights, gradients, AdamW's two moments and momentum
encoders in float32 (frozen parts that are frozen by the model in bfloat16); texts of the greatest length of the
recipe; no memory for fragmentation, kernels' workspaces and the communication buffers of DDP. Rows per second are the
counted operations at a stated share of the peak rate, without waiting for data or for other processes.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import OPTConfig
from transformers.initialization import no_init_weights

import modeling_lavis
from modeling_lavis.models import modeling_albef, task_retrieval
from modeling_lavis.models.losses import MaskDraws
from modeling_lavis.training.recipes import Recipe, list_recipes, load_recipe

#: dense bfloat16 operations per second (data sheets of A100 SXM and H100 SXM), and the share that training reaches
PEAKS = {"A100": 312e12, "H100": 989e12}
UTILIZATION = 0.4
#: classes of the data sets of classification, answers per question of VQA
CLASSES = {"alpro-qa-msrvtt": 1500, "alpro-qa-msvd": 2423, "albef-entailment-snli-ve": 3}
FRAMES, DEFAULT_LENGTH, ANSWER_LENGTH, GIB = 8, 30, 6, 2**30
OPT_2_7B = {"hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "ffn_dim": 10240}
VIT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}


def model_of(recipe: Recipe, **options: Any) -> nn.Module:
    """The head of a recipe in full size, without values; call it among fake tensors."""
    model_class = getattr(modeling_lavis, recipe.head)
    fields = dict(recipe.model.config or {})
    vision = {**fields.pop("vision_config", {}), "image_size": recipe.model.image_size}
    if "large" in recipe.name or recipe.name == "blip-caption-coco-iterations":
        vision.update(VIT_LARGE)
    if recipe.model.num_frames:
        vision["num_frames"] = recipe.model.num_frames
    if recipe.head == "LavisBlip2ForConditionalGeneration":
        fields["text_config"] = OPTConfig(word_embed_proj_dim=OPT_2_7B["hidden_size"], **OPT_2_7B).to_dict()
    if recipe.head.startswith("LavisBlip2"):
        fields["freeze_vision"] = "vision_model" in recipe.model.frozen
    if recipe.name in CLASSES:
        fields["num_labels"] = CLASSES[recipe.name]
    with no_init_weights():
        model = model_class(model_class.config_class(vision_config=vision, **fields, **options)).train()
    model.tie_weights()
    for weight in model.parameters():
        if not weight.requires_grad and recipe.head.startswith("LavisBlip2"):  # stored in half precision, as published
            weight.data = weight.data.bfloat16()
    return model


def batch_of(recipe: Recipe, rows: int) -> dict[str, Any]:
    """A training batch of the task."""
    size, length = recipe.model.image_size, (recipe.data.processor or {}).get("max_text_length") or DEFAULT_LENGTH
    ids = torch.randint(5, 1000, (rows, length))
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if "Alpro" in recipe.head:
        batch["pixel_values_videos"] = torch.randn(rows, recipe.model.num_frames or FRAMES, 3, size, size)
    else:
        images = (rows, 2) if "ImagesAnd" in recipe.head else (rows,)
        batch["pixel_values"] = torch.randn(*images, 3, size, size)
    if "Classification" in recipe.head or "VideoQuestion" in recipe.head:
        batch["labels"] = torch.zeros(rows, dtype=torch.long)
    elif "Question" in recipe.head:  # every question has one answer per row of this count
        batch["labels"] = torch.randint(5, 1000, (rows, ANSWER_LENGTH))
    elif "Conditional" in recipe.head:
        batch["labels"] = ids.clone()
    else:
        batch["image_ids"], batch["return_loss"] = torch.arange(rows), True
    return batch


def _any_negatives(weights: Tensor, generator: Any = None) -> Tensor:
    return weights.argmax(dim=1)


def _masks(self: Any, input_ids: Tensor, generator: Any = None) -> MaskDraws:
    draws = torch.zeros_like(input_ids, dtype=torch.bool)
    return MaskDraws(draws, draws, draws, random_ids=input_ids)


def _masked_lm_loss(
    head: Any,
    states: Tensor,
    labels: Tensor,
    momentum_head: Any = None,
    momentum_states: Any = None,
    alpha: float = 0.0,
) -> Tensor:
    """The loss for a known number of masked tokens: 15 % of them."""
    count = round(0.15 * labels.numel())
    logits = head(states.flatten(0, 1)[:count]).float()
    loss = F.cross_entropy(logits, labels.flatten()[:count])
    if momentum_head is None:
        return loss
    with torch.no_grad():
        targets = momentum_head(momentum_states.flatten(0, 1)[:count]).float().softmax(dim=-1)
    return (1 - alpha) * loss - alpha * (targets * logits.log_softmax(dim=-1)).sum() / count


def _is_compiling() -> bool:
    """Values are not looked at, as in a compiled model; the savings of memory that those lack are made."""
    return not sys._getframe(1).f_code.co_filename.endswith("memory.py")


@contextmanager
def fake_tensors() -> Iterator[None]:
    """Tensors without values, and models that do not ask for values."""
    albef = modeling_lavis.AlbefForPreTraining
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()))
        stack.enter_context(mock.patch.object(task_retrieval, "draw_negatives", _any_negatives))
        stack.enter_context(mock.patch.object(albef, "draw_masks", _masks))
        stack.enter_context(mock.patch.object(modeling_albef, "masked_lm_loss", _masked_lm_loss))
        stack.enter_context(mock.patch("torch.compiler.is_compiling", _is_compiling))
        yield


def bytes_of_weights(model: nn.Module) -> int:
    """Weights and buffers as they are stored, gradients, and the two moments of AdamW in float32."""
    stored = sum(value.nbytes for value in (*model.parameters(), *model.buffers()))
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return stored + 3 * 4 * trained


def bytes_kept(model: nn.Module, batch: dict[str, Any]) -> int:
    """Bytes that a forward pass with autocast keeps for the backward pass, besides the weights."""
    own = {id(value.untyped_storage()) for value in (*model.parameters(), *model.buffers())}
    kept: dict[int, Any] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if id(storage) not in own:
            kept[id(storage)] = storage
        return value

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        model(**batch)
    return sum(storage.nbytes() for storage in kept.values())


def operations_of_step(model: nn.Module, batch: dict[str, Any]) -> int:
    """Operations of a forward and a backward pass."""
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    return counter.get_total_flops()


class Cost(NamedTuple):
    """Operations of a step; bytes of the weights with all that belongs to them; bytes kept for the backward pass."""

    operations: int
    weights: int
    kept: int
    kept_with_checkpointing: int


def count_recipe(recipe: Recipe, rows: int | None = None) -> Cost:
    """Cost of a step of a recipe on one device, with the recipe's rows or others."""
    with fake_tensors():
        batch = batch_of(recipe, rows or recipe.run.train_batch_size)
        # the counter does not know the fused attention of CPUs
        operations = operations_of_step(model_of(recipe, attn_implementation="eager"), batch)
        model: Any = model_of(recipe, attn_implementation="sdpa")
        weights, kept = bytes_of_weights(model), bytes_kept(model, batch)
        # what is kept without reentrant checkpointing, the hooks do not see
        model.gradient_checkpointing_enable({"use_reentrant": True})
        return Cost(operations, weights, kept, bytes_kept(model, batch))


def make_table(names: list[str], report: Callable[[str], None] = print) -> None:
    """Print the table, row by row."""
    speeds = [f"rows/s, {device}" for device in PEAKS]
    header = ["recipe", "rows", "weights and optimizer, GiB", "activations, GiB", "with checkpointing, GiB"]
    header += ["TFLOP per row", *speeds]
    report("| " + " | ".join(header) + " |")
    report("| " + " | ".join(["---", *["---:"] * (len(header) - 1)]) + " |")
    for name in names:
        recipe = load_recipe(name)
        cost, rows = count_recipe(recipe), recipe.run.train_batch_size
        cells = [name, str(rows)]
        cells += [f"{size / GIB:.1f}" for size in (cost.weights, cost.kept, cost.kept_with_checkpointing)]
        cells.append(f"{cost.operations / rows / 1e12:.2f}")
        cells += [f"{UTILIZATION * peak * rows / cost.operations:.0f}" for peak in PEAKS.values()]
        report("| " + " | ".join(cells) + " |")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_table", description=__doc__)
    parser.add_argument("recipes", nargs="*", help="names of recipes (all published ones)")
    options = parser.parse_args(arguments)
    published = [name for name in list_recipes() if not name.startswith("small-") and not name.endswith("-lora")]
    make_table(options.recipes or published)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
