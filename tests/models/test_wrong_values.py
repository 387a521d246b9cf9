"""Files with wrong values, drawn with fixed seeds: they work, or an error names file, field, value and expectation."""

import copy
import json
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import modeling_lavis
from modeling_lavis import (
    AlbefProcessor,
    AlproProcessor,
    LavisBertConfig,
    LavisBlip2Processor,
    LavisBlipProcessor,
    LavisClipVisionConfig,
    LavisEvaConfig,
    LavisImageProcessor,
    LavisImageProcessorTorchvision,
    LavisQFormerConfig,
    LavisTimesformerConfig,
    LavisVideoProcessor,
    LavisViTConfig,
)
from modeling_lavis.hub.convert import convert
from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from tests.conversion import golden_sets
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases

WORDS: tuple[Any, ...] = ("x", "", "7")
NUMBERS: tuple[Any, ...] = (-1, 0, 3, 1.5, 10**9, 2**63, 10**30, 1e300, float("nan"), float("inf"))
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [1, 2], {"a": 1})
VALUES = WORDS + NUMBERS + OTHERS
Path_ = tuple[str, ...]


def paths(values: dict[str, Any], prefix: Path_ = ()) -> Iterator[Path_]:
    """Every entry of nested dictionaries."""
    for name, value in values.items():
        if name != "transformers_version":
            yield (*prefix, name)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, name))


def changed(values: dict[str, Any], path: Path_, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(values)
    part = values
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    return values


def drawn(values: dict[str, Any], count: int, seed: int) -> Iterator[tuple[Path_, Any]]:
    """Entries with values, drawn without an order: the same for the same arguments."""
    rng = random.Random(seed)
    entries = list(paths(values))
    for _ in range(count):
        yield rng.choice(entries), rng.choice(VALUES)


def attempt(use: Callable[[], Any], file: Path, path: Path_, value: Any) -> bool:
    """Whether it works; otherwise the error has to be one for users, which names the file and the entry."""
    try:
        use()
    except (ValueError, OSError) as error:
        message = str(error)
        assert str(file) in message, (path, value, message)
        assert any(name in message for name in path), (path, value, message)
        return False
    except Exception as error:
        raise AssertionError(f"{'.'.join(path)} = {value!r} ends in {error!r}") from error
    return True


# ---- configurations and models ----

CONFIGS: dict[str, Callable[[], Any]] = {
    "albef": albef_cases.CASES[0].config,
    "alpro": alpro_cases.CASES[0].config,
    "blip": lavis_blip_cases.CASES[0].config,
    "blip-2": lavis_blip_2_cases.CASES[0].config,
    **{kind: lambda kind=kind: lavis_blip_2_cases.second_stage(kind).config for kind in ("opt", "t5")},
    "answers": lambda: next(
        case.config(answer_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2})
        for case in albef_cases.CASES
        if case.name == "AlbefForQuestionAnswering"
    ),
    **{
        kind.__name__: kind
        for kind in (
            LavisViTConfig,
            LavisClipVisionConfig,
            LavisEvaConfig,
            LavisTimesformerConfig,
            LavisBertConfig,
            LavisQFormerConfig,
        )
    },
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]()
    kind, file = type(config), tmp_path / "config.json"
    config.save_pretrained(tmp_path)
    stored = json.loads(file.read_text())
    refused = 0
    for path, value in drawn(stored, 300, seed=1):
        file.write_text(json.dumps(changed(stored, path, value)))
        works = attempt(lambda: kind.from_pretrained(tmp_path).to_json_string(), file, path, value)
        refused += not works
    assert 150 < refused < 300
    for content in ([], "x", 3, None, [stored]):
        file.write_text(json.dumps(content))
        with pytest.raises((ValueError, OSError), match=str(tmp_path)):
            kind.from_pretrained(tmp_path)


CASES = {
    case.name: case
    for module in (albef_cases, alpro_cases, lavis_blip_cases, lavis_blip_2_cases)
    for case in module.CASES
}


def run_forward(case: Any, folder: Path) -> None:
    model = case.model_class.from_pretrained(folder).eval()
    options = next(iter(case.modes.values()), {})
    with torch.no_grad():
        model(**case.inputs(2), **options)


