"""Classes of a converted ALPRO question answering head: from a list, from the checkpoint, or the published number."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from modeling_lavis import AlproConfig
from modeling_lavis.hub.convert import convert
from tests.conversion.golden_sets import GOLDENS, TOKENIZER, arguments, settings, weights

PRETRAINING = GOLDENS / "transfer" / "alpro_pretrain.pth"
HEADS = {"vision": {"num_heads": 4}, "text": {"num_attention_heads": 4}}
NAMES = ["yes", "no", "red", "two"]


def convert_pretraining(output: Path, config: dict[str, Any], model_type: str | None = None) -> Any:
    given = HEADS | config
    report = convert("alpro_qa", PRETRAINING, output, model_type=model_type, config=given, tokenizer=TOKENIZER)
    model = AutoModel.from_pretrained(output)
    assert type(model).__name__ == "AlproForVideoQuestionAnswering"
    assert {name for name in report.initialised if name.startswith("classifier.")} == {
        f"classifier.{index}.{kind}" for index in (0, 2) for kind in ("weight", "bias")
    }
    return model


@pytest.mark.parametrize("model_type", [None, "msvd"])
@pytest.mark.parametrize(
    "labels",
    [NAMES, {name: number for number, name in enumerate(NAMES)}, {str(n): name for n, name in enumerate(NAMES)}],
    ids=["list", "answer to id", "id to answer"],
)
def test_labels_set_the_number_of_classes(tmp_path: Path, labels: Any, model_type: str | None) -> None:
    model = convert_pretraining(tmp_path / "repo", {"labels": labels}, model_type)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id == {name: number for number, name in enumerate(NAMES)}
    assert model.classifier[2].weight.shape[0] == 4 and 0.01 < model.classifier[2].weight.std() < 0.03
    name = "vision_model.blocks.0.attn.qkv.weight"
    source = torch.load(PRETRAINING, weights_only=True)["model"]["visual_encoder.model.blocks.0.attn.qkv.weight"]
    assert torch.equal(model.state_dict()[name], source)


@pytest.mark.parametrize(("model_type", "number"), [("msrvtt", 1500), ("msvd", 2423)])
def test_published_number_of_classes(tmp_path: Path, model_type: str, number: int) -> None:
    model = convert_pretraining(tmp_path / "repo", {}, model_type)
    assert model.classifier[2].weight.shape[0] == number == model.config.num_labels
    assert model.config.id2label[0] == "LABEL_0" and model.config.vision_config.num_frames == 16


def test_num_classes(tmp_path: Path) -> None:
    assert convert_pretraining(tmp_path / "repo", {"num_classes": 3}).config.num_labels == 3


def test_unknown_number_of_classes_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="number of classes is unknown"):
        convert_pretraining(tmp_path / "repo", {})
    assert not (tmp_path / "repo").exists()


def test_labels_of_a_fine_tuned_checkpoint(tmp_path: Path) -> None:
    names = [*NAMES, "blue"]
    given = settings("alpro_qa") | {"labels": names}
    report = convert(**arguments("alpro_qa", tmp_path / "repo", config=given))
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert model.config.id2label == dict(enumerate(names)) and not report.initialised
    assert torch.equal(model.classifier[2].weight, weights("alpro_qa")["classifier.2.weight"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (NAMES, "4 labels are given, 4 of them distinct, for 5 classes"),
        ([*NAMES, "yes"], "5 labels are given, 4 of them distinct, for 5 classes"),
        ({"yes": 0, "no": 1, "red": 2, "two": 3, "blue": 9}, "ids range from 0 to 9; expected each of 0 to 4"),
        ({"yes": 0, "no": 1, "red": 2, "two": 3, "blue": 3}, "same id"),
        ({"a": "yes", "b": "no", "c": "red", "d": "two", "e": "blue"}, "a list of names, or a mapping"),
    ],
)
def test_labels_that_do_not_fit_the_classifier_raise(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(**arguments("alpro_qa", tmp_path / "repo", config=settings("alpro_qa") | {"labels": labels}))
    assert not (tmp_path / "repo").exists()


def test_configuration_derives_label2id() -> None:
    assert AlproConfig(id2label=dict(enumerate(NAMES))).label2id == {name: n for n, name in enumerate(NAMES)}
