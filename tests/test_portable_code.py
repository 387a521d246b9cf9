"""modeling_lavis/models/ is a room that travels: its files load from a Hub folder without the package."""

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
from modeling_lavis.hub.portable import attach_code, portable_files
from tests.pipelines.tiny_models import save_model

ROOM = Path(modeling_lavis.__file__).parent / "models"
FILES = sorted(ROOM.glob("*.py"))
TRAVELLERS = [path for path in FILES if path.stem != "__init__"]
OUTSIDE = {"torch", "numpy", "PIL", "transformers", "huggingface_hub"}
FAMILIES = ("albef", "alpro", "lavis_blip", "lavis_blip_2")

by_name = pytest.mark.parametrize("path", TRAVELLERS, ids=lambda path: path.stem)


def family_of(stem: str) -> str | None:
    """The family that a file belongs to, or None for a shared part: the longest name that the file name carries."""
    return max((family for family in FAMILIES if family in stem), key=len, default=None)


def imports_of(path: Path) -> list[ast.Import | ast.ImportFrom]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]


def test_flat() -> None:
    assert [str(path) for path in ROOM.rglob("*.py") if path.parent != ROOM] == []
    assert len(TRAVELLERS) >= 10


@by_name
def test_licence_line(path: Path) -> None:
    assert path.read_text(encoding="utf-8").splitlines()[0] == "# SPDX-License-Identifier: Apache-2.0"


@by_name
def test_imports(path: Path) -> None:
    """Outside: a short list of packages, the rest behind a guard. Inside: `from .file import Name` and nothing else."""
    allowed = OUTSIDE | set(sys.stdlib_module_names)
    # transformers' loader imports every package that its own reader finds outside a guard
    assert set(get_imports(path)) <= allowed
    for node in imports_of(path):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"{path.name}:{node.lineno} climbs out of the room"
            assert node.module, f"{path.name}:{node.lineno}: `from . import x` is not seen by the Hub's loader"
            assert "." not in node.module
            assert (ROOM / f"{node.module}.py").is_file(), f"{path.name}:{node.lineno} imports a file that is not there"
        else:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            tops = {name.split(".")[0] for name in names}
            assert "modeling_lavis" not in tops, f"{path.name}:{node.lineno}: siblings are imported by one dot"
            assert tops <= allowed | {"torchvision", "av", "torchcodec"}, f"{path.name}:{node.lineno}"


@by_name
def test_the_loaders_reader_of_text_agrees_with_the_syntax(path: Path) -> None:
    """It searches lines by a regular expression: a docstring line that starts like an import would send it astray."""
    real = {node.module for node in imports_of(path) if isinstance(node, ast.ImportFrom) and node.level}
    assert set(get_relative_imports(path)) == real


@by_name
def test_parts_know_no_family_and_families_not_each_other(path: Path) -> None:
    own = family_of(path.stem)
    used = {family_of(node.module) for node in imports_of(path) if isinstance(node, ast.ImportFrom) and node.level} - {
        None
    }
    assert used <= {own}


@pytest.mark.parametrize("path", [p for p in TRAVELLERS if p.stem.startswith("configuration_")], ids=lambda p: p.stem)
def test_configurations_need_no_torch(path: Path) -> None:
    for file in portable_files([path.stem]):
        assert "torch" not in get_imports(file), f"{path.name} imports torch by way of {file.name}"


@by_name
def test_writes_nothing_and_reads_no_environment(path: Path) -> None:
    """No printing, no environment variables, no assert: what a model file may not touch."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.name}:{getattr(node, 'lineno', '?')}"
        assert not isinstance(node, ast.Assert), f"{where}: raise an error that says what to do instead of assert"
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
    """A tiny model saved with its code, and what it answers to a fixed input."""
    torch.manual_seed(0)
    model = modeling_lavis.LavisBlipForImageTextRetrieval(tiny_config()).eval()
    folder = tmp_path / "published"
    model.save_pretrained(folder)
    attach_code(folder)
    with torch.no_grad():
        expected = model.get_text_features(torch.tensor([[1, 5, 6, 2]]), torch.ones(1, 4, dtype=torch.long))
    torch.save(expected, tmp_path / "expected.pt")
    return folder


BARE_PROCESS = """
import sys
sys.modules['modeling_lavis'] = None  # however it is installed, importing it fails from here on
import torch
from transformers import AutoConfig, AutoModel, AutoModelForZeroShotImageClassification
for auto_class in (AutoModel, AutoModelForZeroShotImageClassification):
    model = auto_class.from_pretrained({folder!r}, trust_remote_code=True).eval()
    assert type(model).__name__ == "LavisBlipForImageTextRetrieval"
    assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
    with torch.no_grad():
        found = model.get_text_features(torch.tensor([[1, 5, 6, 2]]), torch.ones(1, 4, dtype=torch.long))
    torch.testing.assert_close(found, torch.load({expected!r}, weights_only=True), rtol=0, atol=1e-6)
