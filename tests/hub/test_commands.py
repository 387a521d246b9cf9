"""Commands and pipelines with the name of a repository, in processes with the package and with transformers alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.hub.portable import attach_code
from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python
from tests.pipelines.golden_repositories import convert_golden
from tests.pipelines.tiny_models import save_model

pytestmark = pytest.mark.slow
CARD = "---\nlicense: bsd-3-clause\npipeline_tag: {tag}\nlibrary_name: transformers\n---\n# A tiny model\n"

# Every command line; what it prints must be the same for a repository as for the folder.
COMMANDS = """
import contextlib, io, json, sys
from modeling_lavis.cli.main import main

found = []
for arguments in json.loads({commands!r}):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as end:
            status = end.code
    found.append([status, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""

PIPELINES = """
import json
import modeling_lavis
from transformers import pipeline

image, found = {image!r}, {{}}
for place in {places!r}:
    caption = pipeline("image-captioning", model=place["captioner"], device="cpu")
    match = pipeline("image-text-matching", model=place["matcher"], device="cpu")
    found[place["captioner"]] = [
        caption(image, max_new_tokens=4)[0]["generated_text"],
        match(image, text="a dog"),
        pipeline("image-text-to-text", model=place["captioner"], device="cpu")(
            image, text="a", max_new_tokens=4
        )[0]["generated_text"],
    ]
guessed = pipeline(model="org/captioner", device="cpu")  # the task is that of the card
assert guessed.task == "image-text-to-text", guessed.task
print(json.dumps(list(found.values())))
"""

WITHOUT_PACKAGE = """
import json
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

name, image = "org/captioner", {image!r}
processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
inputs = processor(images=Image.open(image), text="a", return_tensors="pt")
inputs.pop("attention_mask", None), inputs.pop("input_ids", None)
captions = []
for auto in (AutoModel, AutoModelForImageTextToText):
    model = auto.from_pretrained(name, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules.org.captioner"), type(model).__module__
    captions.append(model.generate(**inputs, max_new_tokens=4).tolist())
assert captions[0] == captions[1]
run = pipeline("image-text-to-text", model=name, trust_remote_code=True, device="cpu")
print(json.dumps(run(image, text="a", max_new_tokens=4)[0]["generated_text"]))
for refused in ({{}}, {{"trust_remote_code": False}}):
    try:
        AutoModel.from_pretrained(name, **refused)
    except (ValueError, EOFError) as error:  # it asks, and nobody answers
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("code ran that nobody trusted")
"""


def run_commands(hub: LoopbackHub, commands: list[list[str]], **options: Any) -> list[tuple[int, str, str]]:
    result = run_python(COMMANDS.format(commands=json.dumps(commands)), hub, **options)
    return [(status, out, err) for status, out, err in json.loads(result.stdout.splitlines()[-1])]


def test_names_of_repositories(tmp_path: Path, goldens: Path, photos: dict[str, Path]) -> None:
    image = str(photos["coffee"])
    folders = {
        "captioner": save_model(
            tmp_path / "captioner", "ForConditionalGeneration", goldens / "tokenizer", "a picture of"
        ),
        "matcher": save_model(tmp_path / "matcher", "ForPreTraining", goldens / "tokenizer"),
        "answerer": save_model(tmp_path / "answerer", "ForQuestionAnswering", goldens / "tokenizer"),
        "blip2": Path(convert_golden(goldens, "blip2_opt", tmp_path / "blip2")),
    }
    attach_code(folders["captioner"])
    (folders["captioner"] / "README.md").write_text(CARD.format(tag="image-text-to-text"))
    calls = [
        ["caption", "captioner", image, "--max-new-tokens", "4"],
        ["answer", "answerer", image, "--question", "what is this?", "--max-new-tokens", "3"],
        ["match", "matcher", image, "--text", "a dog", "the man"],
        ["embed", "matcher", image],
        ["caption", "blip2", image, "--max-new-tokens", "4"],
    ]
    with LoopbackHub(tmp_path / "hub") as hub:
        for name, folder in folders.items():
            hub.create(f"org/{name}", folder)
        hub.create("org/secret", folders["captioner"], private=True)
        home = tmp_path / "home"
        by_name, by_folder = (
            [[verb, "--model", place(name), "--device", "cpu", "--json", *rest] for verb, name, *rest in calls]
            for place in (lambda name: f"org/{name}", lambda name: str(folders[name]))
        )
        wrong = [["caption", "--model", name, "--device", "cpu", image] for name in ("org/secret", "org/none")]
        found = run_commands(hub, [*by_name, *by_folder, *wrong], home=home)
        named, local, refused = found[: len(calls)], found[len(calls) : -2], found[-2:]
        assert named == local and all(status == 0 and not err for status, _, err in named), named
        for (status, out, err), name in zip(refused, ("org/secret", "org/none"), strict=True):
            assert status == 2 and out == "" and name in err and "Traceback" not in err, err
            assert len(err.strip().splitlines()) == 1
        secret = [["caption", "--model", "org/secret", "--device", "cpu", "--json", *calls[0][2:]]]
        assert run_commands(hub, secret, token=hub.read_token) == [named[0]]
        (status, _, err), *_ = run_commands(hub, secret, token="hf_wrong")
        assert status == 2 and "org/secret" in err and "Traceback" not in err, err

        places = [{name: f"org/{name}" for name in folders}, {name: str(folder) for name, folder in folders.items()}]
        pipelines = run_python(PIPELINES.format(image=image, places=places), hub, home=home)
        online, offline = json.loads(pipelines.stdout.splitlines()[-1])
        assert online == offline
        alone = run_python(WITHOUT_PACKAGE.format(image=image), hub, package=False)
        assert json.loads(alone.stdout.splitlines()[-1]) == online[2]

    # the Hub has ended: the cache serves the same, with HF_HUB_OFFLINE and because nobody answers
    for offline_mode in (True, False):
        assert run_commands(hub, by_name, home=home, offline=offline_mode) == named
    (status, _, err), *_ = run_commands(hub, wrong[1:], home=home)
    assert status == 2 and "cannot be reached" in err, err
