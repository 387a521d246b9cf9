"""Heads from checkpoints of other heads: Auto classes by task, starts for training, and what a checkpoint lacks."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoModelForPreTraining

import modeling_lavis
from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisEvaModel, LavisViTModel
from modeling_lavis.embedded import embedded_model_path
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case, assert_same_state

MODULES = (albef_cases, alpro_cases, lavis_blip_cases, lavis_blip_2_cases)
CASES = {case.name: case for module in MODULES for case in module.CASES}
AUTO_CLASSES = sorted({name for case in CASES.values() for name in case.auto_classes})


def auto_class(name: str) -> Any:
    return getattr(modeling_lavis if name in modeling_lavis.__all__ else transformers, name)


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every head, with one hidden size for images and texts."""
    root = tmp_path_factory.mktemp("repositories")
    for name, case in CASES.items():
        case.model(vision={"hidden_size": 16}).save_pretrained(root / name)
    return {name: root / name for name in CASES}


def family(name: str) -> str:
    return name.partition("For")[0].removesuffix("Model")


# ---- adapters ----


def save_adapter(base: Path, folder: Path, **options: Any) -> Any:
    """A saved adapter whose base is a repository."""
    peft = pytest.importorskip("peft", reason="adapters need the extra [train]")
    model = AutoModel.from_pretrained(base)
    targets = modeling_lavis.lora_target_modules(model)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **options)
    )
    adapted.save_pretrained(folder)
    return adapted


def test_adapters_are_loaded_as_their_base_is(repositories: dict[str, Path], tmp_path: Path) -> None:
    """Weights under other names are found, and heads that the base lacks are errors."""
    captioner = modeling_lavis.LavisBlipForConditionalGeneration
    save_adapter(repositories["LavisBlipForPreTraining"], tmp_path / "pretraining")
    base = captioner.from_pretrained(repositories["LavisBlipForPreTraining"])
    loaded = dict(captioner.from_pretrained(tmp_path / "pretraining").named_parameters())
    assert any("lora_A" in name for name in loaded)
    for name, value in base.named_parameters():
        owner, _, leaf = name.rpartition(".")
        found = loaded.get(name)
        assert torch.equal(value, loaded[f"{owner}.base_layer.{leaf}"] if found is None else found), name
    save_adapter(repositories["LavisBlipForImageTextRetrieval"], tmp_path / "retrieval")
    with pytest.raises(ValueError, match="is a checkpoint of LavisBlipForImageTextRetrieval, which has no weights for"):
        captioner.from_pretrained(tmp_path / "retrieval")
    assert captioner.from_pretrained(tmp_path / "retrieval", allow_new_weights=True)


def test_modules_of_an_adapter_are_not_new(repositories: dict[str, Path], tmp_path: Path) -> None:
    head = modeling_lavis.LavisBlipForImageAndTextClassification
    save_adapter(repositories[head.__name__], tmp_path, modules_to_save=["cls_head"])
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text())
    values["base_model_name_or_path"] = str(repositories["LavisBlipForImageTextRetrieval"])
    path.write_text(json.dumps(values))
    options = {"num_labels": AutoModel.from_pretrained(repositories[head.__name__]).config.num_labels}
    saved = load_file(tmp_path / "adapter_model.safetensors")["base_model.model.cls_head.0.weight"]
    classifier = head.from_pretrained(tmp_path, **options).cls_head.modules_to_save["default"]
    assert torch.equal(classifier[0].weight, saved)
    path.write_text(json.dumps({**values, "base_model_name_or_path": None}))
    with pytest.raises(
        ValueError, match="adapter_config.json of .* base_model_name_or_path is None; expected a folder"
    ):
        head.from_pretrained(tmp_path)


# ---- Auto classes ----


@pytest.mark.parametrize("name", CASES)
def test_auto_model_gives_the_saved_head(name: str, repositories: dict[str, Path]) -> None:
    assert type(AutoModel.from_pretrained(repositories[name])).__name__ == name


