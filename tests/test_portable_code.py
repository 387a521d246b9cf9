"""Portable code: the files of modeling_lavis/models load from a Hub repository without the package."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers.dynamic_module_utils import get_imports, get_relative_imports

import modeling_lavis
from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.portable import attach_code, portable_files
from tests.conversion.golden_sets import arguments
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import tensors_of
from tests.pipelines.tiny_models import save_model

FOLDER = Path(modeling_lavis.__file__).parent / "models"
FILES = sorted(FOLDER.glob("*.py"))
PORTABLE_FILES = [path for path in FILES if path.stem != "__init__"]
EXTERNAL_PACKAGES = {"torch", "numpy", "PIL", "transformers", "huggingface_hub"}
FAMILIES = ("albef", "alpro", "lavis_blip", "lavis_blip_2")

by_name = pytest.mark.parametrize("path", PORTABLE_FILES, ids=lambda path: path.stem)


def family_of(stem: str) -> str | None:
    """The family of a file: the longest family name in the file name, or None for a shared file."""
    return max((family for family in FAMILIES if family in stem), key=len, default=None)


def imports_of(path: Path) -> list[ast.Import | ast.ImportFrom]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_models_folder_is_flat() -> None:
    assert [str(path) for path in FOLDER.rglob("*.py") if path.parent != FOLDER] == []
    assert len(PORTABLE_FILES) >= 10


@by_name
def test_license_line(path: Path) -> None:
    assert path.read_text(encoding="utf-8").splitlines()[0] == "# SPDX-License-Identifier: Apache-2.0"


@by_name
def test_imports(path: Path) -> None:
    """External imports are on a short list, or guarded. Internal imports have the form `from .file import Name`."""
    allowed = EXTERNAL_PACKAGES | set(sys.stdlib_module_names)
    # transformers' loader requires every package whose import it finds outside a guard
    assert set(get_imports(path)) <= allowed
    for node in imports_of(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{path.name}:{node.lineno} imports from a parent folder"
            assert node.module, f"{path.name}:{node.lineno}: the Hub's loader does not find `from . import x`"
            assert "." not in node.module
            assert (FOLDER / f"{node.module}.py").is_file(), f"{path.name}:{node.lineno} imports a missing file"
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            tops = {name.split(".")[0] for name in names}
            assert "modeling_lavis" not in tops, f"{path.name}:{node.lineno}: import siblings relatively, with one dot"
            guarded = {"torchvision", "av", "torchcodec", "accelerate", "httpx"}
            assert tops <= allowed | guarded, f"{path.name}:{node.lineno}"


@by_name
def test_transformers_finds_the_relative_imports(path: Path) -> None:
    """transformers searches lines with a regular expression, which also matches imports in docstrings."""
    real = {node.module for node in imports_of(path) if isinstance(node, ast.ImportFrom) and node.level}
    assert set(get_relative_imports(path)) == real


@by_name
def test_shared_files_and_families_import_no_other_family(path: Path) -> None:
    own = family_of(path.stem)
    used = {family_of(node.module) for node in imports_of(path) if isinstance(node, ast.ImportFrom) and node.level} - {
        None
    }
    assert used <= {own}


@pytest.mark.parametrize(
    "path", [p for p in PORTABLE_FILES if p.stem.startswith("configuration_")], ids=lambda p: p.stem
)
def test_configurations_do_not_import_torch(path: Path) -> None:
    for file in portable_files([path.stem]):
        assert "torch" not in get_imports(file), f"{path.name} imports torch through {file.name}"


@by_name
def test_no_assert_print_or_environment_variables(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.name}:{getattr(node, 'lineno', '?')}"
        assert not isinstance(node, ast.Assert), f"{where}: raise an error instead of assert"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "input", "exec", "eval"}, where
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in {("os", "environ"), ("torch", "manual_seed")}, where


def tiny_config() -> "modeling_lavis.LavisBlipConfig":
    return modeling_lavis.LavisBlipConfig(
        vision_config={
            "image_size": 32,
            "patch_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        text_config={
            "vocab_size": 64,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": 32,
        },
        projection_dim=16,
        queue_size=8,
        cls_token_id=1,
        eos_token_id=2,
        bos_token_id=3,
        enc_token_id=4,
    )


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A tiny model saved with its code, and its output for a fixed input."""
    torch.manual_seed(0)
    model = modeling_lavis.LavisBlipForImageTextRetrieval(tiny_config()).eval()
    folder = tmp_path / "published"
    model.save_pretrained(folder)
    attach_code(folder)
    with torch.no_grad():
        expected = model.get_text_features(
            torch.tensor([[1, 5, 6, 2]]), torch.ones(1, 4, dtype=torch.long)
        ).pooler_output
    torch.save(expected, tmp_path / "expected.pt")
    return folder


