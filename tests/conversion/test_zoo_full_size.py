"""Every published checkpoint by its real keys and shapes: from files of these keys to a repository that loads.

No value is computed: weights are expanded zeros, repositories are sparse files, and models are on the meta device.
`python -m benchmarks.zoo_conversion` does the same with random values.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

import modeling_lavis
from benchmarks import full_size
from benchmarks.zoo_conversion import auto_class_of
from modeling_lavis.hub import convert, parts, zoo
from modeling_lavis.hub.checkpoints import Checkpoint
from modeling_lavis.hub.repository_check import check_repository
from modeling_lavis.hub.writing import WrittenWeights
from modeling_lavis.hub.zoo import model_class_of
from modeling_lavis.hub.zoo_conversion import convert_entry
from tests.conversion.golden_sets import GOLDENS

KEYS = GOLDENS / "full_size_keys"


def smallest_of_class(class_name: str) -> zoo.ZooEntry:
    """The published checkpoint of a class that has the fewest parameters."""
    found = [entry for entry in zoo.entries().values() if model_class_of(entry.architecture) == class_name]
    return min(found, key=lambda entry: entry.facts["parameters"])


@pytest.mark.slow
@pytest.mark.parametrize("entry", zoo.entries().values(), ids=lambda entry: entry.name)
def test_every_published_checkpoint_converts_and_loads(
    entry: zoo.ZooEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = tmp_path / "mirror"
    full_size.write_texts(entry, mirror)
    files = {mirror / name: kinds for name, kinds in full_size.mirror_files(entry, KEYS).items()}
    for path in files:
        path.touch()

    def expanded_zeros(path: str | Path) -> Checkpoint:
        kinds = files[Path(path)]
        return Checkpoint(
            Path(path), {name: torch.zeros((), dtype=dtype).expand(shape) for name, (shape, dtype) in kinds.items()}
        )

    def write_holes(
        folder: Path, targets: Mapping[str, Tensor], value: Any, dtype: Callable[[str], torch.dtype], *options: Any
    ) -> WrittenWeights:
        kinds = {name: (tuple(tensor.shape), dtype(name)) for name, tensor in targets.items()}
        full_size.write_sparse(folder / "model.safetensors", kinds)
        return WrittenWeights(("model.safetensors",), ())

    for module in (convert, parts):
        monkeypatch.setattr(module, "read_checkpoint", expanded_zeros)
    monkeypatch.setattr(convert, "write_shards", write_holes)
    config = full_size.CONFIGS.get(entry.name)
    report = convert_entry(entry, tmp_path / "repository", mirror=mirror, config=config, with_code=False)
    assert full_size.unexplained(entry, report, KEYS) == []
    check_repository(tmp_path / "repository", entry)

    expected = getattr(modeling_lavis, model_class_of(entry.architecture))
    config = AutoConfig.from_pretrained(tmp_path / "repository")
    assert config.vision_config.image_size == entry.facts["image_size"]
    with torch.device("meta"):
        model = expected(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.facts["parameters"]
    if entry is smallest_of_class(expected.__name__):  # loading reads the zeros
        model, info = auto_class_of(expected).from_pretrained(
            tmp_path / "repository", device_map="meta", output_loading_info=True
        )
        assert type(model) is expected and not any(info.values()), info


def test_every_entry_has_a_list_of_keys() -> None:
    assert {path.stem for path in KEYS.glob("*__*.json")} == {entry.name for entry in zoo.entries().values()}


def test_all_tied_weights_are_known() -> None:
    index = json.loads((KEYS / "_index.json").read_text(encoding="utf-8"))["models"]
    for entry in zoo.entries().values():
        groups = set(full_size.tied_weights(entry, KEYS).values())
        assert len(groups) == index[entry.name]["tied_groups"], entry.name


def test_random_weights_repeat_and_tied_ones_are_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_size.RandomWeights, "POOL", 1000)
    entry = zoo.get("albef_feature_extractor", "base")
    words, decoder = (
        "text_encoder.bert.embeddings.word_embeddings.weight",
        "text_encoder.cls.predictions.decoder.weight",
    )
    state = full_size.RandomWeights(entry, KEYS).state_dict(
        dict.fromkeys((words, decoder, "vision_proj.weight"), ((50, 60), torch.float32))
    )
    assert state[words] is state[decoder] and not torch.equal(state[words], state["vision_proj.weight"])
    assert state[words].std() > 0 and torch.equal(state[words].flatten()[:1000], state[words].flatten()[1000:2000])
    again = full_size.RandomWeights(entry, KEYS).value(words, ((50, 60), torch.float32))
    assert torch.equal(again, state[words])


def test_sparse_files_read_as_what_was_saved(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    tensors = {"zeros": torch.zeros(1 << 20), "values": torch.arange(6.0).reshape(2, 3).to(torch.float16)}
    full_size.save_sparsely(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    loaded = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, loaded[name]) for name, value in tensors.items())
    assert (tmp_path / "model.safetensors").stat().st_blocks * 512 < 1 << 20
