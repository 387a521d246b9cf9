"""What is run before and after an upload: every converted head can be checked, and depends on its weights."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_lavis.hub.loading_probe import compute
from modeling_lavis.hub.repository_files import check_folder, list_folder
from tests.documentation.materials import GOLDENS, convert_recorded

ARCHITECTURES = sorted(
    path.parent.name
    for path in GOLDENS.glob("*/checkpoint.pth")
    if path.parent.name != "blip2_feature_extractor_clip_l"  # a second recording of an architecture
)
GENERATES = {"blip_caption", "blip_vqa", "blip_pretrain", "albef_vqa", "blip2", "blip2_opt", "blip2_t5"}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_head(architecture: str, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    convert_recorded(architecture, folder)
    assert check_folder(folder, list_folder(folder)) == []
    model = AutoModel.from_pretrained(folder, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(folder)
    with torch.no_grad():
        first, second = compute(model, processor), compute(model, processor)
        assert first.keys() == second.keys()
        assert [name for name in first if not torch.equal(first[name], second[name])] == []
        assert {name.partition(".")[0] for name in first} == {"inputs", "forward"} | (
            {"generated"} if architecture in GENERATES else set()
        )
        # other weights make a difference that is noticed
        used = [name for name, value in model.named_parameters() if "_m." not in name and value.ndim > 1]
        before = {name: value.clone() for name, value in first.items() if name.startswith("forward")}
        for name in (used[0], used[len(used) // 2]):
            weight = model.get_parameter(name)
            kept = weight.clone()
            weight.add_(0.1)
            after = compute(model, processor)
            assert any(not torch.equal(value, after[key]) for key, value in before.items()), name
            weight.copy_(kept)


def test_there_are_all_architectures() -> None:
    assert len(ARCHITECTURES) == 21 and GENERATES <= set(ARCHITECTURES)
