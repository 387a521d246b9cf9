"""Commands with converted ALPRO models: answer, match and embed a video."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_lavis import AlproProcessor
from modeling_lavis.cli.main import main
from tests.cli.conftest import Result
from tests.models.video_clips import write_clip

Run = Callable[..., Result]
ANSWERS = ["run", "jump", "sleep", "eat", "sing"]
KINDS = {
    "qa": ("alpro_qa", "alpro_qa/checkpoint.pth", "AlproForVideoQuestionAnswering"),
    "retrieval": ("alpro_retrieval", "alpro_retrieval/checkpoint.pth", "AlproForVideoTextRetrieval"),
    "qa_from_pretraining": ("alpro_qa", "transfer/alpro_pretrain.pth", "AlproForVideoQuestionAnswering"),
    "retrieval_from_pretraining": ("alpro_retrieval", "transfer/alpro_pretrain.pth", "AlproForVideoTextRetrieval"),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_clip(tmp_path_factory.mktemp("clips") / "coffee.mp4", frames=12))


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("alpro"), {}
    for kind, (architecture, file, _) in KINDS.items():
        content = {"vision": {"num_heads": 4}, "text": {"num_attention_heads": 4, "fusion_layer": 2}}
        settings = folder / f"{kind}.json"
        settings.write_text(json.dumps(content | ({"labels": ANSWERS} if architecture == "alpro_qa" else {})))
        made[kind] = folder / kind
        options = ["--config", str(settings), "--tokenizer", str(goldens / "tokenizer")]
        assert main(["convert", architecture, str(goldens / file), str(made[kind]), *options]) == 0
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_repositories_are_complete(repositories: dict[str, Path], kind: str, clip: str) -> None:
    model, info = AutoModel.from_pretrained(repositories[kind], output_loading_info=True)
    processor = AutoProcessor.from_pretrained(repositories[kind])
    assert type(model).__name__ == KINDS[kind][2] and not any(info.values())
    assert isinstance(processor, AlproProcessor)
    inputs = processor(videos=clip, text="what is it?", return_tensors="pt")
    assert inputs["pixel_values_videos"].shape == (1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.isfinite(model.eval()(**inputs).logits if "qa" in kind else model(**inputs).logits_per_video).all()
    assert (repositories[kind] / "README.md").is_file()


@pytest.mark.parametrize("kind", ["qa", "qa_from_pretraining"])
def test_answer(run: Run, repositories: dict[str, Path], kind: str, clip: str) -> None:
    folder, question = repositories[kind], "What is it doing?"
    result = run("answer", "--json", "--question", question, "--top-k", 5, clip, model=str(folder))
    assert result.status == 0
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        scores = model(**processor(videos=clip, text=question, return_tensors="pt")).logits.softmax(-1)[0]
    answers = result.records[0]["answers"]
    assert [row["answer"] for row in answers] == [ANSWERS[number] for number in scores.argsort(descending=True)]
    assert [row["score"] for row in answers] == pytest.approx(scores.sort(descending=True).values.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["retrieval", "retrieval_from_pretraining"])
def test_match(run: Run, repositories: dict[str, Path], kind: str, clip: str) -> None:
    folder, texts = repositories[kind], ["a dog", "the man"]
    result = run("match", "--json", clip, "--text", *texts, model=str(folder))
    assert result.status == 0
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor(videos=[clip, clip], text=texts, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs, match_head="vtm").logits.softmax(-1)[:, 1]
    assert [row["score"] for row in result.records[0]["matches"]] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["retrieval", "retrieval_from_pretraining"])
def test_embed(run: Run, repositories: dict[str, Path], kind: str, clip: str) -> None:
    folder = repositories[kind]
    result = run("embed", "--json", clip, "--text", "a dog", model=str(folder))
    video, text = result.records
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    inputs = processor(videos=clip, text="a dog", return_tensors="pt")
    with torch.no_grad():
        expected = model.get_video_features(inputs["pixel_values_videos"]).pooler_output[0]
    np.testing.assert_allclose(video["video_features"], expected, atol=1e-5)
    with torch.no_grad():
        expected = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output[0]
    np.testing.assert_allclose(text["text_features"], expected, atol=1e-5)


def test_wrong_number_of_labels_is_an_error(goldens: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.json").write_text(
        json.dumps({"vision": {"num_heads": 4}, "text": {"num_attention_heads": 4}, "labels": ANSWERS[:4]})
    )
    options = ["--config", str(tmp_path / "settings.json"), "--tokenizer", str(goldens / "tokenizer")]
    checkpoint = str(goldens / "alpro_qa" / "checkpoint.pth")
    assert main(["convert", "alpro_qa", checkpoint, str(tmp_path / "repo"), *options]) == 1
    assert "4 labels are given, 4 of them distinct, for 5 classes" in capfd.readouterr().err
    assert not (tmp_path / "repo").exists()