@pytest.mark.parametrize("name", CASES)
def test_models(name: str, tmp_path: Path) -> None:
    """A configuration that loads is one with which the model works, or that does not fit the weights."""
    case = CASES[name]
    case.model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    stored = json.loads(file.read_text())
    for path, value in drawn(stored, 40, seed=2):
        whole_part = isinstance(stored.get(path[-1]), dict) and len(path) == 1 and value in (None, {})
        if whole_part:  # the published sizes, too large for a test
            continue
        file.write_text(json.dumps(changed(stored, path, value)))
        try:
            run_forward(case, tmp_path)
        except (ValueError, OSError) as error:
            named = str(tmp_path) in str(error) or "token id" in str(error) or "texts cannot share" in str(error)
            assert named, (path, value, error)
        except Exception as error:
            raise AssertionError(f"{'.'.join(path)} = {value!r} ends in {error!r}") from error


# ---- processors ----


PROCESSORS = (
    "albef",
    "alpro",
    "blip",
    "blip with torchvision",
    "blip-2",
    "images",
    "images with torchvision",
    "videos",
)
PARTS = ("image_processor", "video_processor")


def processors(tokenizer: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Processors with the inputs of a call."""
    image, video = np.zeros((20, 30, 3), np.uint8), np.zeros((4, 20, 30, 3), np.uint8)
    images, videos = LavisImageProcessor(size=32), LavisVideoProcessor(size=32, num_frames=2)
    texts: dict[str, Any] = {"images": image, "text": "a"}
    bert, blip = bert_tokenizer(tokenizer), blip_tokenizer(tokenizer)
    return {
        "albef": (AlbefProcessor(images, bert), texts),
        "alpro": (AlproProcessor(videos, bert), {"videos": video, "text": "a"}),
        "blip": (LavisBlipProcessor(images, blip), texts),
        "blip with torchvision": (LavisBlipProcessor(LavisImageProcessorTorchvision(size=32), blip), texts),
        "blip-2": (LavisBlip2Processor(images, qformer_tokenizer(tokenizer)), texts),
        "images": (images, {"images": image}),
        "images with torchvision": (LavisImageProcessorTorchvision(size=32), {"images": image}),
        "videos": (videos, {"videos": video}),
    }


@pytest.mark.parametrize("name", PROCESSORS)
def test_processors(name: str, tmp_path: Path, goldens: Path) -> None:
    processor, call = processors(str(goldens / "tokenizer"))[name]
    processor.save_pretrained(tmp_path)
    file = next(path for path in tmp_path.iterdir() if path.name.endswith("processor_config.json"))
    stored = json.loads(file.read_text())
    kind, refused = type(processor), 0
    for path in paths(stored):
        for value in VALUES:
            # another class of transformers, or none
            if path[-1] == "image_processor_type" and isinstance(value, str) or len(path) == 1 and path[0] in PARTS:
                continue
            file.write_text(json.dumps(changed(stored, path, value)))

            def use() -> None:
                kind.from_pretrained(tmp_path)(**call, return_tensors="np")

            refused += not attempt(use, file, path, value)
    assert refused > 150
    for content in ([], "x", 3, [stored]):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=f"{file} cannot be used: expected a JSON object"):
            kind.from_pretrained(tmp_path)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [[], "x", 3, [1, 2]])
def test_parts_of_processors(part: str, value: Any, tmp_path: Path, goldens: Path) -> None:
    name = "blip" if part == "image_processor" else "alpro"
    processor, _ = processors(str(goldens / "tokenizer"))[name]
    processor.save_pretrained(tmp_path)
    file = tmp_path / "processor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), part: value}))
    with pytest.raises(ValueError, match=f"{file} cannot be used: expected a JSON object of options for {part}"):
        type(processor).from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", [LavisImageProcessor, LavisImageProcessorTorchvision, LavisVideoProcessor])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", -1),
        ("size", {"height": 32, "width": 10**9}),
        ("image_mean", [0.5, "x", 0.5]),
        ("image_std", [0.5, 0.5]),
        ("image_std", 0),
        ("do_normalize", "no"),
        ("do_resize", 3),
        ("rescale_factor", 0),
        ("rescale_factor", float("nan")),
    ],
)
def test_options_of_a_call(kind: Any, option: str, value: Any) -> None:
    data = np.zeros((20, 30, 3) if "Image" in kind.__name__ else (4, 20, 30, 3), np.uint8)
    processor = kind(size=32)
    with pytest.raises(ValueError, match=rf"{option} is .*expected"):
        processor(data, **{option: value})
    with pytest.raises(ValueError, match=rf"{option} is .*expected"):
        kind(**{option: value})


# ---- settings of generation ----

GENERATION = {
    **dict.fromkeys(("max_length", "max_new_tokens"), 4),
    **dict.fromkeys(("min_length", "min_new_tokens", "no_repeat_ngram_size", "top_k"), 0),
    **dict.fromkeys(("num_beams", "num_return_sequences", "temperature", "top_p", "repetition_penalty"), 1),
    **dict.fromkeys(("length_penalty", "encoder_repetition_penalty", "typical_p"), 1.0),
    **dict.fromkeys(("do_sample", "output_scores", "return_dict_in_generate", "early_stopping"), False),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "suppress_tokens", "bad_words_ids"), None),
}


@pytest.mark.parametrize(
    "name", ["blip", *(pytest.param(name, marks=pytest.mark.slow) for name in ("albef", "blip-2", "opt", "t5"))]
)
def test_generation_settings(name: str, tmp_path: Path) -> None:
    heads: dict[str, Any] = {
        "blip": lambda: CASES["LavisBlipForConditionalGeneration"].model(),
        "albef": lambda: CASES["AlbefForQuestionAnswering"].model(),
        "blip-2": lambda: CASES["LavisBlip2ForPreTraining"].model(),
        "opt": lambda: lavis_blip_2_cases.second_stage("opt"),
        "t5": lambda: lavis_blip_2_cases.second_stage("t5"),
    }
    model = heads[name]()
    model.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    stored = {**json.loads(file.read_text()), **GENERATION}
    refused = 0
    entries = list(drawn(stored, 30, seed=3))
    for path, value in entries:
        file.write_text(json.dumps({**stored, path[0]: value}))
        try:
            type(model).from_pretrained(tmp_path)
        except (ValueError, OSError) as error:
            refused += 1
            assert str(tmp_path) in str(error) and path[0] in str(error), (path, value, error)
        except Exception as error:
            raise AssertionError(f"{path[0]} = {value!r} ends in {error!r}") from error
    assert 8 < refused < 30
    for content in ([], "x", 3):
        file.write_text(json.dumps(content))
        with pytest.raises(ValueError, match="generation_config.json of .* expected a JSON object"):
            type(model).from_pretrained(tmp_path)


# ---- settings of a conversion ----

CONVERTED = ("albef_pretrain", "alpro_qa", "blip_caption", "blip_vqa", "blip2_image_text_matching")


@pytest.mark.parametrize("architecture", CONVERTED)
def test_settings_of_a_conversion(architecture: str, tmp_path: Path) -> None:
    settings = golden_sets.settings(architecture)
    used = {"vision", "text", "qformer", "embed_dim", "queue_size", "temp", "momentum", "num_classes", "max_txt_len"}
    stored = {name: value for name, value in settings.items() if name in used}
    file, output = tmp_path / "settings.json", tmp_path / "converted"
    refused = 0
    for number, (path, value) in enumerate(drawn(stored, 40, seed=4)):
        file.write_text(json.dumps(changed(stored, path, value)))
        place = output / str(number)
        arguments = golden_sets.arguments(architecture, place, config=file, with_code=False)
        works = attempt(partial(convert, **arguments), file, path, value)
        assert works == place.exists()
        refused += not works
    assert refused > 10


def test_every_class_is_covered(goldens: Path) -> None:
    kinds = {type(make()).__name__ for make in CONFIGS.values()}
    assert kinds == {name for name in modeling_lavis.__all__ if name.endswith("Config")}
    kinds = {type(processor).__name__ for processor, _ in processors(str(goldens / "tokenizer")).values()}
    endings = ("Processor", "ProcessorTorchvision")
    assert kinds == {name for name in modeling_lavis.__all__ if name.endswith(endings)}
