"""Verification against published outputs and scores, with tiny models in the place of the published ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import modeling_lavis
from modeling_lavis.cli.main import main
from modeling_lavis.evaluation.tasks import evaluate
from modeling_lavis.hub import outputs as outputs_module
from modeling_lavis.hub import zoo
from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.outputs import KINDS, load, published_images, published_outputs
from modeling_lavis.hub.recordings import record
from modeling_lavis.hub.scores import published_scores
from modeling_lavis.hub.verify import Comparison, NothingToVerify, VerificationReport, checkpoint_of_card, verify
from tests.conversion.golden_sets import checkpoint, complete_arguments
from tests.hub_verify.conftest import with_other_weights

# ---- facts ----


def test_published_outputs_are_complete() -> None:
    table = zoo.read_facts(zoo.FACTS_FOLDER / "outputs.yaml")
    names = {entry.name for entry in zoo.entries().values()}
    assert set(table["checkpoints"]) <= names and len(table["checkpoints"]) == 15
    for entry in zoo.entries().values():
        for output in published_outputs(entry):
            assert output.image in published_images() and output.origin["url"].startswith("https://github.com/")
            assert output.kind in KINDS and all(getattr(output, name) for name in KINDS[output.kind].needs)
            numbers = [value for value in output.expected.values() if not isinstance(value, str)]
            assert not numbers or output.tolerance or output.relative_tolerance
            # the class of the architecture has this kind of output
            model_class = zoo.model_class_of(entry.architecture)
            stand_in = object.__new__(getattr(modeling_lavis, model_class))
            if output.kind in ("caption_loss", "features", "classes", "match"):
                assert KINDS[output.kind].fits(stand_in), (entry.name, output.kind)


def test_scores_say_how_they_are_measured() -> None:
    scores = [(entry.name, score) for entry in zoo.entries().values() for score in published_scores(entry)]
    assert len(scores) > 25
    for name, score in scores:
        assert score.origin and (score.unmeasured is None or not score.options), name
    assert sum(score.needs_answers for _, score in scores) == 2


# ---- a published checkpoint, in whose place is a tiny one ----


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose card says that it is the published captioner."""
    folder = tmp_path_factory.mktemp("captioner")
    published = folder / "blip_coco_caption_base.pth"
    published.write_bytes(checkpoint("blip_caption").read_bytes())
    arguments = complete_arguments("blip_caption", folder / "repo", checkpoint=published, model_type="base_coco")
    convert(**arguments, with_code=False)
    return folder / "repo"


@pytest.mark.slow
def test_the_card_names_the_checkpoint(captioner: Path, converted: Callable[[str], Path]) -> None:
    assert checkpoint_of_card(str(captioner)) == "blip_caption__base_coco"
    assert checkpoint_of_card(str(converted("blip_caption"))) is None
    for name in ("blip_caption", "blip_caption/large"):
        with pytest.raises(ValueError, match=f"no published checkpoint '{name}'.* blip_caption/base_coco"):
            verify(captioner, checkpoint=name)


@pytest.mark.slow
def test_it_says_what_it_needs(captioner: Path, converted: Callable[[str], Path]) -> None:
    with pytest.raises(NothingToVerify, match=r"2 outputs need the image .*Merlion.*merlion\.png.*needs the data"):
        verify(captioner)
    with pytest.raises(NothingToVerify, match="names no published checkpoint"):
        verify(converted("blip_caption"))
    with pytest.raises(NothingToVerify, match="Nothing was published about blip_pretrain__base"):
        verify(converted("blip_pretrain"), checkpoint="blip_pretrain__base", image="merlion.png")
    with pytest.raises(NothingToVerify, match="needs the data and the answers"):
        verify(captioner, checkpoint="blip_vqa__okvqa")