LOAD_MODEL = """
import sys
sys.modules['modeling_lavis'] = None  # importing it raises, even if it is installed
import torch
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification
for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
    model = auto_class.from_pretrained({folder!r}, trust_remote_code=True).eval()
    assert type(model).__name__ == "LavisBlipForImageTextRetrieval"
    assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
    with torch.no_grad():
        found = model.get_text_features(torch.tensor([[1, 5, 6, 2]]), torch.ones(1, 4, dtype=torch.long)).pooler_output
    torch.testing.assert_close(found, torch.load({expected!r}, weights_only=True), rtol=0, atol=1e-6)
model.save_pretrained({again!r})
assert not any(name.startswith("modeling_lavis.") for name in sys.modules)
"""


def run_without_package(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # -I: without the current folder, PYTHONPATH and user packages
    return subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code],
        env=environment,
        cwd=cache.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_model_loads_without_the_package(published: Path, tmp_path: Path) -> None:
    code = LOAD_MODEL.format(
        folder=str(published),
        expected=str(tmp_path / "expected.pt"),
        again=str(tmp_path / "again"),
    )
    result = run_without_package(code, tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "again" / "model.safetensors").is_file()


LOAD_PROCESSOR = """
import sys
sys.modules['modeling_lavis'] = None  # importing it raises, even if it is installed
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor
processor = AutoProcessor.from_pretrained({folder!r}, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor).__module__
image_processor = AutoImageProcessor.from_pretrained({folder!r}, trust_remote_code=True)
assert type(image_processor).__name__ == type(processor.image_processor).__name__ == "LavisImageProcessor"
model = AutoModel.from_pretrained({folder!r}, trust_remote_code=True)
inputs = processor(images=Image.open({image!r}), return_tensors="pt")
print(model.generate(**inputs, max_new_tokens=3).tolist())
"""


@pytest.mark.slow
def test_processor_loads_without_the_package(tmp_path: Path, goldens: Path, photos: dict[str, Path]) -> None:
    """The attached code generates the same ids as the package."""
    folder = save_model(tmp_path / "captioner", "ForConditionalGeneration", goldens / "tokenizer")
    attach_code(folder)
    image = str(next(iter(photos.values())))
    code = LOAD_PROCESSOR.format(folder=str(folder), image=image)
    result = run_without_package(code, tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]

    processor = modeling_lavis.LavisBlipProcessor.from_pretrained(folder)
    model = modeling_lavis.LavisBlipForConditionalGeneration.from_pretrained(folder)
    inputs = processor(images=Image.open(image), return_tensors="pt")
    assert result.stdout.strip() == str(model.generate(**inputs, max_new_tokens=3).tolist())


