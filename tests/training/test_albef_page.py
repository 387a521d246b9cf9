"""The page about ALBEF: its example of fine-tuning runs, and what it says about the ramp and the memory is so."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis import AlbefForImageTextRetrieval
from tests.pipelines.albef_models import convert_recorded

PAGE = Path(__file__).resolve().parents[2] / "docs" / "albef.md"


def test_the_example_fine_tunes(
    goldens: Path, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "Trainer" in block]
    repository = convert_recorded(goldens, "albef_retrieval", tmp_path / "model")
    rows = [
        {"image": str(path), "caption": f"a {word} {name}", "image_id": name}
        for name, path in photos.items()
        for word in ("dog", "man")
    ]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    weights: list[float] = []
    weight_of = AlbefForImageTextRetrieval.soft_target_weight
    monkeypatch.setattr(
        AlbefForImageTextRetrieval,
        "soft_target_weight",
        lambda model, alpha: weights.append(weight_of(model, alpha)) or weights[-1],
    )
    names: dict[str, Any] = {"repository": repository, "rows": rows}
    exec(compile(code, str(PAGE), "exec"), names)
    before = AlbefForImageTextRetrieval.from_pretrained(repository)
    after = AlbefForImageTextRetrieval.from_pretrained(tmp_path / "albef-mine")
    moved = {name for name, value in before.state_dict().items() if not torch.equal(value, after.state_dict()[name])}
    assert {"image_queue", "idx_queue", "itm_head.weight", "vision_proj_m.weight"} <= moved
    state = names["trainer"].state
    assert state.global_step == 4 and state.log_history
    distinct = list(dict.fromkeys(weights))
    assert len(distinct) == 4 and distinct[0] == 0 and distinct == sorted(distinct), "the ramp of the example"
    assert names["trainer"].model.distill_alpha is None


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text())
    assert links and [link for link in links if not (PAGE.parent / link).exists()] == []
