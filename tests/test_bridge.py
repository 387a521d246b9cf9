"""`load_model` and `load_model_and_preprocess` by the names of LAVIS."""

import inspect
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import modeling_lavis
from modeling_lavis import bridge
from modeling_lavis.hub import downloads, repositories, zoo
from modeling_lavis.hub.zoo_conversion import convert_entry
from tests.conversion.golden_sets import GOLDENS, TOKENIZER, checkpoint
from tests.conversion.zoo_mirror import use_tiny_entries, write_tiny_mirror

PHOTO = next(path for path in sorted((GOLDENS / "processors" / "images").iterdir()) if path.suffix == ".png")


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no variable, and a working directory with a tokenizer by its name on the Hub."""
    monkeypatch.setattr(downloads.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.delenv(repositories.VARIABLE, raising=False)
    work = tmp_path / "work"
    shutil.copytree(TOKENIZER, work / "bert-base-uncased")
    monkeypatch.chdir(work)
    return work


def convert_tiny(folder: Path, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for entry in use_tiny_entries(monkeypatch, *names):
        mirror = write_tiny_mirror(folder.parent / "mirror", entry)
        convert_entry(entry, folder / entry.repository, mirror=mirror, with_code=False)


def test_arguments_are_those_of_lavis() -> None:
    found = inspect.signature(modeling_lavis.load_model).parameters
    ordered = [(name, found[name].default) for name in list(found)[:5]]
    empty = inspect.Parameter.empty
    assert ordered == [
        ("name", empty),
        ("model_type", empty),
        ("is_eval", False),
        ("device", "cpu"),
        ("checkpoint", None),
    ]
    assert list(inspect.signature(modeling_lavis.load_model_and_preprocess).parameters)[:4] == list(found)[:4]


def test_unknown_names_and_places(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown architecture 'blip_captions'"):
        modeling_lavis.load_model("blip_captions", "base_coco")
    with pytest.raises(ValueError, match="it has base_coco, large_coco"):
        modeling_lavis.load_model("blip_caption", "base")
    entry = zoo.get("blip_caption", "base_coco")
    with pytest.raises(OSError, match="convert --zoo blip_caption/base_coco"):
        repositories.repository_of(entry, repositories=tmp_path)
    with pytest.raises(OSError, match="neither a folder of converted repositories nor the name"):
        repositories.repository_of(entry, repositories="./absent")
    with pytest.raises(OSError, match="so it is not a repository"):
        repositories.repository_of(entry, checkpoint=tmp_path)
    assert repositories.repository_of(entry, repositories="some-org") == "some-org/blip-caption-base-coco"
    assert repositories.repository_of(entry, checkpoint="org/own") == "org/own"


@pytest.mark.slow
def test_folder_of_repositories(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert_tiny(no_cache / "zoo", monkeypatch, "blip_caption/base_coco")
    model = modeling_lavis.load_model("blip_caption", "base_coco", repositories=no_cache / "zoo")
    assert type(model).__name__ == "LavisBlipForConditionalGeneration"
    assert model.training and model.dtype == torch.float32  # as from LAVIS
    monkeypatch.setenv(repositories.VARIABLE, str(no_cache / "zoo"))
    again = modeling_lavis.load_model(
        name="blip_caption", model_type="base_coco", is_eval=True, device=torch.device("cpu"), dtype=torch.bfloat16
    )
    assert not again.training and again.dtype == torch.bfloat16
    assert Path(again.name_or_path) == no_cache / "zoo" / "blip-caption-base-coco"
    assert not (no_cache.parent / "assets" / "modeling-lavis" / "repositories").exists()


@pytest.mark.slow
def test_published_checkpoint_is_converted_on_first_use(
    no_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (entry,) = use_tiny_entries(monkeypatch, "albef_classification/ve")
    torch_hub = tmp_path / "torch" / "checkpoints"  # where LAVIS keeps its downloads
    torch_hub.mkdir(parents=True)
    shutil.copy(checkpoint("albef_classification"), torch_hub / "albef_snli_ve_lavis.pt")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    model = modeling_lavis.load_model("albef_classification", "ve", is_eval=True)
    place = Path(model.name_or_path)
    assert place.name == entry.repository and place.parent.name == modeling_lavis.__version__
    assert entry.source in (place / "README.md").read_text()
    (torch_hub / "albef_snli_ve_lavis.pt").unlink()
    before = (place / "model.safetensors").stat().st_mtime_ns
    modeling_lavis.load_model("albef_classification", "ve")
    assert (place / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_checkpoint_of_ones_own(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_entries(monkeypatch, "blip_caption/base_coco")
    state = torch.load(checkpoint("blip_caption"), weights_only=True)["model"]
    name = "text_decoder.bert.encoder.layer.0.output.dense.bias"
    torch.save({"model": state | {name: state[name] + 1}, "epoch": 3}, "checkpoint_best.pth")
    model = modeling_lavis.load_model("blip_caption", "base_coco", True, "cpu", "checkpoint_best.pth")
    ours = name.removeprefix("text_decoder.")
    torch.testing.assert_close(model.text_decoder.state_dict()[ours], state[name] + 1)
    same = modeling_lavis.load_model("blip_caption", "base_coco", checkpoint="checkpoint_best.pth")
    assert same.name_or_path == model.name_or_path
    torch.save({"model": state | {name: state[name] + 2}}, "checkpoint_best.pth")  # a later epoch
    later = modeling_lavis.load_model("blip_caption", "base_coco", checkpoint="checkpoint_best.pth")
    assert later.name_or_path != model.name_or_path
    torch.testing.assert_close(later.text_decoder.state_dict()[ours], state[name] + 2)
    model.save_pretrained("mine")
    assert modeling_lavis.load_model("blip_caption", "base_coco", checkpoint="mine").name_or_path == "mine"
    shutil.copy(checkpoint("blip_nlvr"), "other.pth")
    with pytest.raises(ValueError, match="cannot be converted to blip_caption"):
        modeling_lavis.load_model("blip_caption", "base_coco", checkpoint="other.pth")


@pytest.mark.slow
def test_transforms(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    from tests.models.video_clips import write_clip

    names = ("blip_caption/base_coco", "albef_vqa/vqav2", "blip_feature_extractor/base", "alpro_retrieval/didemo")
    convert_tiny(no_cache / "zoo", monkeypatch, *names)
    monkeypatch.setenv(repositories.VARIABLE, str(no_cache / "zoo"))
    model, images, texts = modeling_lavis.load_model_and_preprocess("blip_caption", "base_coco", is_eval=True)
    side = model.config.vision_config.image_size
    image = Image.open(PHOTO).convert("RGB")
    assert images["eval"](image).shape == images["train"](image).shape == (3, side, side)
    assert not torch.equal(images["train"](image), images["eval"](image))
    assert texts["train"]("A DOG!") == "a picture of a dog" and texts["eval"]("A DOG!") == "a dog"
    _, _, texts = modeling_lavis.load_model_and_preprocess("albef_vqa", "vqav2")
    assert texts["eval"]("What? A (dog)") == "what? a dog" == texts["train"]("What? A (dog)")
    _, images, texts = modeling_lavis.load_model_and_preprocess("blip_feature_extractor", "base")
    assert images["train"](image) is image and texts["train"]("A DOG!") == "A DOG!"  # LAVIS defines none
    assert texts["eval"]("A DOG!") == "a dog"
    model, videos, texts = modeling_lavis.load_model_and_preprocess("alpro_retrieval", "didemo", is_eval=True)
    write_clip(Path("clip.mp4"), frames=24)
    clip, vision = videos["eval"]("clip.mp4"), model.config.vision_config
    assert clip.shape == (vision.num_frames, 3, vision.image_size, vision.image_size)
    assert videos["train"]("clip.mp4") == "clip.mp4" and texts["train"]("A DOG!") == "A DOG!"
    with torch.no_grad():
        assert model(pixel_values_videos=clip[None], input_ids=torch.tensor([[2, 5, 3]])).logits_per_video.shape == (
            1,
            1,
        )


def test_every_architecture_is_known_to_the_transforms() -> None:
    known = {*bridge._NO_TRAINING, *bridge._NO_EVALUATION, *bridge._QUESTIONS, *bridge._TRAINING_SIZES}
    assert known <= {architecture for architecture, _ in zoo.entries()}
    assert set(bridge._TRAINED_ON_VIDEOS) <= set(zoo.entries())