def test_installed_package_takes_precedence_over_attached_code(published: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(published, trust_remote_code=True)
    assert type(model) is modeling_lavis.LavisBlipForImageTextRetrieval


def test_attached_files_equal_those_of_the_package(published: Path) -> None:
    attached = sorted(published.glob("*.py"))
    assert {"modeling_lavis_blip.py", "vision_vit.py"} <= {path.name for path in attached}
    assert "__init__.py" not in [path.name for path in attached]
    for path in attached:
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()
    config = json.loads((published / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_lavis_blip.LavisBlipForImageTextRetrieval"
    assert config["auto_map"]["AutoConfig"] == "configuration_lavis_blip.LavisBlipConfig"
    assert "AutoModelForPreTraining" not in config["auto_map"]
    assert [path.name for path in published.iterdir() if path.suffix == ".tmp"] == []


def test_attaching_twice_is_a_no_op(published: Path) -> None:
    before = {path.name: path.read_bytes() for path in published.iterdir()}
    attach_code(published)
    assert {path.name: path.read_bytes() for path in published.iterdir()} == before


def test_folder_without_config_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no config\.json"):
        attach_code(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], ["BlipModel"]])
def test_model_of_another_package_raises(tmp_path: Path, architectures: list[str] | None) -> None:
    content = json.dumps({"architectures": architectures})
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="expected a model class of modeling_lavis"):
        attach_code(tmp_path)
    assert (tmp_path / "config.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_unknown_portable_file_raises() -> None:
    with pytest.raises(ValueError, match="no_such_file"):
        portable_files(["no_such_file"])


# ---- all classes and converted repositories ----

CASES = [case for family in (lavis_blip_cases, albef_cases, alpro_cases, lavis_blip_2_cases) for case in family.CASES]

LOAD_ALL = """
import sys
sys.modules["modeling_lavis"] = None
import json, torch
from transformers import AutoModel

def flat(value, name=""):
    if torch.is_tensor(value):
        return {{name: value}}
    parts = value.items() if hasattr(value, "items") else enumerate(value) if isinstance(value, (tuple, list)) else ()
    found = {{}}
    for key, part in parts:
        found.update(flat(part, f"{{name}}.{{key}}" if name else str(key)))
    return found

for name in json.loads({names!r}):
    folder = {folder!r} + "/" + name
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    assert type(model).__name__ == name and type(model).__module__.startswith("transformers_modules"), type(model)
    recorded = torch.load(folder + ".pt", weights_only=True)
    with torch.no_grad():
        found = flat(model(**recorded["call"]))
    for key, value in recorded["found"].items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=lambda m: f"{{name}}: {{key}}: {{m}}")
    print(name)
"""


@pytest.mark.slow
def test_every_class_loads_without_the_package(tmp_path: Path) -> None:
    names = []
    for case in CASES:
        if case.name in names:
            continue
        model = case.model()
        model.save_pretrained(tmp_path / case.name)
        attach_code(tmp_path / case.name)
        call = {**case.inputs(2), **next(iter(case.modes.values()))}
        call = {name: value[:2] if torch.is_tensor(value) else value for name, value in call.items()}
        with torch.no_grad():
            found = tensors_of(model(**call))
        torch.save({"call": call, "found": found}, tmp_path / f"{case.name}.pt")
        names.append(case.name)
    result = run_without_package(LOAD_ALL.format(names=json.dumps(names), folder=str(tmp_path)), tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split() == names and len(names) == 20


LOAD_CONVERTED = """
import sys
sys.modules["modeling_lavis"] = None
from transformers import AutoModel, AutoProcessor
for folder in {folders!r}:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    for found in (model, processor):
        assert type(found).__module__.startswith("transformers_modules"), type(found)
    print(type(model).__name__, type(processor).__name__, len(processor.tokenizer("a dog")["input_ids"]) > 2)
"""


@pytest.mark.slow
def test_converted_repositories_contain_their_code(tmp_path: Path) -> None:
    made = {}
    for architecture in ("blip_vqa", "albef_retrieval", "alpro_qa"):
        report = convert(**arguments(architecture, tmp_path / architecture))
        made[architecture] = report.model_class
        card = (tmp_path / architecture / "README.md").read_text(encoding="utf-8")
        assert f'AutoModel.from_pretrained("{architecture}", trust_remote_code=True)' in card
    code = LOAD_CONVERTED.format(folders=[str(tmp_path / name) for name in made])
    result = run_without_package(code, tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]
    processors = ("LavisBlipProcessor", "AlbefProcessor", "AlproProcessor")
    assert result.stdout.splitlines() == [f"{model} {own} True" for model, own in zip(made.values(), processors)]


def test_conversion_without_code(tmp_path: Path) -> None:
    convert(**arguments("blip_caption", tmp_path / "repo"), with_code=False)
    assert not list((tmp_path / "repo").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "repo" / "config.json").read_text(encoding="utf-8"))
    assert "trust_remote_code" not in (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")
