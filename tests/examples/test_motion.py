"""The motion example: clips drawn and encoded here, an epoch of training, and figures that tell order from chance."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from .example_scripts import EXAMPLES, load_script

pytest.importorskip("av", reason="clips need the extra [video]")
pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The three scripts, which import each other by name."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "motion"))
    return SimpleNamespace(**{name: load_script(f"motion/{name}_{of}") for name, of in _SCRIPTS.items()})


_SCRIPTS = {"render": "clips", "train": "motion", "measure": "motion"}


def test_clips_move_as_their_answers_say(scripts: Any, tmp_path: Path) -> None:
    assert scripts.render.render(tmp_path, train=8, val=8) == {"train": 16, "val": 16}
    rows = [row for row in scripts.train.read_rows(tmp_path, "train") if not scripts.train.about_color(row)]
    processor = scripts.train.make_processor([row["question"] for row in rows])
    clips = scripts.train.read_clips(tmp_path, rows, processor)
    found = {}
    for row in rows:
        frames = clips[row["video"]].astype(float)
        shape = np.abs(frames - frames[:, :1, :1]).sum(-1) > 120  # what is not the ground
        place = [np.argwhere(mask).mean(axis=0) for mask in (shape[0], shape[-1])]
        found[row["answer"]] = (*(place[1] - place[0]), shape[-1].sum() / shape[0].sum())
    assert found["moves left"][1] < -10 and found["moves right"][1] > 10
    assert found["moves up"][0] < -10 and found["moves down"][0] > 10
    assert found["grows"][2] > 2 and found["shrinks"][2] < 0.5
    assert all(abs(number) < 3 for number in found["stays still"][:2])


def test_a_short_run(scripts: Any, tmp_path: Path) -> None:
    data, output = tmp_path / "clips", tmp_path / "model"
    scripts.render.render(data, train=16, val=8)
    figures = scripts.train.train(data, output, epochs=1, width=32, layers=1)
    assert json.loads((output / "figures.json").read_text()) == figures
    assert figures["needs the order"]["count"] == 6
    assert "| left or right | 2 |" in scripts.measure.format_table(figures)


def test_who_sees_no_order_is_right_half_the_time(scripts: Any) -> None:
    """Answers by the first frame alone: perfect in order, a coin when the frames are shuffled."""
    answers = ["moves left", "moves right"]

    class First(torch.nn.Module):
        config = SimpleNamespace(label2id={answer: i for i, answer in enumerate(answers)})

        def forward(self, videos: list[np.ndarray], **kwargs: Any) -> SimpleNamespace:
            right = torch.tensor([video[0].mean() < video[-1].mean() for video in videos]).float()
            return SimpleNamespace(logits=torch.stack([1 - right, right], dim=1))

    clip = np.arange(8, dtype=float)[:, None, None, None].repeat(3, axis=3)
    rows = [{"video": str(i), "question": "what?", "answer": answers[i % 2]} for i in range(40)]
    clips = {str(i): clip if i % 2 else clip[::-1] for i in range(40)}
    processor = lambda videos, text, return_tensors: {"videos": videos}  # noqa: E731
    figures = scripts.measure.measure(First(), processor, rows, clips)["needs the order"]
    assert figures["accuracy"] == figures["of_pair"] == 1
    assert abs(figures["shuffled_of_pair"] - 0.5) < 0.1
