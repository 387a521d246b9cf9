"""Keys of the original's full-size BLIP-2 models: each one is used or dropped for a reason. No model is built."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.full_size import language_model_config
from modeling_lavis.hub import blip2_settings, zoo
from modeling_lavis.hub.accounting import make_plan
from modeling_lavis.hub.blip2 import FAMILY
from modeling_lavis.hub.convert import _build_on_meta
from tests.conversion.golden_sets import GOLDENS

FOLDER = GOLDENS / "full_size_keys"
FILES = sorted(FOLDER.glob("blip2*.json"))
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int64": torch.int64}


class FullSizeTokenizer:
    """The attributes of bert-base-uncased with `[DEC]` that a conversion needs."""

    pad_token_id, cls_token_id, sep_token_id, bos_token_id = 0, 101, 102, 30522

    def __len__(self) -> int:
        return 30523


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_used_or_dropped_for_a_reason(path: Path) -> None:
    architecture, _, model_type = path.stem.partition("__")
    keys = json.loads(path.read_text())
    sources: dict[str, Tensor] = {
        # expanded tensors take no memory
        name: torch.zeros((), dtype=DTYPES[dtype]).expand(shape)
        for name, (shape, dtype) in keys.items()
    }
    for name in ("class_embedding", "positional_embedding"):  # the shape that the conversion gives them
        if f"visual_encoder.{name}" in sources:
            table = sources[f"visual_encoder.{name}"]
            sources[f"visual_encoder.{name}"] = table.reshape(1, -1, table.shape[-1])
    source_architecture = FAMILY.recognize(sources)
    assert source_architecture == (architecture if architecture in ("blip2_opt", "blip2_t5") else "blip2")
    settings = dict(zoo.get(architecture, model_type).settings)
    if architecture in ("blip2_opt", "blip2_t5"):
        settings["language_model_config"] = language_model_config(zoo.get(architecture, model_type))
    shapes = {name: tuple(tensor.shape) for name, tensor in sources.items()}
    config = FAMILY.build_config(architecture, source_architecture, shapes, settings, FullSizeTokenizer())
    model = _build_on_meta(zoo.model_class_of(architecture), config)
    plan = make_plan(FAMILY, architecture, source_architecture, sources, model, resize_allowed=False)

    used = {filled.source for filled in plan.filled.values()}
    assert used | set(plan.dropped) == set(sources) and not used & set(plan.dropped)
    assert set(plan.filled) == set(plan.targets) and not plan.initialized
    for name, reason in plan.dropped.items():
        heads = name.startswith(("Qformer.cls.", "itm_head.")) and source_architecture != architecture
        assert name.endswith("position_ids") or "tied weight" in reason or heads, (name, reason)
    is_clip = "vitL" in model_type
    if not is_clip:  # backwards, the keys of this package give the original's
        key_map = FAMILY.key_map_of(architecture)
        assert {key_map.backward(name) for name in (*plan.targets, *plan.tied)} == set(sources) - {
            name for name in plan.dropped if "tied weight" not in plan.dropped[name]
        }
    assert config.vision_config.num_attention_heads == 16
    assert config.vision_config.num_hidden_layers == (21 if is_clip else 39)  # parity: the depth of version 1.0.2
    assert config.freeze_vision == ("coco" not in model_type)
    assert blip2_settings.image_encoder_kind(settings).model_type == config.vision_config.model_type


def test_all_published_checkpoints_are_covered() -> None:
    published = {f"{name}__{kind}" for name, kind in zoo.entries() if name.startswith("blip2")}
    assert {path.stem for path in FILES} == published and len(published) == 17
