"""Keys of the original's full-size BLIP models: each one is used or dropped for a reason. No model is built."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modeling_lavis.hub import zoo
from modeling_lavis.hub.accounting import Plan, make_plan
from modeling_lavis.hub.blip import FAMILY
from modeling_lavis.hub.convert import _build_on_meta
from modeling_lavis.hub.families import Family
from tests.conversion.golden_sets import GOLDENS

FOLDER = GOLDENS / "full_size_keys"
FILES = sorted(FOLDER.glob("blip_*.json"))
DTYPES = {"float32": torch.float32, "int64": torch.int64}


class FullSizeTokenizer:
    """The attributes of bert-base-uncased with `[DEC]` and `[ENC]` that a conversion needs."""

    pad_token_id, cls_token_id, sep_token_id, bos_token_id = 0, 101, 102, 30522

    def __len__(self) -> int:
        return 30524

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"[ENC]": 30523}[token]


def full_size(path: Path) -> dict[str, Tensor]:
    """The state dict of a full-size model, with expanded tensors that take no memory."""
    keys = json.loads(path.read_text())
    return {name: torch.zeros((), dtype=DTYPES[dtype]).expand(shape) for name, (shape, dtype) in keys.items()}


def conversion_plan(
    architecture: str,
    sources: dict[str, Tensor],
    settings: dict[str, Any],
    resize: bool = False,
    family: Family = FAMILY,
    tokenizer: Any = None,
) -> tuple[Plan, Any]:
    source_architecture = family.recognize(sources)
    shapes = {name: tuple(tensor.shape) for name, tensor in sources.items()}
    config = family.build_config(architecture, source_architecture, shapes, settings, tokenizer or FullSizeTokenizer())
    model = _build_on_meta(zoo.model_class_of(architecture), config)
    return make_plan(family, architecture, source_architecture, sources, model, resize_allowed=resize), config


def variant(path: Path) -> tuple[str, str]:
    architecture, _, model_type = path.stem.partition("__")
    return architecture, model_type


def settings_of(architecture: str, model_type: str) -> dict[str, Any]:
    extra = {"num_classes": 2} if architecture == "blip_classification" else {}
    return dict(zoo.get(architecture, model_type).settings) | extra


def test_all_published_checkpoints_are_covered() -> None:
    published = {key for key in zoo.entries() if key[0].startswith("blip_")}
    assert {variant(path) for path in FILES} == published and len(published) == 13


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_is_used_or_dropped_for_a_reason(path: Path) -> None:
    architecture, model_type = variant(path)
    sources = full_size(path)
    assert FAMILY.recognize(sources) == architecture
    plan, config = conversion_plan(architecture, sources, settings_of(architecture, model_type))

    used = {filled.source for filled in plan.filled.values()}
    assert used | set(plan.dropped) == set(sources) and not used & set(plan.dropped)
    assert set(plan.filled) | set(plan.initialized) == set(plan.targets)
    for target, filled in plan.filled.items():
        assert sources[filled.source].shape == plan.targets[target].shape, target

    # Only constants, tied weights and the queue pointer are dropped, and little is initialized.
    for name, reason in plan.dropped.items():
        assert name.endswith("position_ids") or "tied weight" in reason or name == "queue_ptr", (name, reason)
    allowed = {"blip_image_text_matching": {"temp"}, "blip_retrieval": {"queue_ptr"}, "blip_pretrain": {"queue_ptr"}}
    assert set(plan.initialized) == allowed.get(architecture, set())

    # Backwards, the keys of this package give all keys of the original.
    back = {FAMILY.key_map.backward(name) for name in (*plan.targets, *plan.tied)}
    positions = {name for name in sources if name.endswith("position_ids")}
    assert back - allowed.get(architecture, set()) == set(sources) - positions - allowed.get(architecture, set())
    assert config.text_config.num_attention_heads == 12
    assert config.vision_config.num_attention_heads == (16 if "large" in model_type else 12)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_checkpoints_of_the_original_runner(path: Path) -> None:
    """The runner of LAVIS leaves out frozen parameters: momentum encoders, except for a constant."""
    architecture, model_type = variant(path)
    rules = json.loads((FOLDER / "_index.json").read_text())["models"][path.stem]["dropped_when_saved"]
    sources = full_size(path)
    saved = {
        name: tensor
        for name, tensor in sources.items()
        if not any(
            (name.startswith(prefix.removesuffix("*")) if prefix.endswith("*") else name.startswith(prefix + "."))
            and name not in rule["kept"]
            for prefix, rule in rules.items()
        )
    }
    plan, _ = conversion_plan(architecture, saved, settings_of(architecture, model_type))
    momentum_names = {name for name in plan.targets if name.partition(".")[0].endswith("_m")}
    assert bool(momentum_names) == bool(rules)
    for name in momentum_names:
        online = plan.initialized[name].copy_of
        assert online is not None and online == name.replace("_m.", ".", 1) and online in plan.filled


PRETRAINED = FOLDER / "blip_pretrain__base.json"


@pytest.mark.parametrize("path", [path for path in FILES if "large" not in path.stem], ids=lambda path: path.stem)
def test_every_task_starts_from_pretraining(path: Path) -> None:
    architecture, model_type = variant(path)
    entry = zoo.get(architecture, model_type)
    size = entry.facts["image_size"]
    settings = settings_of(architecture, model_type)
    settings["vision"] = {**settings.get("vision", {}), "image_size": size}
    plan, config = conversion_plan(architecture, full_size(PRETRAINED), settings, resize=True)
    expected = {
        FAMILY.key_map.forward(name)[0]: tuple(tensor.shape)
        for name, tensor in full_size(path).items()
        if not name.endswith("position_ids")
    }
    found = {name: tuple(plan.targets[plan.tied.get(name, name)].shape) for name in (*plan.targets, *plan.tied)}
    found.pop("temp", None), expected.pop("temp", None)
    assert found == expected
    resized = {target for target, filled in plan.filled.items() if filled.resized_from}
    assert resized == ({name for name in plan.targets if name.endswith("pos_embed")} if size != 224 else set())
    assert config.vision_config.image_size == size