@pytest.mark.slow
def test_tiny_weights_are_not_the_published_ones(
    captioner: Path, photos: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    status = main(["verify", str(captioner), "--image", str(photos["chelsea"]), "--device", "cpu", "--json"])
    report = json.loads(capfd.readouterr().out)
    assert status == 1 and not report["agrees"] and report["checkpoint"] == "blip_caption__base_coco"
    rows = {(entry["title"].split(" of ")[0], entry["name"]): entry for entry in report["comparisons"]}
    assert rows["caption", "caption"]["agrees"] is False and rows["caption", "caption"]["expected"].startswith(
        "a large"
    )
    assert rows["captioning loss", "loss"]["agrees"] is False and rows["captioning loss", "loss"]["found"] > 4
    metric = rows["image captioning, COCO (Karpathy split) test", "CIDEr"]
    assert metric["agrees"] is None and metric["reason"] == "needs its data (data, split)"
    assert any("451 x 300 pixels, the published one 1192 x 874" in note for note in report["notes"])


@pytest.mark.slow
def test_published_outputs_can_agree(
    captioner: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With what the tiny model gives in the place of what LAVIS states, everything agrees."""
    table: dict[str, Any] = {**zoo.read_facts(zoo.FACTS_FOLDER / "outputs.yaml")}
    stated = [
        {**output, "image": "merlion", "origin": "test-blip"}
        for output in record(captioner, photos["chelsea"])["outputs"]
    ]
    table["checkpoints"] = {"blip_caption__base_coco": stated}
    monkeypatch.setattr(outputs_module, "_published", lambda: table)
    arguments = ["verify", str(captioner), "--image", str(photos["chelsea"]), "--device", "cpu"]
    assert main(arguments) == 0
    shown = capfd.readouterr().out
    assert "3 of 3 measured values agree" in shown and "DIFFERS" not in shown


# ---- scores ----


def caption_data(folder: Path, photos: dict[str, Path], captions: list[list[str]]) -> Path:
    """A folder with a split `test` of photos with captions."""
    folder.mkdir()
    rows = []
    for (name, path), texts in zip(photos.items(), captions, strict=True):
        with Image.open(path) as opened:
            opened.convert("RGB").resize((48, 48)).save(folder / f"{name}.png")
        rows += [{"image": f"{name}.png", "caption": text, "image_id": name} for text in texts]
    (folder / "test.json").write_text(json.dumps(rows))
    return folder


CAPTIONS = [["a man", "a man in space"], ["a cat", "the red cat"], ["a cup", "a coffee"], ["a rocket", "the rocket"]]


@pytest.mark.slow
def test_metrics_of_captions(captioner: Path, photos: dict[str, Path], tmp_path: Path) -> None:
    model, processor = load(str(captioner))
    generation = {"num_beams": 2, "max_length": 12, "min_length": 5}
    images = [{"image": str(path), "image_id": name} for name, path in photos.items()]
    predicted = evaluate(
        "captioning", model, processor, images, generation_options=generation, return_predictions=True
    ).predictions
    # references that are like the captions of this model, but not of another one
    captions = [[entry["caption"], "a dog on the beach"] for entry in predicted]
    small = caption_data(tmp_path / "data", photos, captions)
    measured = evaluate(
        "captioning",
        model,
        processor,
        [
            {"image": str(path), "image_id": name, "caption": texts}
            for (name, path), texts in zip(photos.items(), captions)
        ],
        generation_options=generation,
    )
    score = {
        "task": "image captioning",
        "dataset": "mine",
        "split": "test",
        "metrics": {"CIDEr": 100 * measured["cider"], "BLEU 4": 100 * measured["bleu-4"], "METEOR": 20.0},
        "options": {"generation_options": generation},
    }
    recording = {"format": 1, "scores": [score]}
    assert measured["cider"] > 0
    report = verify(captioner, data=small, split="test", recording=recording, score_tolerance=60)
    found = {entry.name: entry for entry in report.comparisons}
    assert found["CIDEr"].agrees and found["BLEU 4"].agrees and found["METEOR"].agrees is None
    assert "needs Java" in found["METEOR"].reason and report.agrees
    other = with_other_weights(captioner, tmp_path / "other", scale=1.0)
    changed = verify(other, data=small, split="test", recording=recording, score_tolerance=60)
    assert not changed.agrees, str(changed)


def retrieval_score(metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "task": "image-text retrieval",
        "dataset": "mine",
        "split": "test",
        "metrics": metrics,
        "options": {"k": 10},
    }


@pytest.mark.slow
def test_metrics_of_retrieval(converted: Callable[[str], Path], photos: dict[str, Path], tmp_path: Path) -> None:
    repository = converted("blip_retrieval")
    data = caption_data(tmp_path / "data", photos, CAPTIONS)
    model, processor = load(str(repository))
    rows = modeling_lavis.load_data(data, "retrieval", split="test")
    measured = evaluate("retrieval", model, processor, rows, k=10)
    metrics = {"TR@1": measured["text_recall@1"], "IR@5": measured["image_recall@5"]}
    recording = {"format": 1, "scores": [retrieval_score(metrics)]}
    assert verify(repository, data=data, split="test", recording=recording).agrees
    wrong = {"format": 1, "scores": [retrieval_score({"TR@1": metrics["TR@1"] + 0.3, "IR@5": metrics["IR@5"] + 0.1})]}
    report = verify(repository, data=data, split="test", recording=wrong)
    assert [entry.agrees for entry in report.comparisons] == [False, True]


@pytest.mark.slow
def test_metrics_of_ranked_answers(
    converted: Callable[[str], Path], photos: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repository = converted("blip_vqa")
    answers = ["yes", "no", "a dog", "two men"]
    rows = [
        {"image": str(path), "question": "what is this?", "question_id": number, "answer": [answers[number]] * 10}
        for number, path in enumerate(photos.values())
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    model, processor = load(str(repository))
    measured = evaluate("vqa", model, processor, rows, answers=answers, num_candidates=4)
    score = {
        "task": "visual question answering",
        "dataset": "mine",
        "split": "val",
        "metrics": {"accuracy": measured["accuracy"]},
        "options": {"num_candidates": 4},
    }
    (tmp_path / "recording.json").write_text(json.dumps({"format": 1, "scores": [score]}))
    arguments = ["verify", str(repository), "--recording", str(tmp_path / "recording.json"), "--device", "cpu"]
    arguments += ["--data", str(tmp_path / "rows.json"), "--media-root", "/"]
    assert main([*arguments, "--answers", ",".join(answers)]) == 0
    assert "1 of 1 measured values agree" in capfd.readouterr().out
    assert main(arguments) == 1
    assert "ranking a list of answers, which is missing" in capfd.readouterr().err


@pytest.mark.slow
def test_data_need_a_score(captioner: Path) -> None:
    with pytest.raises(ValueError, match=r"2 published scores .* expected one of: COCO .* test, NoCaps val"):
        verify(captioner, data="data")
    with pytest.raises(ValueError, match="0 published scores"):
        verify(captioner, data="data", dataset="Flickr30k")
    with pytest.raises(ValueError, match=r"NoCaps val cannot be measured: .*server of NoCaps"):
        verify(captioner, data="data", dataset="NoCaps")
    with pytest.raises(ValueError, match="there are no data"):
        verify(captioner, dataset="NoCaps")


# ---- the command ----


@pytest.mark.slow
def test_exit_status_and_recording(
    captioner: Path, photos: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    repository, image, file = str(captioner), str(photos["coffee"]), str(tmp_path / "recording.json")
    assert main(["verify", repository, "--image", image, "--record", file]) == 0
    assert "2 outputs recorded" in capfd.readouterr().out
    assert main(["verify", repository, "--image", image, "--recording", file]) == 0
    assert "3 of 3 measured values agree; 0 were not measured." in capfd.readouterr().out
    assert main(["verify", repository, "--recording", file]) == 2
    assert "need the image" in capfd.readouterr().err
    assert main(["verify", repository]) == 2
    assert "photo of the Merlion" in capfd.readouterr().err
    assert main(["verify", repository, "--image", str(tmp_path / "missing.png")]) == 1
    assert "missing.png" in capfd.readouterr().err
    assert main(["verify", str(tmp_path / "missing"), "--image", image]) == 1


@pytest.mark.slow
def test_exit_status_if_nothing_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of a score whose metrics all need Java."""
    nothing = Comparison("image captioning", "SPICE", 20.0, None, 0.2, None, "SPICE needs Java")
    report = VerificationReport(str(tmp_path), None, "LavisBlipForConditionalGeneration", (nothing,))
    monkeypatch.setattr("modeling_lavis.hub.verify.verify", lambda *args, **kwargs: report)
    assert main(["verify", str(tmp_path), "--data", "coco"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "test"], "--split is for --data"),
        (["--java-metrics"], "--java-metrics is for --data"),
        (["--tolerance", "-1"], "not a number from 0"),
        (["--record", "x.json"], "--record needs --image"),
        (["--recording", "x.json", "--checkpoint", "blip_caption/base_coco"], "--checkpoint is for published values"),
        (["--record", "x.txt", "--image", "x.png"], "ends in .json"),
        (["--record", "x.json", "--image", "x.png", "--recording", "y.json"], "neither --recording"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "x/y", *arguments]) == 2
    assert message in capfd.readouterr().err
