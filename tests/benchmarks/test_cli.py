"""`python -m benchmarks` with tiny models. LAVIS is not installed, so only its failure is tested."""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import cli, flops, measure, report, runner, weights
from benchmarks.cli import main
from benchmarks.lavis_parts import PreparedTokenizer
from benchmarks.plot import comparison_figure
from benchmarks.workloads import OURS, WORKLOADS
from benchmarks.workloads.base import Rates
from benchmarks.workloads.caption import WORKLOAD as CAPTION
from benchmarks.workloads.caption import Size as CaptionSize
from benchmarks.workloads.caption import step_floor
from benchmarks.workloads.vqa_rank import WORKLOAD as RANK
from benchmarks.workloads.vqa_rank import Size, make_answers, make_questions
from tests.export.folders import needs

QUICK = ["--size", "tiny", "--threads", "1", "--repeats", "2", "--warmups", "0"]

NATIVE_BFLOAT16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


@pytest.mark.slow
def test_caption_with_transformers_as_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both generate the same captions, and all measurements are in the file."""
    file = tmp_path / "caption.json"
    assert main(["caption", "--peer", "transformers", *QUICK, "--json", str(file)]) == 0
    table = capsys.readouterr().out
    assert f"| {OURS} | float32 |" in table
    assert "| transformers | float32 |" in table
    assert "ids equal" in table
    summary = json.loads(file.read_text())
    assert [row["peer"] for row in summary["peers"]] == [OURS, "transformers"]
    ours, theirs = summary["peers"]
    assert len(ours["seconds"]) == 2
    assert ours["median_seconds"] == statistics.median(ours["seconds"])
    assert theirs["time_ratio"] == pytest.approx(theirs["median_seconds"] / ours["median_seconds"])
    assert ours["peak_bytes"] > 50e6
    assert theirs["versions"]["transformers"]
    assert summary["floor_seconds"] == pytest.approx(summary["flops"] / summary["flops_per_second"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["caption.json"]


@pytest.mark.slow
@needs("onnx")
def test_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exported model has the captions of the one in torch; it is exported once."""
    options = ["--engine", "torch", "--engine", "onnx", "--exports", str(tmp_path), *QUICK]
    assert main(["caption", *options]) == 0
    table = capsys.readouterr().out
    assert f"| {OURS} | float32 |" in table and f"| {OURS} (onnx) | float32 |" in table
    assert "ids equal" in table and f"- {OURS} (onnx) in float32: first token" in table
    (folder,) = tmp_path.iterdir()
    written = folder.stat().st_mtime_ns
    assert main(["latency", "--engine", "onnx", "--exports", str(tmp_path), *QUICK]) == 0
    assert folder.stat().st_mtime_ns == written


@pytest.mark.slow
def test_collection_with_transformers_as_peer(capsys: pytest.CaptureFixture[str]) -> None:
    """From the same files, through both processors and models, to the same captions."""
    assert main(["collection", "--peer", "transformers", *QUICK]) == 0
    table = capsys.readouterr().out
    assert "ids equal" in table and "x the model alone" in table


@pytest.mark.slow
def test_blip2_generate_with_transformers_as_peer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "blip2.json"
    assert main(["blip2_generate", "--peer", "transformers", *QUICK, "--json", str(file)]) == 0
    table = capsys.readouterr().out
    assert "ids equal" in table
    assert "- transformers in float32: first token 0." in table
    summary = json.loads(file.read_text())
    assert summary["bytes_per_second"] > 1e8
    for row in summary["peers"]:
        assert "tokens/s" in row["notes"] and "of reading the weights" in row["notes"]


def test_notes_of_blip2_generate() -> None:
    workload = WORKLOADS["blip2_generate"]
    size = workload.sizes["batch8"]
    rate = size.text_parameters * 2 / 0.01  # bytes per second: a step cannot take less than 10 ms
    notes = workload.describe(size, 1.0, {"seconds_to_first_token": 0.38}, 2, Rates(bytes=rate))
    assert notes == "first token 0.380 s, 256.0 tokens/s, 20.0 ms a step = 2.00 x of reading the weights"


