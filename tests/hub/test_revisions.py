"""Sharded weights, branches, tags and commits, private repositories, and code that is pushed on by who loaded it."""

from pathlib import Path

import pytest

from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python
from tests.recorded_outputs import FOLDERS

pytestmark = pytest.mark.slow
HEAD = next(folder for folder in FOLDERS if folder.name == "LavisBlipForConditionalGeneration")

PUSH = """
import torch
from huggingface_hub import HfApi
from modeling_lavis import LavisBlipForConditionalGeneration
from modeling_lavis.hub.portable import attach_code

api = HfApi()
model = LavisBlipForConditionalGeneration.from_pretrained({head!r})
model.push_to_hub("org/sharded", max_shard_size="40KB")
model.push_to_hub("org/secret", private=True)
model.push_to_hub("org/versions")
api.create_tag("org/versions", tag="v1")
torch.nn.init.zeros_(model.vision_model.cls_token)
model.push_to_hub("org/versions", revision="next")
proposed = model.push_to_hub("org/versions", create_pr=True)
assert proposed.pr_revision == "refs/pr/1", proposed

folder = {folder!r}
for number, revision in enumerate(("main", "next")):  # code that differs from revision to revision
    model = LavisBlipForConditionalGeneration.from_pretrained("org/versions", revision=revision)
    model.save_pretrained(folder, max_shard_size="100KB")
    attach_code(folder)
    path = folder + "/modeling_lavis_blip.py"
    text = open(path).read()
    open(path, "w").write(text + f"\\nSTATE = {{number}}\\n")
    api.create_repo("code/versions", exist_ok=True)
    api.create_branch("code/versions", branch=revision, exist_ok=True)
    api.upload_folder(repo_id="code/versions", folder_path=folder, revision=revision)
"""

LOAD = """
from pathlib import Path
from transformers import AutoConfig, AutoModelForImageTextToText
from modeling_lavis import LavisBlipForConditionalGeneration
from tests.recorded_outputs import compare

load = LavisBlipForConditionalGeneration.from_pretrained
for name, options, part in (
    ("org/secret", {{}}, "org/secret"),
    ("org/secret", {{"token": "hf_wrong"}}, "org/secret"),
    ("org/secret", {{"token": {stranger!r}}}, "org/secret"),
    ("org/none", {{}}, "org/none"),
    ("org/versions", {{"revision": "none"}}, "none"),
    ("org/versions", {{"subfolder": "none"}}, "org/versions"),
):
    for from_pretrained in (load, AutoModelForImageTextToText.from_pretrained, AutoConfig.from_pretrained):
        try:
            from_pretrained(name, **options)
        except (OSError, ValueError) as error:
            assert part in str(error) and "random" not in str(error), error
        else:
            raise AssertionError((name, options))

commit = {commit!r}
for name, options in (("org/sharded", {{}}), ("org/versions", {{}}), ("org/versions", {{"revision": "v1"}}),
                      ("org/versions", {{"revision": commit}}), ("org/secret", {{"token": {token!r}}})):
    model = load(name, **options).eval()
    compare(model, Path({head!r}))
for revision in ("next", "refs/pr/1"):
    for from_pretrained in (load, AutoModelForImageTextToText.from_pretrained):
        assert not from_pretrained("org/versions", revision=revision).vision_model.cls_token.any()
"""

LOAD_CODE = """
import sys
from pathlib import Path
from transformers import AutoModel, AutoModelForImageTextToText
from tests.recorded_outputs import compare

states = []
for revision in ("main", "next", {commit!r}):
    model = AutoModel.from_pretrained(
        "code/versions", revision=revision, code_revision=revision, trust_remote_code=True
    ).eval()
    states.append((sys.modules[type(model).__module__].STATE, bool(model.vision_model.cls_token.any())))
assert states == [(0, True), (1, False), (0, True)], states
compare(model, Path({head!r}))

# who has loaded it by its code can push it on, and the code goes along
model.push_to_hub("code/again", token={token!r})
again = AutoModelForImageTextToText.from_pretrained("code/again", trust_remote_code=True).eval()
assert "again" in type(again).__module__, type(again)
compare(again, Path({head!r}))
"""


def test_revisions(tmp_path: Path) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        run_python(PUSH.format(head=str(HEAD), folder=str(tmp_path / "saved")), hub, token=hub.token)
        shards = [name for name in hub.files("org/sharded") if name.endswith(".safetensors")]
        assert len(shards) > 3 and "model.safetensors.index.json" in hub.files("org/sharded")
        commit = hub.head("org/versions", "v1").oid
        tokens = {"token": hub.read_token, "stranger": hub.stranger_token}
        run_python(LOAD.format(head=str(HEAD), commit=commit, **tokens), hub)
        commit = hub.head("code/versions").oid
        run_python(LOAD_CODE.format(head=str(HEAD), commit=commit, token=hub.token), hub, package=False)
        assert {"modeling_lavis_blip.py", "vision_vit.py"} <= hub.files("code/again").keys()