@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_the_auto_class_of_a_task_gives_its_head_or_an_error(name: str, repositories: dict[str, Path]) -> None:
    found = 0
    for case in CASES.values():
        if name not in case.auto_classes:
            continue
        for other in CASES:
            if family(other) != family(case.name):
                continue
            try:
                model = auto_class(name).from_pretrained(repositories[other])
            except ValueError as error:
                assert other != case.name
                assert str(repositories[other]) in str(error) or "two images" in str(error) or "use_text" in str(error)
            else:
                assert type(model) is case.model_class
                found += 1
    assert found >= 1


@pytest.mark.parametrize(
    ("name", "source", "head", "training"),
    [
        ("AutoModelForImageTextToText", "LavisBlipForPreTraining", "LavisBlipForConditionalGeneration", "labels"),
        ("AutoModelForVisualQuestionAnswering", "LavisBlipForPreTraining", "LavisBlipForQuestionAnswering", "labels"),
        ("AutoModelForImageTextRetrieval", "LavisBlipForPreTraining", "LavisBlipForImageTextRetrieval", "return_loss"),
        ("AutoModelForImageTextRetrieval", "AlbefForPreTraining", "AlbefForImageTextRetrieval", "return_loss"),
        (
            "AutoModelForImageTextRetrieval",
            "LavisBlip2ForPreTraining",
            "LavisBlip2ForImageTextRetrieval",
            "return_loss",
        ),
        (
            "AutoModelForZeroShotImageClassification",
            "LavisBlipForPreTraining",
            "LavisBlipForImageTextRetrieval",
            "return_loss",
        ),
    ],
)
def test_heads_of_tasks_from_pretraining(
    name: str, source: str, head: str, training: str, repositories: dict[str, Path]
) -> None:
    model, info = auto_class(name).from_pretrained(repositories[source], output_loading_info=True)
    assert type(model).__name__ == head
    given, found = AutoModel.from_pretrained(repositories[source]).state_dict(), model.state_dict()
    names = {name: name for name in found}
    if "text_decoder.bert.embeddings.LayerNorm.weight" in found:  # encoder and decoder share what is not self-attention
        names = {n: n.replace("text_decoder.bert", "text_encoder") if n not in given else n for n in found}
    learned = [n for n in found if n in dict(model.named_parameters()) and "_m." not in n]
    assert learned
    for n in learned:
        assert torch.equal(found[n], given[names[n]]), n
    case = CASES[head]
    assert training in case.training(3)
    assert model(**case.inputs(3), **case.training(3)).loss.isfinite()


def test_embedded_checkpoint_as_a_captioner() -> None:
    model = AutoModelForImageTextToText.from_pretrained(embedded_model_path(), dtype=torch.float32)
    pretraining = AutoModelForPreTraining.from_pretrained(embedded_model_path(), dtype=torch.float32)
    assert type(model).__name__ == "LavisBlipForConditionalGeneration"
    pixels = torch.rand(2, 3, 72, 72, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.generate(pixels), pretraining.generate(pixels))
    ids = torch.randint(5, 900, (2, 6), generator=torch.Generator().manual_seed(0))
    assert model(pixel_values=pixels, input_ids=ids, labels=ids).loss.isfinite()


# ---- what a checkpoint lacks ----


def test_missing_modules_are_named(repositories: dict[str, Path]) -> None:
    captioner = repositories["LavisBlipForConditionalGeneration"]
    with pytest.raises(ValueError) as caught:
        modeling_lavis.AutoModelForImageTextRetrieval.from_pretrained(captioner)
    message = str(caught.value)
    assert message.startswith(f"{captioner} is a checkpoint of LavisBlipForConditionalGeneration, which has no weights")
    assert "text_encoder, vision_proj, text_proj, itm_head" in message
    assert "load this one by AutoModel" in message and "allow_new_weights=True" in message


def test_a_language_model_is_named(repositories: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"LavisBlip2ForPreTraining, which has no language model .*frozen_parts="):
        AutoModelForImageTextToText.from_pretrained(repositories["LavisBlip2ForPreTraining"])