def test_notes_of_captions_have_the_roofline_of_a_step() -> None:
    size = CaptionSize(images=1, beams=1, image_size=32, length=6, hidden_size=2, layers=1, vocabulary=10)
    weights = 4 * (6 * 2**2 + 2 * 2 * 8 + 2**2 + 2 * 10)
    cached = 4 * 2 * 2 * (5 + (2 + 3 + 6) / 2)  # 5 tokens of the image
    assert step_floor(size, 4, Rates(1e30, 1.0)) == weights + cached
    arithmetic = 2 * (6 * 2**2 + 2 * 2 * 8 + 2**2 + 2 * 10) + 4 * 2 * (5 + 5.5)
    assert step_floor(size, 4, Rates(1.0, 1e30)) == arithmetic
    notes = WORKLOADS["caption"].describe(size, 5.5, {"seconds_to_first_token": 0.5}, 4, Rates(1e30, weights + cached))
    assert notes == "first token 0.500 s, 5000.0 ms a step = 5.00 x its roofline (1000.0 ms)"


@pytest.mark.skipif(not NATIVE_BFLOAT16, reason="without bfloat16 instructions its matrix products take minutes")
@pytest.mark.slow
def test_bfloat16_adds_float32_as_peer(tmp_path: Path) -> None:
    file = tmp_path / "rank.json"
    assert main(["vqa_rank", "--dtype", "bfloat16", *QUICK, "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["peers"]
    assert [(row["peer"], row["dtype"]) for row in rows] == [(OURS, "bfloat16"), (OURS, "float32")]
    assert rows[1]["time_ratio"] > 0


@pytest.mark.slow
def test_failing_peers_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    """LAVIS is not installed, and the other Python does not exist."""
    status = main(["vqa_rank", "--peer", "lavis", "--peer", "lavis=/no/such/python", *QUICK])
    printed = capsys.readouterr()
    assert status == 1
    assert "No module named 'lavis'" in printed.err
    assert "cannot start /no/such/python" in printed.err
    assert f"| {OURS} | float32 |" in printed.out


@pytest.mark.parametrize(("workload", "expected"), [("train_retrieval", True), ("caption", False)])
def test_training_workloads_set_glibc_tunables(
    workload: str, expected: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environments: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **options: Any) -> subprocess.CompletedProcess[str]:
        environments.append(env)
        return subprocess.CompletedProcess(command, 1, "", "stopped")

    monkeypatch.setattr(cli.subprocess, "run", run)
    cli._run_in_fresh_process("python", {"workload": workload, "threads": 1}, tmp_path)
    assert ["GLIBC_TUNABLES" in env for env in environments] == [expected]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["caption", "--peer", "nobody"], "can be compared with lavis, transformers"),
        (["vqa_rank", "--peer", "transformers"], "can be compared with lavis"),
        (["caption", "--size", "huge"], "has the sizes full, tiny"),
        (["caption", "--repeats", "0"], "not a positive number"),
        (["vqa_rank", "--engine", "onnx"], "in the workloads caption, latency"),
        (["caption", "--engine", "onnx", "--dtype", "bfloat16"], "exported models run in float32"),
        (["caption", "--device", "cuda"], "workloads for other devices: blip2_generate"),
        (["unknown"], "invalid choice"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_workloads_import_no_peer() -> None:
    """The Python of each peer imports the runner, without the packages of this project."""
    import subprocess

    root = Path(__file__).resolve().parent.parent.parent
    code = (
        "import sys; sys.modules['transformers'] = sys.modules['modeling_lavis'] = sys.modules['lavis'] = None; "
        "import benchmarks.runner, benchmarks.lavis_parts"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_workloads_are_complete(workload) -> None:
    assert {"full", "tiny"} <= set(workload.sizes)
    assert OURS in workload.builders
    assert workload.count_flops(workload.sizes["full"]) > 1000 * workload.count_flops(workload.sizes["tiny"])


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=WORKLOADS)
def test_own_part_of_every_workload_runs(workload) -> None:
    device = (torch.device("cpu"),) if workload.on_device else ()
    run = workload.builders[OURS](workload.sizes["tiny"], torch.float32, *device)
    with torch.inference_mode(not workload.trains):
        assert run() is not None


def test_caption_flops_are_mostly_those_of_the_image_encoder() -> None:
    size = CAPTION.sizes["full"]
    encoder_flops = size.images * flops.vit(size.image_size, size.hidden_size, size.layers)
    # published: 55.5 billion multiply-adds per image for ViT-B at 384 px
    assert encoder_flops / size.images / 2 == pytest.approx(55.5e9, rel=0.02)
    assert 0.7 < encoder_flops / CAPTION.count_flops(size) < 0.95


def test_rank_flops_are_linear_in_the_candidates() -> None:
    few = RANK.count_flops(Size(candidates=10))
    many = RANK.count_flops(Size(candidates=20))
    more = RANK.count_flops(Size(candidates=30))
    assert many > few
    assert more - many == pytest.approx(many - few)


def test_questions_and_answers_are_deterministic_and_valid() -> None:
    size = Size(questions=2, answers=50)
    assert make_answers(size) == make_answers(size)
    assert len({tuple(answer) for answer in make_answers(size)}) == 50
    assert {len(answer) for answer in make_answers(size)} == {3, 4, 5, 6}
    assert [len(question) for question in make_questions(size)] == [10, 9]
    for ids in [*make_answers(size), *make_questions(size)]:
        assert (ids[0], ids[-1]) == (101, 102)
        assert 0 not in ids


class TestWeights:
    def test_weights_depend_on_the_name_only(self) -> None:
        first, second = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4)), nn.Sequential(nn.Linear(3, 4))
        weights.fill(first)
        weights.fill(second)
        assert torch.equal(first[0].weight, second[0].weight)
        assert not torch.equal(first[0].weight, first[1].weight[:, :3])

    def test_weights_depend_on_the_seed(self) -> None:
        assert not torch.equal(weights.draw("a", (3,)), weights.draw("a", (3,), seed=1))

    def test_norm_weights_are_one(self) -> None:
        assert torch.equal(weights.draw("visual_encoder.blocks.0.norm1.weight", (3,)), torch.ones(3))
        assert torch.equal(weights.draw("bert.embeddings.LayerNorm.weight", (3,)), torch.ones(3))
        assert weights.draw("visual_encoder.blocks.0.norm1.bias", (3,)).abs().max() < 1

    @pytest.mark.parametrize(
        ("theirs", "lavis"),
        [
            ("vision_model.embeddings.patch_embedding.bias", "visual_encoder.patch_embed.proj.bias"),
            ("vision_model.encoder.layers.11.self_attn.qkv.weight", "visual_encoder.blocks.11.attn.qkv.weight"),
            ("vision_model.encoder.layers.3.layer_norm2.bias", "visual_encoder.blocks.3.norm2.bias"),
            ("vision_model.encoder.layers.3.mlp.fc1.bias", "visual_encoder.blocks.3.mlp.fc1.bias"),
            ("vision_model.post_layernorm.weight", "visual_encoder.norm.weight"),
            ("text_decoder.cls.predictions.decoder.bias", "text_decoder.cls.predictions.bias"),
        ],
    )
    def test_keys_of_transformers(self, theirs: str, lavis: str) -> None:
        assert weights.FROM_TRANSFORMERS_BLIP(theirs) == lavis


