"""Repositories that earlier versions saved load today and give the outputs that those versions gave."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor, PreTrainedConfig, PreTrainedModel

import modeling_lavis
from modeling_lavis.files import sha256_of
from modeling_lavis.hub import loading_probe
from modeling_lavis.hub.attached_code import attached_code
from modeling_lavis.hub.loading_probe import compute
from tests.recorded_outputs import COMPLETE, FOLDERS, REPOSITORIES, compare, compare_complete
from tests.test_portable_code import run_without_package

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
from safetensors.torch import load_file
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


# ---- complete repositories, with processor and code, one for every format in which they were published ----

every_format = pytest.mark.parametrize("folder", COMPLETE, ids=lambda folder: f"{folder.parent.name}-{folder.name}")


def own_options(folder: Path) -> set[str]:
    """Names of what this package stores in the configurations of a repository, with the section that they are in."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    processor = json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))
    sections = {"": config, **{name: config[name] for name in ("vision_config", "text_config")}, "processor": processor}
    general = PreTrainedConfig().to_dict().keys() | {"auto_map", "transformers_version", "_name_or_path"}
    return {f"{section}.{name}" for section, content in sections.items() for name in content.keys() - general}


@pytest.mark.parametrize("head", sorted({folder.name for folder in COMPLETE}))
def test_the_newest_format_is_that_of_this_version(head: str, tmp_path: Path) -> None:
    formats = sorted(folder.parent.name for folder in COMPLETE if folder.name == head)
    assert len(formats) >= 3
    newest = REPOSITORIES / "complete" / formats[-1] / head
    getattr(modeling_lavis, head).config_class.from_pretrained(newest).save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(newest).save_pretrained(tmp_path)
    assert own_options(tmp_path) == own_options(newest), "add a folder with the format of this version"


@pytest.mark.slow
@every_format
def test_processor_and_head_of_earlier_formats_give_the_same(folder: Path) -> None:
    """Without `trust_remote_code`, by the installed classes."""
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    assert type(model) is getattr(modeling_lavis, folder.name)
    assert type(processor).__module__.startswith("modeling_lavis.")
    with torch.no_grad():
        compare_complete(compute(model, processor), folder)


COMPUTE_IN_BARE_PROCESS = """
import sys
sys.modules["modeling_lavis"] = None  # however it is installed, importing it fails from here on
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor

probe = {{"__name__": "probe"}}
exec({probe!r}, probe)
for folder in {folders!r}:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    for loaded in (model, processor):
        assert type(loaded).__module__.startswith("transformers_modules"), type(loaded)
    save_file(probe["compute"](model.requires_grad_(False), processor), folder + "/found.safetensors")
    packages = tuple(type(loaded).__module__.rpartition(".")[0] for loaded in (model, processor))
    print(*(name.rpartition(".")[2] for name in sys.modules if name.startswith(packages)))
"""


@pytest.mark.slow
def test_attached_code_of_earlier_formats_still_runs(tmp_path: Path) -> None:
    copies = []
    for folder in COMPLETE:
        copy = Path(shutil.copytree(folder, tmp_path / f"{folder.parent.name.replace('-', '_')}_{folder.name}"))
        with zipfile.ZipFile(folder / "code.zip") as archive:
            archive.extractall(copy)
        code = attached_code(copy)
        # the first formats have no record
        assert (code is None) == (folder.parent.name in ("1-converted-with-code", "2-one-file-per-family"))
        if code is not None:
            assert {path.name: sha256_of(path) for path in copy.glob("*.py")} == code.sha256
        copies.append(copy)
    probe = Path(loading_probe.__file__).read_text(encoding="utf-8")
    code_of_process = COMPUTE_IN_BARE_PROCESS.format(probe=probe, folders=[str(copy) for copy in copies])
    result = run_without_package(code_of_process, tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]
    for folder, copy, imported in zip(COMPLETE, copies, result.stdout.splitlines()):
        compare_complete(load_file(copy / "found.safetensors"), folder)
        if folder.parent.name >= "3":  # every file that is attached is imported
            assert {path.stem for path in copy.glob("*.py")} <= set(imported.split())