def test_a_decoder_of_answers_is_no_captioner(repositories: dict[str, Path]) -> None:
    source, head = repositories["LavisBlipForQuestionAnswering"], modeling_lavis.LavisBlipForConditionalGeneration
    with pytest.raises(
        ValueError, match="LavisBlipForQuestionAnswering, which has a decoder that cross-attends to quest"
    ):
        head.from_pretrained(source)
    assert isinstance(head.from_pretrained(source, allow_new_weights=True), head)


def test_cross_attention_of_another_hidden_size_is_new(tmp_path: Path) -> None:
    """The answer decoder attends to hidden states of the text encoder, that of pretraining to the image encoder."""
    CASES["LavisBlipForPreTraining"].model().save_pretrained(tmp_path)
    head = modeling_lavis.LavisBlipForQuestionAnswering
    with pytest.raises(ValueError, match=r"crossattention\.self\.key\.weight.*2 more of text_decoder"):
        head.from_pretrained(tmp_path)
    model = head.from_pretrained(tmp_path, allow_new_weights=True)
    words = model.text_encoder.get_input_embeddings().weight
    assert torch.equal(model.text_decoder.get_input_embeddings().weight, words)


@pytest.mark.parametrize("name", [name for name in CASES if "Blip2" not in name])
def test_new_weights_of_its_own_class(name: str, repositories: dict[str, Path], tmp_path: Path) -> None:
    case, folder = CASES[name], tmp_path / "partial"
    shutil.copytree(repositories[name], folder)
    weights = load_file(folder / "model.safetensors")
    lost = [key for key in weights if key.startswith("vision_model.blocks.1.") and "norm1" in key]
    save_file({key: value for key, value in weights.items() if key not in lost}, folder / "model.safetensors")
    with pytest.raises(
        ValueError, match=rf"{folder} has no weights for {lost[0].rpartition('.')[0]}.*complete checkpoint"
    ):
        case.model_class.from_pretrained(folder)
    for model in (
        case.model_class.from_pretrained(folder, allow_new_weights=True),
        AutoModel.from_pretrained(folder, allow_new_weights=True),
    ):
        assert type(model) is case.model_class
    _, info = case.model_class.from_pretrained(folder, output_loading_info=True)
    assert set(lost) <= set(info["missing_keys"])


def test_new_weights_are_listed_once(repositories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    logger = logging.getLogger("transformers.modeling_utils")
    monkeypatch.setattr(logger, "warning", lambda message, *args: messages.append(message))
    modeling_lavis.LavisBlipForImageAndTextClassification.from_pretrained(
        repositories["LavisBlipForPreTraining"], allow_new_weights=True
    )
    assert "".join(messages).count("cls_head.{0, 2}.weight") == 1


def test_momentum_encoders_and_queues_need_no_permission(repositories: dict[str, Path], tmp_path: Path) -> None:
    for name in ("AlbefForImageTextRetrieval", "LavisBlipForPreTraining", "AlbefForQuestionAnswering"):
        case = CASES[name]
        case.model(use_momentum=False).save_pretrained(tmp_path / name)
        model = case.model_class.from_pretrained(tmp_path / name, use_momentum=True)
        assert torch.equal(model.vision_model_m.pos_embed, model.vision_model.pos_embed)


def test_image_encoder_of_a_whole_model(repositories: dict[str, Path], tmp_path: Path) -> None:
    whole = AutoModel.from_pretrained(repositories["LavisBlipModel"])
    assert_same_state(LavisViTModel.from_pretrained(repositories["LavisBlipModel"]), whole.vision_model)
    whole.text_encoder.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type is 'lavis_bert'; expected 'lavis_vit'"):
        LavisViTModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no weights for"):
        LavisViTModel.from_pretrained(tmp_path, config=whole.vision_model.config)


def test_subclasses_load_the_checkpoints_of_their_base(repositories: dict[str, Path]) -> None:
    class Mine(modeling_lavis.LavisBlipForConditionalGeneration):
        pass

    assert isinstance(Mine.from_pretrained(repositories["LavisBlipForConditionalGeneration"]), Mine)


def test_a_configuration_without_a_head(repositories: dict[str, Path], tmp_path: Path) -> None:
    """The head is read from the repository when a configuration is given, and a file may not say it."""
    case = CASES["LavisBlipForConditionalGeneration"]
    config = case.config(vision={"hidden_size": 16})
    assert config.architectures == []
    model = case.model_class.from_pretrained(repositories["LavisBlipForPreTraining"], config=config)
    assert isinstance(model, case.model_class)
    shutil.copytree(repositories[case.name], tmp_path / "copy")
    stored = json.loads((tmp_path / "copy" / "config.json").read_text())
    for names in (None, []):
        (tmp_path / "copy" / "config.json").write_text(json.dumps({**stored, "architectures": names}))
        assert isinstance(case.model_class.from_pretrained(tmp_path / "copy"), case.model_class)
        assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path / "copy"), case.model_class)
        with pytest.raises(ValueError, match="has no weights for text_encoder"):
            AutoModel.from_pretrained(tmp_path / "copy")
    assert type(AutoModel.from_config(config)).__name__ == "LavisBlipModel"


