"""The page about ALPRO: its examples run on tiny models and real clips, and do what it says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis import AlproForVideoQuestionAnswering
from modeling_lavis.cli.main import main
from tests.models.video_clips import write_clip
from tests.pipelines.tiny_video_models import ANSWERS, save_video_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "alpro.md"
ASK, MEASURE, FRAMES, TUNE = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> dict[str, Any]:
    """What the page says that it is given."""
    heads = {"asker": "ForVideoQuestionAnswering", "matcher": "ForVideoTextRetrieval"}
    made: dict[str, Any] = {
        name: str(save_video_model(tmp_path_factory.mktemp(name), head, goldens / "tokenizer"))
        for name, head in heads.items()
    }
    folder = tmp_path_factory.mktemp("films")
    made["films"] = [str(write_clip(folder / name, frames=12)) for name in ("one.mp4", "two.mkv", "three.mp4")]
    made["captions"] = ["a dog", "the man in a red house", "a ball"]
    questions = {"run": "what is it doing?", "sleep": "what does the dog do?", "fly": "what now?"}
    made["rows"] = [
        {"video": film, "question": question, "answer": answer}
        for film in made["films"]
        for answer, question in questions.items()
    ]
    return made


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, str(PAGE), "exec"), names)


def test_ask_and_search(names: dict[str, Any]) -> None:
    run(ASK, names)
    assert len(names["best"]) == 1 and names["best"][0]["answer"] in ANSWERS.values()
    assert len(names["found"]) == 2 and {row["video"] for row in names["found"]} < set(names["films"])


def test_measure_and_other_frames(names: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    run(MEASURE, names)
    printed = capsys.readouterr().out
    assert "R@1" in printed and "'R@5': 100.0" in printed
    run(FRAMES, names)
    assert names["inputs"]["pixel_values_videos"].shape == (3, 5, 3, 48, 48)
    assert names["output"].logits.shape == (3, 2) and names["output"].logits_per_video.shape == (3, 3)
    assert [place for place, _ in names["inputs"].skipped] == [3]


def test_fine_tuning(names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    run(TUNE, names)
    before = AlproForVideoQuestionAnswering.from_pretrained(names["asker"]).state_dict()
    after = AlproForVideoQuestionAnswering.from_pretrained(tmp_path / "alpro-mine-tuned").state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {"classifier.2.weight", "vision_model.time_embed", "text_encoder.embeddings.word_embeddings.weight"} <= moved
    assert names["trainer"].state.global_step == 10
    labels = names["collator"](names["rows"][:3])["labels"]
    assert labels.tolist() == [0, 2, -100]


def test_conversions_are_those_of_the_command(goldens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the page, on tiny checkpoints under the names of the page."""
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    files = {
        "alpro_msrvtt_retrieval.pt": "alpro_retrieval/checkpoint.pth",
        "alpro_msvd_qa.pth": "alpro_qa/checkpoint.pth",
        "alpro_pretrain.pt": "transfer/alpro_pretrain.pth",
    }
    for name, source in files.items():
        Path(name).write_bytes((goldens / source).read_bytes())
    sizes = {"vision": {"num_heads": 4, "num_frames": 4}, "text": {"num_attention_heads": 4, "fusion_layer": 2}}
    Path("sizes.json").write_text(json.dumps(sizes))
    Path("answers.json").write_text(json.dumps(sizes | {"labels": ["run", "jump", "sleep", "eat", "sing"]}))
    for line in block.splitlines():
        command, *arguments = line.split("#")[0].split()
        assert command == "modeling-lavis"
        # what full-size files need not be told
        config = [] if "--config" in arguments else ["--config", "sizes.json"]
        assert main([*arguments, *config, "--tokenizer", str(goldens / "tokenizer")]) == 0
    assert (tmp_path / "alpro-msrvtt" / "model.safetensors").exists()
    for folder in ("alpro-msvd", "alpro-mine"):
        assert AlproForVideoQuestionAnswering.from_pretrained(tmp_path / folder).config.id2label[1] == "jump"


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text(encoding="utf-8"))
    assert links and [link for link in links if not (PAGE.parent / link).exists()] == []
