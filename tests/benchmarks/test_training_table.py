"""The computed table of memory and throughput."""

from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import training_table
from modeling_lavis.models import task_retrieval
from modeling_lavis.training.recipes import load_recipe
from tests.models.albef_cases import RETRIEVAL


def first(weights: Tensor, generator: object = None) -> Tensor:
    return weights.argmax(dim=1)


def test_counts_are_those_of_a_real_step() -> None:
    """Without values as many operations are counted as with them, and as many bytes are kept."""
    rows = 4
    batch = {**RETRIEVAL.inputs(rows, padded=False), **RETRIEVAL.training(rows)}
    with mock.patch.object(task_retrieval, "draw_negatives", first):
        model = RETRIEVAL.model_class(RETRIEVAL.config(attn_implementation="eager")).train()
        with FlopCounterMode(display=False) as counter:
            model(**batch).loss.backward()
        model = RETRIEVAL.model_class(RETRIEVAL.config()).train()
        kept = training_table.bytes_kept(model, batch)
    weights = training_table.bytes_of_weights(model)
    with training_table.fake_tensors():
        fake = {name: torch.empty_like(value) if torch.is_tensor(value) else value for name, value in batch.items()}
        build = training_table.without_values
        operations = training_table.operations_of_step(
            build(RETRIEVAL.model_class, RETRIEVAL.config(attn_implementation="eager")), fake
        )
        model = build(RETRIEVAL.model_class, RETRIEVAL.config())
        assert training_table.bytes_of_weights(model) == weights
        assert training_table.bytes_kept(model, fake) == pytest.approx(kept, rel=0.05)
    # the rows that negatives are drawn from decide how often an image is projected
    assert operations == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.slow
def test_a_published_recipe_in_full_size(capsys: pytest.CaptureFixture) -> None:
    recipe = load_recipe("albef-retrieval-coco")
    few, many = training_table.count_recipe(recipe, rows=2), training_table.count_recipe(recipe, rows=4)
    # online and momentum encoders of 210 million weights each, gradients and moments of the online ones, and the queue
    assert few.weights == many.weights == pytest.approx((5 * 209.6e6 + 2 * 256 * 65_536) * 4, rel=0.005)
    assert many.operations == pytest.approx(2 * few.operations, rel=1e-3)
    assert 1.5 < many.kept / few.kept < 2.0, "a part are weights in bfloat16"
    assert many.kept_with_checkpointing < 0.4 * many.kept
    # ViT-B at 384 px: 111 GFLOP a pass; three passes in training, and one of the momentum encoder
    assert 4 * 111e9 < few.operations / 2 < 5 * 111e9