# ---- starts for training ----


def test_answer_decoder_from_fusion_layers(repositories: dict[str, Path]) -> None:
    """As in the original: the decoder starts as the fusion layers and the MLM head."""
    source = AutoModel.from_pretrained(repositories["AlbefForPreTraining"])
    model = modeling_lavis.AlbefForQuestionAnswering.from_pretrained(
        repositories["AlbefForPreTraining"], allow_new_weights=True
    )
    first = source.config.text_config.fusion_layer
    given, made = source.text_encoder.state_dict(), model.text_decoder.bert.state_dict()
    for name, value in made.items():
        parts = name.split(".")
        if parts[0] == "encoder":
            parts[2] = str(int(parts[2]) + first)
        assert torch.equal(value, given[".".join(parts)]), name
    assert torch.equal(model.text_decoder.cls.predictions.bias, source.mlm_head.predictions.bias)
    assert torch.equal(model.text_decoder_m.cls.predictions.bias, source.mlm_head.predictions.bias)


def test_two_images_start_with_the_cross_attention_of_one(repositories: dict[str, Path]) -> None:
    source = AutoModel.from_pretrained(repositories["LavisBlipForPreTraining"]).text_encoder
    head = modeling_lavis.LavisBlipForImagesAndTextClassification
    model = head.from_pretrained(repositories["LavisBlipForPreTraining"], allow_new_weights=True)
    for given, made in zip(source.encoder.layer, model.text_encoder.encoder.layer, strict=True):
        for number in "01":
            attention = getattr(made.crossattention, f"self{number}")
            assert torch.equal(attention.key.weight, given.crossattention.self.key.weight)
            dense = getattr(made.crossattention.output, f"dense{number}")
            assert torch.equal(dense.weight, given.crossattention.output.dense.weight)


def test_pairs_of_fusion_layers_start_from_single_ones(tmp_path: Path) -> None:
    """Keys and values of a pair are those of its second layer, as in the original; the upper layers are new."""
    source = CASES["AlbefForPreTraining"].model()
    source.save_pretrained(tmp_path)
    head = modeling_lavis.AlbefForImagesAndTextClassification
    model = head.from_pretrained(tmp_path, allow_new_weights=True)
    text = source.config.text_config
    assert model.config.text_config.num_hidden_layers == text.num_hidden_layers + 2 and text.fusion_layer == 1
    given, made = source.text_encoder.encoder.layer, model.text_encoder.encoder.layer
    for layer in (1, 2):
        assert torch.equal(made[layer].crossattention.self.key.weight, given[2].crossattention.self.key.weight)
        assert torch.equal(made[layer].crossattention.self.query.weight, given[layer].crossattention.self.query.weight)
    assert made[3].crossattention.self.key.weight is made[4].crossattention.self.key.weight
    model.save_pretrained(tmp_path / "again")
    assert_same_state(head.from_pretrained(tmp_path / "again"), model)
    case = CASES[head.__name__]
    assert model(**case.inputs(2), **case.training(2)).loss.isfinite()


