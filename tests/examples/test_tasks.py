"""The examples, one per task, with tiny weights and a handful of small pictures."""

import ast
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_lavis.embedded import embedded_model_path
from tests.examples.example_scripts import EXAMPLES, load_script
from tests.examples.tiny_tasks import SPANISH, captions, save_bert, save_language_model, write_splits

for package in ("accelerate", "datasets"):
    pytest.importorskip(package, reason="training needs the extra [train]")

TASKS = (
    "captioning",
    "vqa",
    "retrieval",
    "nlvr",
    "entailment",
    "video_qa",
    "blip2_stage1",
    "blip2_stage2_lora",
    "distributed",
    "evaluation_only",
    "captions_in_other_languages",
)


@pytest.mark.parametrize("name", TASKS)
def test_examples_are_short_and_say_how_they_are_called(name: str) -> None:
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80
    assert f"examples/{name}.py" in (ast.get_docstring(ast.parse(source)) or "")


def run(name: str, *arguments: str) -> None:
    load_script(name).main([*arguments])


def flags(data: str, output: Path, **options: object) -> list[str]:
    """Arguments of a short run."""
    options = {"epochs": 1, "batch-size": 4, **options}
    return ["--data", data, "--output", str(output), *(f"--{name}={value}" for name, value in options.items())]


@pytest.mark.slow
def test_captioning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_splits(tmp_path / "data", "captioning")
    options = {"model": embedded_model_path(), "image-size": 72}
    run("captioning", *flags(data, tmp_path / "run", **options))
    metrics, caption = capsys.readouterr().out.splitlines()[-2:]
    assert "'cider': " in metrics and caption


@pytest.mark.slow
def test_vqa(tmp_path: Path, capsys: pytest.CaptureFixture[str], goldens: Path) -> None:
    from tests.pipelines.tiny_models import save_model

    model = save_model(tmp_path / "model", "ForQuestionAnswering", goldens / "tokenizer")
    data = write_splits(tmp_path / "data", "vqa")
    run("vqa", *flags(data, tmp_path / "run", **{"model": model, "image-size": 32}))
    printed = capsys.readouterr().out
    assert "accuracy: " in printed and "what is it? " in printed.splitlines()[-1]


@pytest.mark.slow
def test_retrieval_with_a_queue(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from modeling_lavis import LavisBlipForImageTextRetrieval

    data = write_splits(tmp_path / "data", "retrieval")
    options = {"model": embedded_model_path(), "image-size": 72, "queue-size": 16}
    run("retrieval", *flags(data, tmp_path / "run", **options))
    assert capsys.readouterr().out.count("100.0 % before") >= 2
    trained = LavisBlipForImageTextRetrieval.from_pretrained(tmp_path / "run")
    assert trained.image_queue.shape[1] == 16 and int(trained.queue_ptr) == 4


@pytest.mark.slow
def test_nlvr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_splits(tmp_path / "data", "nlvr")
    run("nlvr", *flags(data, tmp_path / "run", **{"model": embedded_model_path(), "image-size": 72}))
    assert "accuracy: " in capsys.readouterr().out


@pytest.mark.slow
def test_entailment(tmp_path: Path, capsys: pytest.CaptureFixture[str], goldens: Path) -> None:
    from tests.pipelines.albef_models import convert_recorded

    model = convert_recorded(goldens, "albef_retrieval", tmp_path / "model")
    data = write_splits(tmp_path / "data", "classification")
    run("entailment", *flags(data, tmp_path / "run", **{"model": model, "image-size": 32}))
    printed = capsys.readouterr().out
    assert "accuracy: " in printed and "'label': " in printed.splitlines()[-1]


@pytest.mark.slow
def test_video_qa(tmp_path: Path, capsys: pytest.CaptureFixture[str], goldens: Path) -> None:
    pytest.importorskip("av", reason="videos need the extra [video]")
    from tests.pipelines.tiny_video_models import save_video_model

    model = save_video_model(tmp_path / "model", "ForVideoQuestionAnswering", goldens / "tokenizer")
    data = write_splits(tmp_path / "data", "video-qa")
    run("video_qa", *flags(data, tmp_path / "run", **{"model": model, "image-size": 32, "num-frames": 3}))
    lines = capsys.readouterr().out.splitlines()
    assert "accuracy: " in lines[-2] and lines[-1] in ("what is it doing? run", "what is it doing? sleep")


@pytest.mark.slow
def test_both_stages_of_blip_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    data = write_splits(tmp_path / "data", "captioning")
    options: dict[str, object] = {"image-size": 72, "warmup-steps": 0}
    parts = {"vision": embedded_model_path(), "text": save_bert(tmp_path / "bert", captions())}
    run("blip2_stage1", *flags(data, tmp_path / "stage1", **options, **parts))
    assert "mean recall" in capsys.readouterr().out
    language_model = save_language_model(tmp_path / "language_model", captions())
    options |= {"model": tmp_path / "stage1", "language-model": language_model}
    run("blip2_stage2_lora", *flags(data, tmp_path / "stage2", **options))
    printed = capsys.readouterr().out
    assert "trainable params: " in printed and printed.splitlines()[-1].startswith("[")
    assert (tmp_path / "stage2" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "stage2" / "merged" / "config.json").is_file()


@pytest.mark.slow
def test_distributed(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", "retrieval")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = str(server.getsockname()[1])
    start = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
    options = {"model": embedded_model_path(), "image-size": 72, "batch-size": 2}
    arguments = [str(EXAMPLES / "distributed.py"), *flags(data, tmp_path / "run", **options), "--cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(EXAMPLES.parent)}
    done = subprocess.run(
        [sys.executable, *start, *arguments], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("2 processes, 1 steps") == 1 and "'recall_mean': " in done.stdout


def test_evaluation_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_splits(tmp_path / "data", "captioning")
    common = ["--model", embedded_model_path(), "--data", data, "--split", "val"]
    run("evaluation_only", "retrieval", *common, "--options", '{"k": 4}')
    assert "'text_recall@1': 100.0" in capsys.readouterr().out
    run("evaluation_only", "captioning", *common, "--output", str(tmp_path / "captions.json"))
    assert "'cider': " in capsys.readouterr().out
    assert len(json.loads((tmp_path / "captions.json").read_text())) == 4


@pytest.mark.slow
def test_captions_in_other_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_splits(tmp_path / "data", "spanish")
    text = save_bert(tmp_path / "bert", [*SPANISH, "una foto de"])
    options = {"vision": embedded_model_path(), "text": text, "prompt": "una foto de"}
    run("captions_in_other_languages", *flags(data, tmp_path / "run", **options))
    assert "'cider': " in capsys.readouterr().out


# ---- extensions ----


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("own_data_set", "2 steps"),
        pytest.param("own_head", "after", marks=pytest.mark.slow),
        pytest.param("own_objective", "'loss_z': 0.0", marks=pytest.mark.slow),
        pytest.param("own_processor", "[CLS] no filter [SEP]", marks=pytest.mark.slow),
        pytest.param("own_recipe", "5e-05", marks=pytest.mark.slow),
        pytest.param("own_vision_encoder", "loss ", marks=pytest.mark.slow),
    ],
)
def test_extensions(name: str, printed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("timm")
    run(f"extending/{name}", "--output", str(tmp_path / "run"))
    assert printed in capsys.readouterr().out
