"""The page about BLIP-2: its examples run one after the other on tiny models, and do what it says."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlip2ForPreTraining
from modeling_lavis.cli.main import main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "blip2.md"


def sections() -> dict[str, str]:
    """The Python examples by the heading that they stand under."""
    parts = re.split(r"^## (.*)$", PAGE.read_text(), flags=re.MULTILINE)[1:]
    found = {}
    for heading, text in zip(parts[::2], parts[1::2], strict=True):
        found[heading] = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
    return {heading: code for heading, code in found.items() if code}


def convert_recorded(goldens: Path, architecture: str, output: Path) -> str:
    source = goldens / architecture
    options = ["--config", source / "config.json", "--tokenizer", goldens / "tokenizer"]
    if architecture != "blip2_image_text_matching":  # whose tower was trained
        options += ["--vision-checkpoint", source / "vision.pth"]
    if (source / "llm").is_dir():
        options += ["--language-model", source / "llm"]
    with redirect_stdout(io.StringIO()):
        assert main(["convert", architecture, *map(str, (source / "checkpoint.pth", output, *options))]) == 0
    return str(output)


@pytest.fixture(scope="module")
def names(goldens: Path, tmp_path_factory: pytest.TempPathFactory, photos: dict[str, Path]) -> dict[str, Any]:
    """What the examples take for granted; each adds what the next ones go on with."""
    folder = tmp_path_factory.mktemp("page")
    return {
        "repository": convert_recorded(goldens, "blip2_opt", folder / "opt"),
        "matching_repository": convert_recorded(goldens, "blip2_image_text_matching", folder / "matching"),
        "first_stage": convert_recorded(goldens, "blip2", folder / "stage-1"),
        "picture": str(photos["coffee"]),
        "rows": [
            {"image": str(path), "caption": f"a {word} {name}", "image_id": name}
            for name, path in photos.items()
            for word in ("dog", "man")
        ][:8],
    }


def run(heading: str, names: dict[str, Any]) -> None:
    exec(compile(sections()[heading], f"{PAGE}, {heading}", "exec"), names)


def moved(before: Any, after: Any) -> set[str]:
    own = after.state_dict()
    return {name.partition(".")[0] for name, value in before.state_dict().items() if not torch.equal(value, own[name])}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    return tmp_path


def test_captions_and_answers(names: dict[str, Any], place: Path) -> None:
    run("Captions and answers", names)
    assert names["prompts"] == ["Question: what is this? Short answer:"]
    for texts in (names["caption"], names["answers"]):
        assert len(texts) == 1 and "photo of" not in texts[0] and "Question" not in texts[0]


def test_matching(names: dict[str, Any], place: Path) -> None:
    run("Captions and answers", names)
    run("Matching", names)
    assert names["similarity"].shape == (1, 2)
    matched = names["matched"]
    with torch.no_grad():
        one = {name: value[1:] for name, value in names["texts"].items()}
        alone = names["matcher"](pixel_values=names["inputs"]["pixel_values"], **one, match_head="itm").logits
    torch.testing.assert_close(matched.logits[1:], alone, atol=1e-5, rtol=1e-4)


def test_the_first_stage(names: dict[str, Any], place: Path) -> None:
    pytest.importorskip("accelerate")
    run("Captions and answers", names)
    run("The first stage", names)
    assert names["trainer"].state.global_step == 2
    changed = moved(LavisBlip2ForPreTraining.from_pretrained(names["first_stage"]), names["model"])
    assert {"query_tokens", "qformer", "cls", "itm_head", "temp"} <= changed and "vision_model" not in changed


def test_the_second_stage(names: dict[str, Any], place: Path) -> None:
    pytest.importorskip("accelerate")
    for heading in ("Captions and answers", "Matching", "The first stage", "The second stage"):
        run(heading, names)
    before = LavisBlip2ForConditionalGeneration.from_pretrained(names["repository"])
    changed = moved(before, names["model"])
    assert {"query_tokens", "qformer", "language_projection"} <= changed
    assert not changed & {"vision_model", "language_model"}
    small = LavisBlip2ForConditionalGeneration.from_pretrained(place / "blip2-small")
    assert not moved(names["model"], small)
    stored = sum(file.stat().st_size for file in place.glob("blip2-small/*.safetensors"))
    assert stored < sum(value.numel() * value.element_size() for value in small.parameters())


def test_at_size(names: dict[str, Any], place: Path) -> None:
    for package in ("accelerate", "peft", "bitsandbytes"):
        pytest.importorskip(package)
    names["torch"] = torch
    names["model"] = LavisBlip2ForConditionalGeneration.from_pretrained(names["repository"])
    names["LavisBlip2ForConditionalGeneration"] = LavisBlip2ForConditionalGeneration
    run("At size", names)
    again = LavisBlip2ForConditionalGeneration.from_pretrained(place / "blip2-8bit")
    assert again.language_model.model.decoder.layers[0].fc1.weight.dtype is torch.int8
    learnt = {name for name, value in names["adapted"].named_parameters() if value.requires_grad}
    assert learnt and all(".lora_" in name or ".language_projection." in name for name in learnt)


def test_every_example_is_run() -> None:
    here = Path(__file__).read_text()
    assert all(f'"{heading}"' in here for heading in sections())


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text())
    assert links and [link for link in links if not (PAGE.parent / link).exists()] == []
