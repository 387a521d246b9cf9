"""Repositories that earlier versions saved load today and give the outputs that those versions gave."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, PreTrainedModel

import modeling_lavis
from tests.recorded_outputs import FOLDERS, compare

every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")


def test_every_public_head_is_there() -> None:
    heads = {
        name
        for name in modeling_lavis.__all__
        if isinstance(value := getattr(modeling_lavis, name), type) and issubclass(value, PreTrainedModel)
    }
    encoders = {"LavisViTModel", "LavisClipVisionModel", "LavisEvaModel", "LavisTimesformerModel", "LavisQFormerModel"}
    assert {folder.name for folder in FOLDERS} == heads - encoders


@every_folder
@pytest.mark.parametrize("trust_remote_code", [False, True])
def test_loads_and_gives_the_same(folder: Path, trust_remote_code: bool) -> None:
    model = AutoModel.from_pretrained(folder, trust_remote_code=trust_remote_code).eval()
    assert type(model) is getattr(modeling_lavis, folder.name)
    compare(model, folder)


@every_folder
def test_saves_the_same_keys(folder: Path, tmp_path: Path) -> None:
    model = getattr(modeling_lavis, folder.name).from_pretrained(folder)
    model.save_pretrained(tmp_path)
    with (
        safe_open(folder / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "model.safetensors", "pt") as after,
    ):
        assert sorted(before.keys()) == sorted(after.keys())
        for key in before.keys():
            assert torch.equal(before.get_tensor(key), after.get_tensor(key)), key


BARE_PROCESS = """
import json, sys
sys.modules["modeling_lavis"] = None  # however it is installed, importing it fails from here on
import torch
from safetensors import safe_open
from transformers import AutoModel

for folder in {folders!r}:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
    with safe_open(folder + "/recorded.safetensors", "pt") as file:
        for call, options in json.loads(file.metadata()["options"]).items():
            keys = [key for key in file.keys() if key.startswith(call + "/")]
            inputs = {{key.split("/", 2)[2]: file.get_tensor(key) for key in keys if "/input/" in key}}
            if call == "generate":
                assert model.generate(**inputs, **options).tolist() == file.get_tensor("generate/output/ids").tolist()
                continue
            with torch.no_grad():
                outputs = model(**inputs, **options)
            for key in keys:
                name = key.split("/", 2)[2]
                if "/output/" in key and torch.is_tensor(outputs.get(name)):
                    torch.testing.assert_close(outputs[name], file.get_tensor(key), atol=2e-5, rtol=2e-4)
"""


@pytest.mark.slow
def test_attached_code_of_earlier_versions_still_runs(tmp_path: Path) -> None:
    """A repository on the Hub keeps the code that it was published with, and that code meets today's libraries."""
    folders = []
    for folder in FOLDERS:
        copy = tmp_path / "repositories" / folder.name
        shutil.copytree(folder, copy)
        with zipfile.ZipFile(folder.parent / "code.zip") as archive:
            archive.extractall(copy)
        folders.append(str(copy))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", BARE_PROCESS.format(folders=folders)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr[-3000:]
