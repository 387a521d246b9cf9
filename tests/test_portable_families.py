"""Every class loads from its folder by attached code alone and gives what the package gives; converted ones too."""

import json
from pathlib import Path

import pytest
import torch

from modeling_lavis.hub.convert import convert
from modeling_lavis.hub.portable import attach_code
from tests.conversion.golden_sets import arguments
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import tensors_of
from tests.test_portable_room import run_bare

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
def test_every_class_loads_by_attached_code(tmp_path: Path) -> None:
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
    result = run_bare(LOAD_ALL.format(names=json.dumps(names), folder=str(tmp_path)), tmp_path / "modules")
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


def test_converted_repositories_carry_their_code(tmp_path: Path) -> None:
    made = {}
    for architecture in ("blip_vqa", "albef_retrieval", "alpro_qa"):
        report = convert(**arguments(architecture, tmp_path / architecture))
        made[architecture] = report.model_class
        card = (tmp_path / architecture / "README.md").read_text(encoding="utf-8")
        assert f'AutoModel.from_pretrained("{architecture}", trust_remote_code=True)' in card
    code = LOAD_CONVERTED.format(folders=[str(tmp_path / name) for name in made])
    result = run_bare(code, tmp_path / "modules")
    assert result.returncode == 0, result.stderr[-3000:]
    processors = ("LavisBlipProcessor", "AlbefProcessor", "AlproProcessor")
    assert result.stdout.splitlines() == [f"{model} {own} True" for model, own in zip(made.values(), processors)]


def test_code_can_be_left_out(tmp_path: Path) -> None:
    convert(**arguments("blip_caption", tmp_path / "repo"), with_code=False)
    assert not list((tmp_path / "repo").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "repo" / "config.json").read_text(encoding="utf-8"))
    assert "trust_remote_code" not in (tmp_path / "repo" / "README.md").read_text(encoding="utf-8")
