"""The script of docs/collections.md for SLURM: two tasks of an array at the same time, and the job that merges them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_lavis.embedded import embedded_images, embedded_model_path
from tests.documentation.examples import find_examples

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_parts_of_an_array_are_merged(tmp_path: Path) -> None:
    page = ROOT / "docs" / "collections.md"
    array, merging = (e.code for e in find_examples(page) if e.heading == "SLURM without Ray" and e.language == "sh")
    command = f"{sys.executable} -m modeling_lavis"
    caption = f"{command} caption --device cpu --batch-size 2 --block-size 2"
    array = array.replace("modeling-lavis caption", caption)
    merging = 'sbatch() { bash -c "${@: -1}"; }\n' + merging.replace("modeling-lavis", command)
    photos = [str(image.path) for image in embedded_images()[:10]]
    (tmp_path / "photos.txt").write_text("\n".join([*photos[:5], "missing.jpg", *photos[5:]]) + "\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"MODEL": embedded_model_path(), "SLURM_ARRAY_TASK_COUNT": "2", "JOB": "1"}

    def start(script: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={**environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    tasks = [start(array, SLURM_ARRAY_TASK_ID=str(number)) for number in (1, 2)]
    printed = [task.communicate(timeout=200)[0] for task in tasks]
    assert sorted(task.returncode for task in tasks) == [0, 1], printed  # one part has the missing file
    merge = start(merging)
    text = merge.communicate(timeout=200)[0]
    assert merge.returncode == 1 and "10 of 11 inputs, 1 failed" in text, text
    whole = start(f"{caption} @photos.txt --model $MODEL --output whole.jsonl")
    assert whole.wait(timeout=200) == 1
    assert (tmp_path / "captions.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