model.save_pretrained({again!r})
assert not any(name.startswith("modeling_lavis.") for name in sys.modules)
"""


def run_bare(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"HF_MODULES_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    # -I: neither the current folder nor PYTHONPATH nor the user's packages are on the path
    return subprocess.run(
        [sys.executable, "-I", "-W", "ignore", "-c", code],
        env=environment,
        cwd=cache.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_loads_where_the_package_is_not_installed(published: Path, tmp_path: Path) -> None:
    code = BARE_PROCESS.format(
        folder=str(published),
        expected=str(tmp_path / "expected.pt"),
        again=str(tmp_path / "again"),
    )
    result = run_bare(code, tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]
    assert (tmp_path / "again" / "model.safetensors").is_file()


PROCESSOR_IN_BARE_PROCESS = """
import sys
sys.modules['modeling_lavis'] = None  # however it is installed, importing it fails from here on
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor
processor = AutoProcessor.from_pretrained({folder!r}, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor).__module__
image_processor = AutoImageProcessor.from_pretrained({folder!r}, trust_remote_code=True)
assert type(image_processor).__name__ == type(processor.image_processor).__name__ == "LavisImageProcessor"
model = AutoModel.from_pretrained({folder!r}, trust_remote_code=True)
inputs = processor(images=Image.open({picture!r}), return_tensors="pt")
print(model.generate(**inputs, max_new_tokens=3).tolist())
"""


def test_processor_travels_too(tmp_path: Path, goldens: Path, photos: dict[str, Path]) -> None:
    """Picture in, ids out, by attached code alone; the same ids as by the package."""
    folder = save_model(tmp_path / "captioner", "ForConditionalGeneration", goldens / "tokenizer")
    attach_code(folder)
    picture = str(next(iter(photos.values())))
    code = PROCESSOR_IN_BARE_PROCESS.format(folder=str(folder), picture=picture)
    result = run_bare(code, tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]

    processor = modeling_lavis.LavisBlipProcessor.from_pretrained(folder)
    model = modeling_lavis.LavisBlipForConditionalGeneration.from_pretrained(folder)
    inputs = processor(images=Image.open(picture), return_tensors="pt")
    assert result.stdout.strip() == str(model.generate(**inputs, max_new_tokens=3).tolist())


def test_installed_package_wins_over_attached_code(published: Path) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(published, trust_remote_code=True)
    assert type(model) is modeling_lavis.LavisBlipForImageTextRetrieval


def test_attached_files_are_the_packages_own(published: Path) -> None:
    attached = sorted(published.glob("*.py"))
    assert {"modeling_lavis_blip.py", "vision_vit.py"} <= {path.name for path in attached}
    assert "__init__.py" not in [path.name for path in attached]
    for path in attached:
        assert path.read_bytes() == (ROOM / path.name).read_bytes()
    config = json.loads((published / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_lavis_blip.LavisBlipForImageTextRetrieval"
    assert config["auto_map"]["AutoConfig"] == "configuration_lavis_blip.LavisBlipConfig"
    assert "AutoModelForPreTraining" not in config["auto_map"]
    assert [path.name for path in published.iterdir() if path.suffix == ".tmp"] == []


def test_attaching_twice_changes_nothing(published: Path) -> None:
    before = {path.name: path.read_bytes() for path in published.iterdir()}
    attach_code(published)
    assert {path.name: path.read_bytes() for path in published.iterdir()} == before


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"no config\.json"):
        attach_code(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], ["BlipModel"]])
def test_foreign_model(tmp_path: Path, architectures: list[str] | None) -> None:
    content = json.dumps({"architectures": architectures})
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match="expected a model class of modeling_lavis"):
        attach_code(tmp_path)
    assert (tmp_path / "config.json").read_text() == content
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_unknown_file_of_the_room() -> None:
    with pytest.raises(ValueError, match="no_such_file"):
        portable_files(["no_such_file"])