class TestReport:
    def result(self, peer: str, seconds: list[float], ids: list[int], value: float) -> dict:
        return {
            "peer": peer,
            "dtype": "float32",
            "seconds": seconds,
            "processor_seconds": [2 * second for second in seconds],
            "peak_bytes": int(1e9 * seconds[0]),
            "peak_while_loading_bytes": 1,
            "peak_includes_loading": False,
            "versions": {},
            "outputs": {"ids": torch.tensor(ids), "scores": torch.tensor([value])},
        }

    def test_medians_and_ratios(self) -> None:
        results = [
            {"peer": "machine", "dtype": "float32", "flops_per_second": CAPTION.count_flops(CAPTION.sizes["tiny"])},
            self.result(OURS, [2.0, 9.0, 1.0], [1, 2], 0.5),
            self.result("transformers", [4.0, 5.0, 6.0], [1, 3], 0.25),
        ]
        summary = report.summarize(CAPTION, "tiny", 1, results)
        ours, theirs = summary["peers"]
        assert summary["floor_seconds"] == pytest.approx(1.0)
        assert (ours["median_seconds"], ours["times_floor"]) == (2.0, pytest.approx(2.0))
        assert theirs["time_ratio"] == 2.5
        assert (theirs["processor_ratio"], theirs["median_processor_seconds"]) == (2.5, 10.0)
        assert theirs["memory_ratio"] == 2.0
        assert theirs["agreement"] == {"ids": "1 of 2 equal", "scores": 0.25}
        json.dumps(summary)

    @pytest.mark.slow
    def test_figure(self) -> None:
        pytest.importorskip("matplotlib")
        results = [self.result(OURS, [2.0, 9.0, 1.0], [1, 2], 0.5), self.result("lavis", [4.0, 6.0], [1, 3], 0.25)]
        figure = comparison_figure({**report.summarize(CAPTION, "tiny", 1, results), "floor_seconds": 0.5})
        seconds, memory = figure.axes
        assert [label.get_text() for label in seconds.get_yticklabels()] == [f"{OURS}, float32", "lavis, float32"]
        assert [bar.get_width() for bar in seconds.patches] == [2.0, 5.0]
        assert [list(line.get_xdata()) for line in seconds.get_lines()][:2] == [[2.0, 9.0, 1.0], [4.0, 6.0]]
        assert seconds.get_lines()[2].get_xdata()[0] == 0.5
        assert [bar.get_width() for bar in memory.patches] == [row["peak_bytes"] / 1e6 for row in results]

    def test_plot_files_are_checked_first(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["caption", *QUICK, "--plot", "plot.pdf"])
        assert "ends in .png or .svg" in capsys.readouterr().err

    def test_outputs_of_different_shapes(self) -> None:
        found = report.compare({"ids": torch.zeros(2)}, {"ids": torch.zeros(3)}, frozenset({"ids"}))
        assert found == {"ids": "shapes (2,) and (3,)"}

    def test_table_without_floor(self) -> None:
        summary = report.summarize(CAPTION, "full", 2, [self.result(OURS, [1.5], [1], 0.0)])
        table = report.as_table(summary)
        assert "Floor" not in table
        assert "| modeling_lavis | float32 | 1.500 | 3.000 | 1500 |" in table


