"""Inputs of the pipelines: types and modes of images, lists, datasets, generators, and errors."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_lavis.pipelines import TASKS, register
from modeling_lavis.pipelines.inputs import Failure, run_batches
from modeling_lavis.pipelines.loading import load
from tests.pipelines.comparison import approximate
from tests.pipelines.conftest import HEADS
from tests.pipelines.tiny_models import save_corrupt_images, save_images_of_every_mode

Pipe = Callable[..., Any]


def row_for(task: str, image: Any) -> dict[str, Any]:
    """A row for a task."""
    text = {"image-question-answering": {"question": "what is this?"}, "image-captioning": {}}.get(
        task, {"text": "a dog"}
    )
    return {**({"images": [image, image]} if "pair" in task else {"image": image}), **text}


ROW_TASKS = sorted(
    task for task in TASKS if task.startswith(("image-", "multimodal-")) and task != "image-text-retrieval"
)


@pytest.mark.parametrize("task", ROW_TASKS)
class TestEveryTask:
    """Behavior that all tasks with rows share."""

    def test_types_of_images(self, pipe: Pipe, photos: dict[str, Path], task: str) -> None:
        path = photos["coffee"]
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        array = np.array(image)
        images = [str(path), path, image, array, torch.from_numpy(array.transpose(2, 0, 1).copy())]
        results = [pipe(task)(row_for(task, image)) for image in images]
        assert all(str(result) == str(results[0]) for result in results)

    def test_generators_and_datasets_are_lazy(self, pipe: Pipe, files: list[str], task: str) -> None:
        run = pipe(task)
        expected = str(run([row_for(task, file) for file in files], batch_size=2))
        requested = []

        def rows() -> Any:
            for file in files:
                requested.append(file)
                yield row_for(task, file)

        results = run(rows(), batch_size=2)
        assert requested == []
        next(results)
        assert len(requested) < len(files)
        assert str(list(run(rows(), batch_size=2))) == expected
        assert str(list(run(iter([row_for(task, f) for f in files]), batch_size=2))) == expected
        dataset = datasets.Dataset.from_list([row_for(task, file) for file in files])
        assert str(list(run(dataset, batch_size=2))) == expected
        assert str(list(run(dataset.to_iterable_dataset(), batch_size=2))) == expected

    def test_corrupt_rows_do_not_stop_the_others(self, pipe: Pipe, files: list[str], tmp_path: Path, task: str) -> None:
        corrupt = save_corrupt_images(tmp_path, Path(files[0]))
        mixed = [str(corrupt[0]), files[0], str(corrupt[1]), str(corrupt[2]), files[1], str(corrupt[3])]
        run = pipe(task)
        results = run([row_for(task, file) for file in mixed], batch_size=2, on_error="return")
        expected = run([row_for(task, file) for file in files[:2]])
        assert str([results[1], results[4]]) == str(expected) or _close([results[1], results[4]], expected)
        for index in (0, 2, 3, 5):
            assert Path(mixed[index]).name in results[index]["error"]
        with pytest.raises(OSError, match="truncated.png"):
            run([row_for(task, file) for file in mixed])

    def test_unknown_option(self, pipe: Pipe, files: list[str], task: str) -> None:
        with pytest.raises(TypeError, match="batchsize.*Did you mean 'batch_size'"):
            pipe(task)(row_for(task, files[0]), batchsize=2)

    def test_missing_image(self, pipe: Pipe, task: str) -> None:
        row = {"caption": "x", "question": "what?", "features": ["image_features"]}
        row.update({} if "feature" in task else {"text": "a dog"})
        with pytest.raises(ValueError, match="got no image|pairs of images|neither"):
            pipe(task)(row)

    @pytest.mark.parametrize("value", [None, 3, b"bytes"])
    def test_unsupported_input(self, pipe: Pipe, task: str, value: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="expected an image|got no input"):
            pipe(task)(value)

    def test_empty_list(self, pipe: Pipe, task: str) -> None:
        assert pipe(task)([]) == []

    def test_unsupported_model(self, repository: Pipe, task: str) -> None:
        wrong = "ForQuestionAnswering" if task != "image-question-answering" else "ForConditionalGeneration"
        with pytest.raises(ValueError, match=f"{task} cannot use LavisBlip{wrong}; it needs"):
            pipeline(task, model=repository(wrong), device="cpu")
        with pytest.raises(ValueError, match=f"{task} cannot use LavisBlip{wrong}; it needs"):
            load(task, repository(wrong))

    def test_load_equals_pipeline(self, pipe: Pipe, repository: Pipe, files: list[str], task: str) -> None:
        run = load(task, repository(HEADS[task]), device="cpu")
        assert str(run(row_for(task, files[0]))) == str(pipe(task)(row_for(task, files[0])))

    def test_bfloat16(self, repository: Pipe, files: list[str], task: str) -> None:
        run = load(task, repository(HEADS[task]), device="cpu", dtype=torch.bfloat16)
        assert run.model.vision_model.dtype == torch.bfloat16
        assert run([row_for(task, file) for file in files], batch_size=3)


def _close(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_close(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(_close, left, right))
    return left == pytest.approx(right, abs=1e-4) if isinstance(left, float) else left == right


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        ("image-question-answering", "question"),
        ("image-text-matching", "text"),
        ("image-text-classification", "text"),
        ("image-pair-classification", "text"),
    ],
)
def test_missing_text(pipe: Pipe, files: list[str], task: str, missing: str) -> None:
    row = row_for(task, files[0])
    del row[missing]
    with pytest.raises(ValueError, match=f"{task} needs a {missing}; pass {missing}="):
        pipe(task)(row)
    with pytest.raises(ValueError, match=f"The {missing} is 3|The text is"):
        pipe(task)({**row, missing: 3})


def test_images_of_every_mode(pipe: Pipe, tmp_path: Path) -> None:
    paths = save_images_of_every_mode(tmp_path)
    results = pipe("image-captioning")([str(path) for path in paths], max_new_tokens=2, batch_size=4)
    assert len(results) == len(paths) and all(result[0]["generated_text"] for result in results)


def test_unicode_and_special_characters_in_paths(pipe: Pipe, photos: dict[str, Path], tmp_path: Path) -> None:
    names = ["фото кошки.png", "猫 [1].png", "naïve 'quoted'.png", "🐈.png"]
    for name in names:
        (tmp_path / name).write_bytes(photos["chelsea"].read_bytes())
    results = pipe("image-captioning")([tmp_path / name for name in names], max_new_tokens=3)
    assert results == [pipe("image-captioning")(photos["chelsea"], max_new_tokens=3)] * 4
    with pytest.raises(OSError, match="猫 missing.png"):
        pipe("image-captioning")(tmp_path / "猫 missing.png")


def test_array_of_images_is_a_list(pipe: Pipe) -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (3, 20, 20, 3), dtype=np.uint8)
    run = pipe("image-captioning")
    assert run(arrays, max_new_tokens=2) == approximate([run(array, max_new_tokens=2) for array in arrays])


def test_torch_dataset_with_workers(pipe: Pipe, files: list[str]) -> None:
    run = pipe("image-captioning")
    dataset = KeyDataset(datasets.Dataset.from_list([{"path": file} for file in files]), "path")  # type: ignore[arg-type]
    results = list(run(dataset, batch_size=2, num_workers=1, max_new_tokens=3))
    assert results == approximate(run(files, max_new_tokens=3))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("make", [list, iter], ids=["list", "iterator"])
def test_run_batches(make: Callable[[Any], Any], num_workers: int) -> None:
    """One result per entry and in order, however many workers there are; failed entries take no part in batches."""
    batches = []

    def prepare(entry: int) -> Any:
        return Failure("odd", entry) if entry % 2 else entry

    def run(rows: list[int]) -> list[int]:
        batches.append(rows)
        return [10 * row for row in rows]

    results = list(run_batches(make([0, 1, 2, 4, 6, 3, 5, 7]), prepare, run, batch_size=2, num_workers=num_workers))
    assert results == [0, Failure("odd", 1), 20, 40, 60, Failure("odd", 3), Failure("odd", 5), Failure("odd", 7)]
    assert batches == [[0], [2, 4], [6]]


def test_lists_of_values_that_do_not_match_the_inputs(pipe: Pipe, files: list[str]) -> None:
    run = pipe("image-question-answering")
    with pytest.raises(ValueError, match="3 inputs and 2 questions"):
        run(files[:3], question=["what?", "who?"])
    with pytest.raises(ValueError, match="cannot be combined with a dataset or a generator"):
        run((file for file in files), question=["what?"] * 4)


def test_open_file_is_refused(pipe: Pipe, files: list[str]) -> None:
    with open(files[0], "rb") as file, pytest.raises(TypeError, match=r"BufferedReader.*PIL\.Image\.open"):
        pipe("image-captioning")(file)


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences", "max_new_tokens", "max_length"])
def test_generation_options_must_be_positive(pipe: Pipe, files: list[str], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 0; expected a positive integer"):
        pipe("image-captioning")(files[0], **{name: 0})


def test_error_lists_the_options_of_the_pipeline(pipe: Pipe, files: list[str]) -> None:
    with pytest.raises(TypeError, match=r"'xyzzy'\. It takes prompt, .*batch_size.*\.\.\.\.$"):
        pipe("image-captioning")(files[0], xyzzy=1)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"There is no folder {tmp_path}/nothing, and a Hub id has the form"):
        load("image-captioning", tmp_path / "nothing")


def test_invalid_on_error(pipe: Pipe, files: list[str]) -> None:
    with pytest.raises(ValueError, match="on_error is 'skip'"):
        pipe("image-captioning")(files[0], on_error="skip")


def test_registering_twice_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    register()
    assert "already registered" not in caplog.text


def test_saved_pipeline_contains_no_code(pipe: Pipe, files: list[str], tmp_path: Path) -> None:
    run = pipe("image-captioning")
    run.save_pretrained(tmp_path)
    loaded = pipeline("image-captioning", model=str(tmp_path), device="cpu")
    assert loaded(files[0], max_new_tokens=3) == run(files[0], max_new_tokens=3)
    assert not list(tmp_path.glob("*.py"))


def test_processor_of_a_model_object(repository: Pipe, files: list[str]) -> None:
    """The processor is loaded from the repository of the model; a model without repository needs `processor=`."""
    from modeling_lavis.pipelines.captioning import ImageCaptioningPipeline

    model = AutoModel.from_pretrained(repository("ForConditionalGeneration"))
    assert ImageCaptioningPipeline(model, device="cpu")(files[0], max_new_tokens=2)
    model.config._name_or_path = ""
    with pytest.raises(ValueError, match="needs a processor of this package"):
        ImageCaptioningPipeline(type(model)(model.config), device="cpu")


def test_missing_model(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=os.path.basename(str(tmp_path))):
        load("image-captioning", tmp_path)
    with pytest.raises(ValueError, match="Unknown task 'captioning'; expected one of image-captioning"):
        load("captioning", tmp_path)
