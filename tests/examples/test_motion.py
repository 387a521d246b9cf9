"""The motion example: rendered clips, augmentation, metrics, and a short training run."""

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


def foreground_position(frame: np.ndarray) -> tuple[float, float, int]:
    """Mean row and column of the foreground pixels of a frame, and their number."""
    background = frame[0, 0].astype(int)
    rows, columns = np.nonzero(np.abs(frame.astype(int) - background).sum(-1) > 90)
    return rows.mean(), columns.mean(), len(rows)


MOVES = {"moves left": (1, -1), "moves right": (1, 1), "moves up": (0, -1), "moves down": (0, 1)}
SIZES = {"grows": 1, "shrinks": -1}


def shows(frames: np.ndarray, answer: str) -> bool:
    """Whether a clip shows the motion that an answer describes."""
    first, last = foreground_position(frames[0]), foreground_position(frames[-1])
    if answer in MOVES:
        axis, sign = MOVES[answer]
        return (last[axis] - first[axis]) * sign > 8 and abs(last[1 - axis] - first[1 - axis]) < 4
    if answer in SIZES:
        return (last[2] - first[2]) * SIZES[answer] > 100
    return abs(last[0] - first[0]) < 4 and abs(last[1] - first[1]) < 4 and abs(last[2] - first[2]) < 100


def motion_rows(scripts: dict[str, ModuleType], data: Path) -> tuple[list[dict[str, Any]], Any, dict[str, np.ndarray]]:
    train_motion = scripts["train_motion"]
    rows = train_motion.read_rows(data, "train")
    processor = train_motion.make_processor([row["question"] for row in rows])
    return rows, processor, train_motion.read_clips(data, rows, processor)


def test_clips_show_the_motion_of_their_answers(scripts: dict[str, ModuleType], data: Path) -> None:
    rows, _, clips = motion_rows(scripts, data)
    about_motion = [row for row in rows if "color" not in row["question"]]
    assert {row["answer"] for row in about_motion} == set(scripts["render_clips"].MOTIONS)
    for row in about_motion:
        assert clips[row["video"]].shape == (16, 64, 64, 3) and shows(clips[row["video"]], row["answer"]), row
    with pytest.raises(OSError, match="render_clips.py"):
        scripts["train_motion"].read_rows(data, "test")


def test_augmented_clips_have_matching_answers(scripts: dict[str, ModuleType], data: Path) -> None:
    train_motion = scripts["train_motion"]
    rows, _, clips = motion_rows(scripts, data)
    drawn = train_motion.MotionQuestions(rows, clips, share_of_motion=1.0)
    seen = set()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for _ in range(4):
            for index in range(len(drawn)):
                for row in (drawn[index], train_motion.reverse_in_time(drawn[index])):
                    assert shows(row["video"], row["answer"]), row["answer"]
                    seen.add((index, row["answer"]))
    assert max(sum(number == index for number, _ in seen) for index in range(len(drawn))) == 2
    assert "color" in train_motion.MotionQuestions(rows, clips, share_of_motion=0.0)[0]["question"]


class Oracle:
    """A model that computes the answer from the order of the frames."""

    def __init__(self, answers: list[str]) -> None:
        self.answers = answers
        self.config = type("Config", (), {"label2id": {answer: number for number, answer in enumerate(answers)}})

    def __call__(self, pixel_values_videos: torch.Tensor, **inputs: Any) -> Any:
        scores = [[float(shows(clip.numpy(), answer)) for answer in self.answers] for clip in pixel_values_videos]
        return type("Output", (), {"logits": torch.tensor(scores)})


def stack_videos(videos: list[np.ndarray], text: list[str], return_tensors: str) -> dict[str, torch.Tensor]:
    return {"pixel_values_videos": torch.from_numpy(np.stack(videos))}


def test_metrics(scripts: dict[str, ModuleType], data: Path) -> None:
    rows, _, clips = motion_rows(scripts, data)
    measure_motion = scripts["measure_motion"]
    oracle = Oracle(sorted({row["answer"] for row in rows}))
    figures = measure_motion.measure(oracle, stack_videos, rows, clips, shuffles=20)
    order = figures["needs the order"]
    assert order["count"] == 12 and order["accuracy"] == order["of_pair"] == 1
    assert order["shuffled_of_pair"] < 0.6  # ties are wrong
    assert set(figures["color"]) == {"count", "accuracy", "shuffled_accuracy"}
    table = measure_motion.format_table(figures)
    assert "| needs the order | 12 | 100.0 | 100.0 |" in table and len(table.splitlines()) == 2 + len(figures)


@pytest.mark.slow
def test_trained_model_depends_on_the_order_of_frames(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    scripts["render_clips"].render(tmp_path / "clips", train=SHORT_RUN["clips"], val=96)
    figures = scripts["train_motion"].train(
        tmp_path / "clips", tmp_path / "model", epochs=SHORT_RUN["epochs"], hidden_size=64, layers=2, learning_rate=2e-3
    )
    assert figures == json.loads((tmp_path / "model" / "figures.json").read_text())
    order = figures["needs the order"]
    assert order["count"] == 72
    assert order["accuracy"] >= 0.9 and order["of_pair"] >= 0.9
    # with shuffled frames, an answer and its opposite are equally likely
    assert 0.4 <= order["shuffled_of_pair"] <= 0.6
    assert order["shuffled_accuracy"] <= 0.6
    assert figures["color"]["accuracy"] >= 0.9 and figures["color"]["shuffled_accuracy"] >= 0.9


SHORT_RUN = {"clips": 320, "epochs": 40}