class TestMeasure:
    def test_warmups_are_not_timed(self) -> None:
        calls: list[int] = []
        timing = measure.timed(lambda: calls.append(1) or len(calls), repeats=3, warmups=2)
        assert (len(timing.seconds), len(timing.processor_seconds), timing.result) == (3, 3, 5)

    def test_peak_includes_freed_memory(self) -> None:
        measure.reset_peak()
        before = measure.peak_bytes()
        block = torch.ones(30_000_000)
        del block
        assert measure.peak_bytes() - before > 80e6

    def test_matmul_rate(self) -> None:
        assert measure.matmul_rate(torch.float32, size=128, seconds=0.01) > 1e7


def test_prepared_tokenizer() -> None:
    tokenizer = PreparedTokenizer({"a": (101, 7, 102), "b": (101, 7, 8, 102)}, bos_token_id=5)
    assert tokenizer("a").input_ids == [101, 7, 102]
    batch = tokenizer(["a", "b"], padding="longest", return_tensors="pt").to("cpu")
    batch.input_ids[:, 0] = tokenizer.bos_token_id
    assert batch.input_ids.tolist() == [[5, 7, 102, 0], [5, 7, 8, 102]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    with pytest.raises(KeyError, match="unknown"):
        tokenizer("unknown")


def test_report_reads_the_result_of_the_runner(tmp_path: Path) -> None:
    settings = {"peer": OURS, "engine": "torch", "workload": "vqa_rank", "size": "tiny", "dtype": "float32"}
    settings |= {"device": "cpu", "threads": 1}
    threads = torch.get_num_threads()
    try:
        runner.run({**settings, "repeats": 1, "warmups": 0}, tmp_path)
    finally:
        torch.set_num_threads(threads)
    result = report.read_result(tmp_path)
    assert set(result["outputs"]) == {"best", "candidates", "scores"}
    assert len(result["seconds"]) == 1
