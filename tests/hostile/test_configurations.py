"""Configurations and indexes made to harm: refused when they are read, before a model is built."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModel, AutoProcessor

import modeling_lavis
from modeling_lavis import LavisBertConfig, LavisBlip2Config, LavisBlipConfig, LavisViTConfig
from modeling_lavis.models.configuration_base import MAX_PARAMETERS, estimated_parameters
from tests.models.lavis_blip_cases import CASES, blip_config

CASE = next(case for case in CASES if case.name == "LavisBlipForConditionalGeneration")
pytestmark = pytest.mark.slow


def written(folder: Path, **changes: Any) -> Path:
    """A folder with the configuration of a tiny model, changed."""
    config = {**blip_config().to_dict(), "architectures": ["LavisBlipForConditionalGeneration"], **changes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "experts_implementation"])
@pytest.mark.parametrize(
    "kernel", ["evil/kernel", "kernels-community/flash-attn2@main", {"text_config": "evil/kernel"}, 3]
)
def test_kernels_of_the_hub_are_not_loaded(name: str, kernel: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} is .*Kernels of the Hub are code"):
        AutoConfig.from_pretrained(written(tmp_path, **{name: kernel}))


def test_kernels_in_parts_are_not_loaded(tmp_path: Path) -> None:
    part = {**blip_config().text_config.to_dict(), "attn_implementation": "evil/kernel"}
    with pytest.raises(ValueError, match="text_config.attn_implementation is 'evil/kernel'"):
        LavisBlipConfig.from_pretrained(written(tmp_path, text_config=part))
    assert (
        LavisBlipConfig.from_pretrained(written(tmp_path), attn_implementation="eager")._attn_implementation == "eager"
    )


@pytest.mark.parametrize("name", ["to_dict", "from_pretrained", "__class__", "save_pretrained", "attribute_map"])
def test_methods_are_not_replaced(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not an entry"):
        LavisBlipConfig.from_pretrained(written(tmp_path, **{name: "x"}))
    with pytest.raises(ValueError, match=f"text_config: .*'{name}' is not an entry"):
        LavisBlip2Config(text_config={"model_type": "opt", name: "x"})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (LavisBertConfig, {"hidden_size": 2**17, "num_attention_heads": 2**10, "num_hidden_layers": 4096}),
        (LavisBertConfig, {"vocab_size": 2**24, "hidden_size": 2**17, "num_attention_heads": 2**10}),
        (LavisViTConfig, {"image_size": 2**15, "patch_size": 1, "hidden_size": 2**14}),
        (LavisBlipConfig, {"queue_size": 2**24, "projection_dim": 2**17}),
        (
            LavisBlip2Config,
            {
                "text_config": {
                    "model_type": "llama",
                    "hidden_size": 2**17,
                    "num_hidden_layers": 4096,
                    "num_attention_heads": 64,
                }
            },
        ),
    ],
)
def test_sizes_that_no_machine_has(kind: Any, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="make a model of about .* parameters"):
        kind.from_dict(values)


def test_estimates_are_close() -> None:
    model = CASE.model()
    actual = sum(value.numel() for value in model.parameters())
    assert 0.3 < estimated_parameters(model.config) / actual < 3
    for kind in (LavisBlipConfig, LavisBlip2Config, modeling_lavis.AlbefConfig, modeling_lavis.AlproConfig):
        assert 10**8 < estimated_parameters(kind()) < 10**10 < MAX_PARAMETERS


def test_configurations_that_nest_without_end(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "lavis_blip", "x": ' + "[" * 100_000)
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        LavisBlipConfig.from_pretrained(tmp_path)


def test_files_that_are_no_configuration_by_their_size(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(2**40)  # without taking disk space
    with pytest.raises(ValueError, match="bytes; expected at most"):
        LavisBlipConfig.from_pretrained(tmp_path)


def test_no_code_of_a_repository_is_run(tmp_path: Path, goldens: Path) -> None:
    """`auto_map` names code, which only `trust_remote_code=True` may run; the installed classes are used."""
    from modeling_lavis import LavisBlipProcessor, LavisImageProcessor
    from modeling_lavis.models.tokenization_lavis import blip_tokenizer

    CASE.model().save_pretrained(tmp_path)
    processor = LavisBlipProcessor(LavisImageProcessor(size=32), blip_tokenizer(str(goldens / "tokenizer")))
    processor.save_pretrained(tmp_path)
    marker = tmp_path / "was_run"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        content = json.loads((tmp_path / name).read_text())
        autos = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoTokenizer", "AutoImageProcessor")
        content["auto_map"] = dict.fromkeys(autos, "evil.Evil")
        (tmp_path / name).write_text(json.dumps(content))
    assert type(AutoModel.from_pretrained(tmp_path)) is CASE.model_class
    assert type(AutoProcessor.from_pretrained(tmp_path)) is LavisBlipProcessor
    assert not marker.exists()


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "..", ""])
def test_shards_outside_of_the_folder(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    CASE.model().save_pretrained(folder, max_shard_size="20KB")
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"] = dict.fromkeys(content["weight_map"], name)
    index.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="names the file"):
        CASE.model_class.from_pretrained(folder)


def test_a_configuration_far_larger_than_its_weights(tmp_path: Path) -> None:
    """What is missing would be initialized, in memory that the file does not need."""
    CASE.model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["vocab_size"] = 2**23
    config["text_config"]["hidden_size"] = 2**12
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="describes a model of about .* but its weights have only"):
        CASE.model_class.from_pretrained(tmp_path)


def test_frozen_parts_load_tensors_only(tmp_path: Path) -> None:
    """A part can be named anywhere, and is read as weights: a pickle in its place is refused."""
    import pickle

    from tests.models.lavis_blip_2_cases import second_stage

    model = second_stage("opt")
    part = tmp_path / "part"
    part.mkdir()
    marker = tmp_path / "was_run"
    (part / "pytorch_model.bin").write_bytes(pickle.dumps(_Opens(str(marker))))
    model.save_pretrained(tmp_path / "model", frozen_parts={"vision_model": str(part)})
    with pytest.raises(Exception, match="(?i)weights"):
        type(model).from_pretrained(tmp_path / "model")
    assert not marker.exists()


class _Opens:
    """An object whose unpickling creates a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)
