"""Conversion of the golden sets, from checkpoint to repository."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor, GenerationConfig

import modeling_lavis
from modeling_lavis.hub import zoo
from modeling_lavis.hub.convert import convert
from tests.conversion.golden_sets import BLIP, arguments, checkpoint, settings, weights


def expected_key(name: str) -> str:
    """An independent implementation of the key map."""
    return re.sub(r"^visual_encoder(_m)?\.", r"vision_model\1.", name)


@pytest.mark.parametrize("architecture", BLIP)
def test_repository_of_each_golden_set(architecture: str, tmp_path: Path) -> None:
    report = convert(**arguments(architecture, tmp_path / "repo"))
    model, info = AutoModel.from_pretrained(tmp_path / "repo", output_loading_info=True)
    assert type(model).__name__ == zoo.model_class_of(architecture) == report.model_class
    assert not any(info.values()), info

    original = weights(architecture)
    state = model.state_dict()
    for name, tensor in original.items():
        if expected_key(name) in state and name != "queue_ptr":
            assert torch.equal(state[expected_key(name)], tensor), name
    missing = set(state) - {expected_key(name) for name in original}
    assert not missing, missing
    assert set(report.used.values()) | set(report.dropped) == set(original)
    assert not set(report.used.values()) & set(report.dropped)

    processor = AutoProcessor.from_pretrained(tmp_path / "repo")
    side = settings(architecture)["vision"]["image_size"]
    assert processor.image_processor.size["height"] == side
    assert len(processor.tokenizer) == 602
    assert model.config.bos_token_id == 600 and model.config.enc_token_id == 601
    assert (tmp_path / "repo" / "README.md").read_text().startswith("---\n")


def test_queue_pointer_is_reset(tmp_path: Path) -> None:
    assert weights("blip_retrieval")["queue_ptr"].item() == 4
    report = convert(**arguments("blip_retrieval", tmp_path / "reset"))
    model = AutoModel.from_pretrained(tmp_path / "reset")
    assert model.queue_ptr.tolist() == [0] and "queue_ptr" in report.dropped and "queue_ptr" in report.initialised
    kept = settings("blip_retrieval") | {"reset_queue_ptr_after_load": False}
    convert(**arguments("blip_retrieval", tmp_path / "kept", config=kept))
    assert AutoModel.from_pretrained(tmp_path / "kept").queue_ptr.tolist() == [4]


def test_generation_defaults_equal_the_original(tmp_path: Path) -> None:
    expected = {"blip_caption": (3, 30, 10), "blip_pretrain": (3, 30, 10), "blip_vqa": (3, 10, 1)}
    for architecture in BLIP:
        convert(**arguments(architecture, tmp_path / architecture))
        path = tmp_path / architecture / "generation_config.json"
        assert path.exists() == (architecture in expected)
        if path.exists():
            made = GenerationConfig.from_pretrained(tmp_path / architecture)
            assert (made.num_beams, made.max_length, made.min_length) == expected[architecture]
            assert (made.decoder_start_token_id, made.bos_token_id) == (600, 600)
            assert (made.eos_token_id, made.pad_token_id) == (3, 0)


def test_prompts_and_text_lengths(tmp_path: Path) -> None:
    lengths = {"blip_caption": 40, "blip_vqa": 35, "blip_pretrain": 30, "blip_nlvr": 48, "blip_feature_extractor": 48}
    for architecture, length in lengths.items():
        config = {key: settings(architecture)[key] for key in ("vision", "text")}
        if architecture == "blip_pretrain":
            config["text"] = config["text"] | {"vocab_size": 602}
        convert(**arguments(architecture, tmp_path / architecture, config=config))
        processor = AutoProcessor.from_pretrained(tmp_path / architecture)
        assert processor.max_text_length == length
        assert processor.prompt == ("a picture of " if architecture == "blip_caption" else "")
        assert processor.cleaning == ("question" if architecture == "blip_vqa" else "caption")


def test_matching_has_neither_momentum_encoders_nor_queues(tmp_path: Path) -> None:
    report = convert(**arguments("blip_image_text_matching", tmp_path / "repo"))
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert model.config.use_momentum is False
    assert not [name for name in model.state_dict() if "_m." in name or "queue" in name]
    assert "momentum encoder" in report.dropped["visual_encoder_m.cls_token"]
    assert "queue" in report.dropped["image_queue"]


@pytest.mark.parametrize("wrapper", ["model", "state_dict", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_checkpoints_and_key_prefixes(wrapper: str | None, prefix: str, tmp_path: Path) -> None:
    renamed = {prefix + name: tensor for name, tensor in weights("blip_retrieval").items()}
    renamed[prefix + "ptr_queue"] = renamed.pop(prefix + "queue_ptr")  # as in the original BLIP repository
    torch.save({wrapper: renamed, "epoch": 3} if wrapper else renamed, tmp_path / "file.bin")
    report = convert(**arguments("blip_retrieval", tmp_path / "repo", checkpoint=tmp_path / "file.bin"))
    assert "ptr_queue" in report.dropped and len(report.used) == 186


def test_safetensors_checkpoint(tmp_path: Path) -> None:
    save_file({name: tensor.clone() for name, tensor in weights("blip_nlvr").items()}, tmp_path / "x.pth")
    report = convert(**arguments("blip_nlvr", tmp_path / "repo", checkpoint=tmp_path / "x.pth"))
    assert len(report.used) == 314


def test_missing_momentum_encoders_are_copies_of_online_weights(tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in weights("blip_retrieval").items() if "_m." not in name}
    torch.save({"model": kept}, tmp_path / "file.pth")
    report = convert(**arguments("blip_retrieval", tmp_path / "repo", checkpoint=tmp_path / "file.pth"))
    model = AutoModel.from_pretrained(tmp_path / "repo")
    for online, momentum in model.momentum_pairs:
        for online_parameter, momentum_parameter in zip(online.parameters(), momentum.parameters(), strict=True):
            assert torch.equal(online_parameter, momentum_parameter)
    assert "copy of the online weights" in report.initialised["vision_model_m.cls_token"]


def test_missing_queues_are_initialized(tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in weights("blip_pretrain").items() if "queue" not in name}
    torch.save(kept, tmp_path / "file.pth")
    convert(**arguments("blip_pretrain", tmp_path / "repo", checkpoint=tmp_path / "file.pth"))
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert model.image_queue.shape == (16, 8)
    torch.testing.assert_close(model.image_queue.norm(dim=0), torch.ones(8))
    assert not torch.equal(model.image_queue, model.text_queue)


def test_queue_of_another_size_is_initialized(tmp_path: Path) -> None:
    config = settings("blip_retrieval") | {"queue_size": 12}
    report = convert(**arguments("blip_retrieval", tmp_path / "repo", config=config))
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert model.image_queue.shape == (16, 12) and model.idx_queue.tolist() == [[-100] * 12]
    assert {"image_queue", "text_queue", "idx_queue", "queue_ptr"} <= set(report.dropped)


def test_use_momentum_false(tmp_path: Path) -> None:
    config = settings("blip_retrieval") | {"use_momentum": False}
    report = convert(**arguments("blip_retrieval", tmp_path / "repo", config=config))
    assert report.dropped["text_encoder_m.embeddings.LayerNorm.bias"] == "momentum encoder, switched off"
    assert report.dropped["idx_queue"] == "feature queue, switched off"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_float32_weights(dtype: str, tmp_path: Path) -> None:
    convert(**arguments("blip_retrieval", tmp_path / "repo", dtype=dtype))
    stored = load_file(tmp_path / "repo" / "model.safetensors")
    half = getattr(torch, dtype)
    assert stored["vision_model.pos_embed"].dtype == half
    momentum = stored["text_encoder_m.embeddings.LayerNorm.bias"]
    assert momentum.dtype == stored["temp"].dtype == stored["image_queue"].dtype == torch.float32
    assert stored["idx_queue"].dtype == torch.int64
    model = AutoModel.from_pretrained(tmp_path / "repo")
    assert model.vision_model.pos_embed.dtype == half and model.temp.dtype == torch.float32


def test_shards_with_an_index(tmp_path: Path) -> None:
    report = convert(**arguments("blip_vqa", tmp_path / "repo", max_shard_size="200KB"))
    assert len(report.weight_files) > 2
    index = json.loads((tmp_path / "repo" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(report.weight_files)
    for name in report.weight_files:
        assert sum(t.nbytes for t in load_file(tmp_path / "repo" / name).values()) <= 200_000
    _, info = AutoModel.from_pretrained(tmp_path / "repo", output_loading_info=True)
    assert not any(info.values())


def test_conversion_is_deterministic(tmp_path: Path) -> None:
    kept = {name: tensor for name, tensor in weights("blip_pretrain").items() if "queue" not in name}
    torch.save(kept, tmp_path / "file.pth")
    for name in ("first", "second"):
        convert(**arguments("blip_pretrain", tmp_path / name, checkpoint=tmp_path / "file.pth"))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_sizes_are_inferred_from_the_weights(tmp_path: Path) -> None:
    heads = {"vision": {"num_heads": 4}, "text": {"num_attention_heads": 4}}
    convert(**arguments("blip_pretrain", tmp_path / "repo", config=heads))
    config = AutoModel.from_pretrained(tmp_path / "repo").config
    assert (config.vision_config.image_size, config.vision_config.patch_size) == (32, 8)
    assert (config.text_config.vocab_size, config.text_config.max_position_embeddings) == (602, 48)
    assert (config.projection_dim, config.queue_size) == (16, 8)


def test_report(tmp_path: Path) -> None:
    report = convert(**arguments("blip_feature_extractor", tmp_path / "repo"))
    text = str(report)
    for part in (
        "blip_feature_extractor from a blip_pretrain checkpoint",
        "LavisBlipModel",
        "momentum encoder",
        "queue",
    ):
        assert part in text
    assert json.loads(json.dumps(report.as_dict()))["architecture"] == "blip_feature_extractor"


def test_model_type_sets_what_shapes_do_not_tell(tmp_path: Path) -> None:
    config = {"vision": {"num_heads": 4}, "text": {"num_attention_heads": 4}}
    convert(**arguments("blip_vqa", tmp_path / "repo", config=config, model_type="vqav2"))
    loaded = modeling_lavis.LavisBlipConfig.from_pretrained(tmp_path / "repo")
    assert loaded.vision_config.drop_path_rate == 0.1
    assert loaded.vision_config.image_size == 32  # from the file, not the published 480


def test_push_to_hub_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def publish(folder: Path, repo_id: str, commit_message: str) -> SimpleNamespace:
        calls.append((repo_id, {path.name for path in folder.iterdir()}))
        return SimpleNamespace(url="https://hub/me/captioner/tree/1")

    monkeypatch.setattr("modeling_lavis.hub.publish.publish", publish)
    report = convert(**arguments("blip_caption", tmp_path / "repo", push_to_hub="me/captioner"))
    assert report.pushed_to == "https://hub/me/captioner/tree/1"
    ((repo_id, names),) = calls
    assert repo_id == "me/captioner"
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= names
    assert 'model="me/captioner"' in (tmp_path / "repo" / "README.md").read_text()


def test_failed_upload_keeps_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def publish(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("modeling_lavis.hub.publish.publish", publish)
    with pytest.raises(
        OSError, match=r"complete in .*repo, but not published: no network\nTry again with: modeling-lavis"
    ):
        convert(**arguments("blip_caption", tmp_path / "repo", push_to_hub="me/captioner"))
    assert (tmp_path / "repo" / "model.safetensors").exists()


def test_name_of_the_repository_is_checked_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not say whose repository it is"):
        convert(**arguments("blip_caption", tmp_path / "repo", push_to_hub="captioner"))
    assert not (tmp_path / "repo").exists()


def test_checkpoint_is_not_modified(tmp_path: Path) -> None:
    before = checkpoint("blip_caption").read_bytes()
    convert(**arguments("blip_caption", tmp_path / "repo", dtype="float16"))
    assert checkpoint("blip_caption").read_bytes() == before