def test_models_for_two_images_are_no_others(repositories: dict[str, Path]) -> None:
    for name in ("AlbefForImagesAndTextClassification", "LavisBlipForImagesAndTextClassification"):
        for head in CASES.values():
            if family(head.name) == family(name) and head.name != name:
                with pytest.raises(ValueError, match=rf"two images .* {head.name} takes one image"):
                    head.model_class.from_pretrained(repositories[name])


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_second_stage_from_the_first(kind: str, repositories: dict[str, Path], tmp_path: Path) -> None:
    language_model = lavis_blip_2_cases.second_stage(kind).language_model
    language_model.save_pretrained(tmp_path / "language")
    first = repositories["LavisBlip2ForPreTraining"]
    options: dict[str, Any] = {"frozen_parts": {"language_model": str(tmp_path / "language")}}
    with pytest.raises(ValueError, match="LavisBlip2ForPreTraining, which has no weights for language_projection"):
        LavisBlip2ForConditionalGeneration.from_pretrained(first, **options)
    model = LavisBlip2ForConditionalGeneration.from_pretrained(first, allow_new_weights=True, **options)
    assert_same_state(model.language_model, language_model)
    assert torch.equal(model.query_tokens, AutoModel.from_pretrained(first).query_tokens)
    assert model.config.frozen_parts is None and not model.config.qformer_config.use_text
    model.save_pretrained(tmp_path / "second")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "second")
    assert_same_state(again, model)
    again.generate(pixel_values=lavis_blip_2_cases.pixels(1), input_ids=torch.tensor([[5]]), max_new_tokens=2)


# ---- sizes ----


@pytest.mark.parametrize("name", [name for name in CASES if "Blip2" not in name])
def test_sizes_that_do_not_fit_are_named(name: str, repositories: dict[str, Path]) -> None:
    model_class = CASES[name].model_class
    text = {"vocab_size": 71}
    with pytest.raises(ValueError, match=rf"{repositories[name]} does not fit .*[(]71,.*text_config.vocab_size 71"):
        model_class.from_pretrained(repositories[name], text_config=text)
    with pytest.raises(ValueError, match=r"pos_embed.* vision_config.image_size 48 and vision_config.patch_size 16"):
        model_class.from_pretrained(repositories[name], vision_config={"image_size": 48})
    changed = model_class.from_pretrained(repositories[name], text_config=text, ignore_mismatched_sizes=True)
    assert changed.config.text_config.vocab_size == 71


@pytest.mark.parametrize("kind", [LavisViTModel, LavisEvaModel])
def test_encoders_that_were_trained_with_an_mlp_that_is_one_short(kind: Any, tmp_path: Path) -> None:
    """Earlier versions built `int(hidden_size * mlp_ratio)`."""
    width, size = 100, 115
    assert int(width * (size / width)) == size - 1
    options = {"image_size": 32, "patch_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = kind(kind.config_class(hidden_size=width, intermediate_size=size - 1, **options))
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["intermediate_size"]
    (tmp_path / "config.json").write_text(json.dumps({**stored, "mlp_ratio": size / width}))
    again = kind.from_pretrained(tmp_path)
    assert again.config.intermediate_size == size - 1
    assert_same_state(again, model)


def test_whole_models_with_an_mlp_that_is_one_short(tmp_path: Path) -> None:
    case = CASES["LavisBlipForConditionalGeneration"]
    vision = {"hidden_size": 100, "intermediate_size": 114}
    model = case.model(vision=vision)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["vision_config"]["intermediate_size"]
    stored["vision_config"]["mlp_ratio"] = 1.15
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert_same_state(AutoModelForImageTextToText.from_pretrained(tmp_path), model)


def test_case_names() -> None:
    assert all(isinstance(case, Case) for case in CASES.values()) and len(CASES) > 15
