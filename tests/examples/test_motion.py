"""The example that learns how things move: its clips, its turns, its figures, and a smaller run of all of it."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from .example_scripts import EXAMPLES, load_script

pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")
pytest.importorskip("av", reason="clips are written by PyAV, of the extra [video]")


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES / "motion"))
        return {name: load_script(f"motion/{name}") for name in ("render_clips", "measure_motion", "train_motion")}


@pytest.fixture(scope="module")
def data(scripts: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    scripts["render_clips"].render(folder, train=16, val=8)
    return folder


def where(frame: np.ndarray) -> tuple[float, float, int]:
    """Row and column of what stands on the ground of a frame, and its pixels."""
    ground = frame[0, 0].astype(int)
    rows, columns = np.nonzero(np.abs(frame.astype(int) - ground).sum(-1) > 90)
    return rows.mean(), columns.mean(), len(rows)


CHANGES = {"moves left": (1, -1), "moves right": (1, 1), "moves up": (0, -1), "moves down": (0, 1)}
SIZES = {"grows": 1, "shrinks": -1}


def does(frames: np.ndarray, answer: str) -> bool:
    """Whether a clip shows what an answer says."""
    first, last = where(frames[0]), where(frames[-1])
    if answer in CHANGES:
        axis, sign = CHANGES[answer]
        return (last[axis] - first[axis]) * sign > 8 and abs(last[1 - axis] - first[1 - axis]) < 4
    if answer in SIZES:
        return (last[2] - first[2]) * SIZES[answer] > 100
    return abs(last[0] - first[0]) < 4 and abs(last[1] - first[1]) < 4 and abs(last[2] - first[2]) < 100


def motion_rows(scripts: dict[str, ModuleType], data: Path) -> tuple[list[dict[str, Any]], Any, dict[str, np.ndarray]]:
    train_motion = scripts["train_motion"]
    rows = train_motion.read_rows(data, "train")
    processor = train_motion.make_processor([row["question"] for row in rows])
    return rows, processor, train_motion.read_clips(data, rows, processor)


def test_clips_show_what_their_answers_say(scripts: dict[str, ModuleType], data: Path) -> None:
    rows, _, clips = motion_rows(scripts, data)
    about_motion = [row for row in rows if "color" not in row["question"]]
    assert {row["answer"] for row in about_motion} == set(scripts["render_clips"].MOTIONS)
    for row in about_motion:
        assert clips[row["video"]].shape == (16, 64, 64, 3) and does(clips[row["video"]], row["answer"]), row
    with pytest.raises(OSError, match="render_clips.py"):
        scripts["train_motion"].read_rows(data, "test")


def test_turned_clips_have_turned_answers(scripts: dict[str, ModuleType], data: Path) -> None:
    train_motion = scripts["train_motion"]
    rows, _, clips = motion_rows(scripts, data)
    drawn = train_motion.MotionQuestions(rows, clips, share_of_motion=1.0)
    seen = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(4):
            for place in range(len(drawn)):
                for row in (drawn[place], train_motion.backwards(drawn[place])):
                    assert does(row["video"], row["answer"]), row["answer"]
                    seen.add((place, row["answer"]))
    assert max(sum(number == place for number, _ in seen) for place in range(len(drawn))) == 2
    assert "color" in train_motion.MotionQuestions(rows, clips, share_of_motion=0.0)[0]["question"]


class Oracle:
    """A model that answers by what it can see, of all frames in their order or of the set of frames only."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers
        self.config = type("Config", (), {"label2id": {answer: number for number, answer in enumerate(answers)}})

    def __call__(self, pixel_values_videos: torch.Tensor, **inputs: Any) -> Any:
        scores = [[float(does(clip.numpy(), answer)) for answer in self.answers] for clip in pixel_values_videos]
        return type("Output", (), {"logits": torch.tensor(scores)})


def as_they_are(videos: list[np.ndarray], text: list[str], return_tensors: str) -> dict[str, torch.Tensor]:
    return {"pixel_values_videos": torch.from_numpy(np.stack(videos))}


def test_figures(scripts: dict[str, ModuleType], data: Path) -> None:
    rows, _, clips = motion_rows(scripts, data)
    measure_motion = scripts["measure_motion"]
    oracle = Oracle(sorted({row["answer"] for row in rows}))
    figures = measure_motion.measure(oracle, as_they_are, rows, clips, shuffles=20)
    order = figures["needs the order"]
    assert order["count"] == 12 and order["accuracy"] == order["of_pair"] == 1
    assert order["shuffled_of_pair"] < 0.6  # ties count as wrong
    assert set(figures["color"]) == {"count", "accuracy", "shuffled_accuracy"}
    table = measure_motion.format_table(figures)
    assert "| needs the order | 12 | 100.0 | 100.0 |" in table and len(table.splitlines()) == 2 + len(figures)


@pytest.mark.slow
def test_a_small_run_needs_the_order_of_frames(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    scripts["render_clips"].render(tmp_path / "clips", train=SMALL["clips"], val=96)
    figures = scripts["train_motion"].train(
        tmp_path / "clips", tmp_path / "model", epochs=SMALL["epochs"], width=64, layers=2, learning_rate=2e-3
    )
    assert figures == json.loads((tmp_path / "model" / "figures.json").read_text())
    order = figures["needs the order"]
    assert order["count"] == 72
    assert order["accuracy"] >= 0.9 and order["of_pair"] >= 0.9
    # without the order of frames: a guess between an answer and its opposite
    assert 0.4 <= order["shuffled_of_pair"] <= 0.6
    assert order["shuffled_accuracy"] <= 0.6
    assert figures["color"]["accuracy"] >= 0.9 and figures["color"]["shuffled_accuracy"] >= 0.9


SMALL = {"clips": 320, "epochs": 40}
