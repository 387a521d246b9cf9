"""Commands and pipelines with the name of a repository, in processes with the package and with transformers alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from modeling_lavis.hub.portable import attach_code
from tests.hub.server import LoopbackHub
from tests.hub.sessions import Session, run_python
from tests.pipelines.golden_repositories import convert_golden
from tests.pipelines.tiny_models import save_model

pytestmark = pytest.mark.slow
CARD = "---\nlicense: bsd-3-clause\npipeline_tag: {tag}\nlibrary_name: transformers\n---\n# A tiny model\n"

# Runs command lines, and prints their status and output.
START = """
import contextlib, io, json, os
import modeling_lavis
from modeling_lavis.cli.main import main
from transformers import pipeline

def run_commands(commands):
    found = []
    for arguments in commands:
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
caption = run(image, text="a", max_new_tokens=4)[0]["generated_text"]
for refused in ({{}}, {{"trust_remote_code": False}}):
    try:
        AutoModel.from_pretrained(name, **refused)
    except (ValueError, EOFError) as error:  # it asks, and there is no input
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("code ran without trust_remote_code")
print()
print(json.dumps(caption))
"""


def test_names_of_repositories(tmp_path: Path, goldens: Path, photos: dict[str, Path]) -> None:
    image, tokenizer = str(photos["coffee"]), goldens / "tokenizer"
    folders = {
        "captioner": save_model(tmp_path / "captioner", "ForConditionalGeneration", tokenizer, "a picture of"),
        "matcher": save_model(tmp_path / "matcher", "ForPreTraining", tokenizer),
        "answerer": save_model(tmp_path / "answerer", "ForQuestionAnswering", tokenizer),
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
    home = tmp_path / "home"
    with LoopbackHub(tmp_path / "hub") as hub, Session(hub, home) as session:
        session.run(START)

        def run(*commands: list[str], before: str = "") -> list[list[Any]]:
            return json.loads(session.run(f"{before}\nrun_commands({list(commands)!r})").splitlines()[-1])

        for name, folder in folders.items():
            hub.create(f"org/{name}", folder)
        hub.create("org/secret", folders["captioner"], private=True)
        by_name, by_folder = (
            [[verb, "--model", place(name), "--device", "cpu", "--json", *rest] for verb, name, *rest in calls]
            for place in (lambda name: f"org/{name}", lambda name: str(folders[name]))
        )
        named = run(*by_name)
        assert named == run(*by_folder) and all(status == 0 and not err for status, _, err in named), named
        secret, none = (["caption", "--model", f"org/{name}", "--device", "cpu", image] for name in ("secret", "none"))
        for command, token in ((secret, None), (secret, "hf_wrong"), (secret, hub.stranger_token), (none, hub.token)):
            before = "os.environ.pop('HF_TOKEN', None)" if token is None else f"os.environ['HF_TOKEN'] = {token!r}"
            ((status, out, err),) = run(command, before=before)
            assert status == 2 and out == "" and command[2] in err and "Traceback" not in err, err
            assert len(err.strip().splitlines()) == 1, err
        before = f"os.environ['HF_TOKEN'] = {hub.read_token!r}"
        assert run([*secret, "--json", *calls[0][3:]], before=before) == [named[0]]

        places = [{name: f"org/{name}" for name in folders}, {name: str(folder) for name, folder in folders.items()}]
        online, local = json.loads(session.run(PIPELINES.format(image=image, places=places)).splitlines()[-1])
        assert online == local
        alone = run_python(WITHOUT_PACKAGE.format(image=image), hub, package=False)
        assert json.loads(alone.stdout.splitlines()[-1]) == online[2]

        # the Hub ends: the cache serves the same, because nothing listens any more and with HF_HUB_OFFLINE
        hub.__exit__(None, None, None)
        assert run(*by_name) == named
        ((status, _, err),) = run(none)
        assert status == 2 and "cannot be reached" in err, err
        offline = run_python(f"{START}\nrun_commands({by_name!r})", hub, home=home, offline=True)
        assert json.loads(offline.stdout.splitlines()[-1]) == named
