"""Invalid inputs of a conversion: the error names them, and no files remain."""

import argparse
import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from modeling_lavis.hub import downloads
from modeling_lavis.hub.checkpoints import CheckpointError, read_checkpoint
from modeling_lavis.hub.convert import convert
from tests.conversion.golden_sets import arguments, checkpoint, settings, weights
from tests.http_servers import serve


class RunsCode:
    """An object that runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return (os.mkdir, (os.environ["FOLDER_OF_RUN_CODE"],))


def bad_empty_file(path: Path) -> None:
    path.touch()


def bad_truncated(path: Path) -> None:
    path.write_bytes(checkpoint("blip_caption").read_bytes()[:-1000])


def bad_half(path: Path) -> None:
    data = checkpoint("blip_caption").read_bytes()
    path.write_bytes(data[: len(data) // 2])


def bad_truncated_safetensors(path: Path) -> None:
    save_file(weights("blip_nlvr"), path)
    path.write_bytes(path.read_bytes()[:-1000])


def bad_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.jpg", b"not a checkpoint")


def bad_html(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html>404</html>")


def bad_lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def bad_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": RunsCode()}))


def bad_object(path: Path) -> None:
    torch.save({"model": weights("blip_caption"), "extra": RunsCode()}, path)


def bad_arguments(path: Path) -> None:
    torch.save({"model": weights("blip_caption"), "args": argparse.Namespace(lr=1e-5)}, path)


def bad_whole_model(path: Path) -> None:
    torch.save(nn.Linear(2, 2), path)


def bad_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def bad_non_tensors(path: Path) -> None:
    torch.save({"model": {"visual_encoder.cls_token": 3.0}}, path)


def bad_no_weights(path: Path) -> None:
    torch.save({"model": {}}, path)


def bad_duplicate_keys(path: Path) -> None:
    state = weights("blip_caption")
    torch.save(state | {"module.visual_encoder.cls_token": state["visual_encoder.cls_token"]}, path)


def bad_folder(path: Path) -> None:
    path.mkdir()


def bad_missing_file(path: Path) -> None:
    pass


UNREADABLE = {
    bad_empty_file: "empty",
    bad_truncated: "truncated",
    bad_half: "truncated",
    bad_truncated_safetensors: "truncated or corrupted",
    bad_zip: "zip archive",
    bad_html: "web page",
    bad_lfs_pointer: "Git LFS",
    bad_pickle: "pickle",
    bad_object: "objects other than tensors",
    bad_arguments: r"objects other than tensors \(argparse.Namespace\)",
    bad_whole_model: "objects other than tensors",
    bad_tensor: "contains a Tensor",
    bad_non_tensors: "not tensors",
    bad_no_weights: "no weights",
    bad_duplicate_keys: "twice",
    bad_folder: "is a folder",
    bad_missing_file: "does not exist",
}


@pytest.mark.parametrize("make", UNREADABLE, ids=lambda make: make.__name__)
def test_unreadable_files(make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FOLDER_OF_RUN_CODE", str(tmp_path / "created_by_code"))
    work = tmp_path / "work"
    work.mkdir()
    make(work / "given.pth")
    with pytest.raises(CheckpointError, match=UNREADABLE[make]) as caught:
        convert(**arguments("blip_caption", work / "repo", checkpoint=work / "given.pth"))
    message = str(caught.value)
    assert str(work / "given.pth") in message
    assert any(word in message for word in ("Give", "Download", "save", "Check", "Unpack", "Delete", "download")), (
        message
    )
    assert not (tmp_path / "created_by_code").exists()
    assert {path.name for path in work.iterdir()} <= {"given.pth"}


def test_format_is_read_from_the_content(tmp_path: Path) -> None:
    torch.save({"model": weights("blip_caption")}, tmp_path / "given.safetensors")
    report = convert(**arguments("blip_caption", tmp_path / "repo", checkpoint=tmp_path / "given.safetensors"))
    assert report.weight_files == ("model.safetensors",)


def test_other_url_schemes_raise(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="ftp://example.org/a.pth cannot be downloaded. Give an http.s. URL"):
        convert(**arguments("blip_caption", tmp_path / "repo", checkpoint="ftp://example.org/a.pth"))


def test_integer_weights_raise(tmp_path: Path) -> None:
    numbers = {name: tensor.to(torch.int32) for name, tensor in weights("blip_caption").items()}
    torch.save(numbers, tmp_path / "given.pth")
    message = r"(?s)an incompatible dtype.*cls_token of torch.int32, expected torch.float32"
    with pytest.raises(ValueError, match=message):
        convert(**arguments("blip_caption", tmp_path / "repo", checkpoint=tmp_path / "given.pth"))
    assert not (tmp_path / "repo").exists()


def test_unrestricted_unpickling_runs_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: unpickling the same object without restrictions runs its code."""
    monkeypatch.setenv("FOLDER_OF_RUN_CODE", str(tmp_path / "created_by_code"))
    bad_pickle(tmp_path / "x")
    pickle.loads((tmp_path / "x").read_bytes())
    assert (tmp_path / "created_by_code").exists()


def save(path: Path, state: dict[str, torch.Tensor]) -> Path:
    torch.save({"model": state}, path)
    return path


def assert_conversion_raises(tmp_path: Path, match: str, error: type[Exception] = ValueError, **changes: Any) -> str:
    before = sorted(path.name for path in tmp_path.iterdir())
    architecture = changes.pop("recording", "blip_caption")
    with pytest.raises(error, match=match) as caught:
        convert(**arguments(architecture, changes.pop("output", tmp_path / "repo"), **changes))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    return str(caught.value)


def test_missing_weights_raise(tmp_path: Path) -> None:
    state = weights("blip_caption")
    del state["visual_encoder.blocks.1.norm1.bias"], state["text_decoder.bert.embeddings.LayerNorm.weight"]
    message = assert_conversion_raises(
        tmp_path, "missing from the checkpoint", checkpoint=save(tmp_path / "x.pth", state)
    )
    assert str(tmp_path / "x.pth") in message and "visual_encoder.blocks.1.norm1.bias (40,)" in message
    assert "text_decoder.bert.embeddings.LayerNorm.weight (32,)" in message


def test_unexpected_weights_raise(tmp_path: Path) -> None:
    state = weights("blip_caption") | {"visual_encoder.head.weight": torch.zeros(2), "adapter.down": torch.zeros(3)}
    message = assert_conversion_raises(tmp_path, "not part of the model", checkpoint=save(tmp_path / "x.pth", state))
    assert "visual_encoder.head.weight (2,)" in message and "adapter.down (3,)" in message


def test_wrong_shapes_raise(tmp_path: Path) -> None:
    state = weights("blip_caption")
    state["visual_encoder.blocks.0.attn.proj.weight"] = torch.zeros(40, 41)
    message = assert_conversion_raises(tmp_path, "of another shape", checkpoint=save(tmp_path / "x.pth", state))
    assert "visual_encoder.blocks.0.attn.proj.weight (40, 41), expected (40, 40)" in message


def test_tied_weights_that_differ_raise(tmp_path: Path) -> None:
    state = weights("blip_caption")
    state["text_decoder.cls.predictions.decoder.weight"] = state["text_decoder.cls.predictions.decoder.weight"] + 1
    message = assert_conversion_raises(
        tmp_path, "different in the checkpoint", checkpoint=save(tmp_path / "x.pth", state)
    )
    assert "text_decoder.cls.predictions.decoder.weight" in message


def test_two_names_of_one_buffer_raise(tmp_path: Path) -> None:
    state = weights("blip_retrieval")
    state["ptr_queue"] = state["queue_ptr"]
    config = settings("blip_retrieval") | {"reset_queue_ptr_after_load": False}
    path = save(tmp_path / "x.pth", state)
    assert_conversion_raises(tmp_path, "given twice", recording="blip_retrieval", checkpoint=path, config=config)


def test_incomplete_momentum_encoders_raise(tmp_path: Path) -> None:
    state = weights("blip_retrieval")
    del state["vision_proj_m.weight"]
    path = save(tmp_path / "x.pth", state)
    message = assert_conversion_raises(
        tmp_path, "missing from the checkpoint", recording="blip_retrieval", checkpoint=path
    )
    assert "vision_proj_m.weight" in message


def test_missing_block_raises(tmp_path: Path) -> None:
    state = {name: t for name, t in weights("blip_caption").items() if ".blocks.0." not in name}
    message = assert_conversion_raises(tmp_path, "visual_encoder.blocks.0", checkpoint=save(tmp_path / "x.pth", state))
    assert "complete" in message


def test_checkpoint_of_another_architecture_raises(tmp_path: Path) -> None:
    assert_conversion_raises(tmp_path, "is a blip_nlvr checkpoint", checkpoint=checkpoint("blip_nlvr"))


@pytest.mark.parametrize(
    ("names", "hint"),
    [
        (["conv1.weight", "fc.bias"], "conv1.weight"),
        (["vision_model.embeddings.class_embedding", "text_decoder.bert.x"], "transformers' format"),
        (["vision_model.blocks.0.norm1.weight", "text_decoder.x"], "already in the format of this package"),
        (["Qformer.bert.x", "query_tokens"], "BLIP-2"),
    ],
)
def test_checkpoints_of_other_models_raise_with_a_hint(names: list[str], hint: str, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", dict.fromkeys(names, torch.zeros(2)))
    message = assert_conversion_raises(tmp_path, "not a blip checkpoint", checkpoint=path)
    assert hint in message and str(path) in message and "Give a checkpoint" in message


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"vision": {"hidden_size": 48, "num_heads": 4}}, "hidden_size is 48 in the configuration and 40"),
        ({"vision": {"num_head": 5}}, "unknown entries num_head"),
        ({"vision": 3}, "expected a JSON object"),
        ({"vision": {}, "text": {}}, "number of attention heads of the vision encoder with hidden size 40"),
        ({"arch": "blip_vqa"}, "'blip_vqa', but 'blip_caption'"),
        ({"vision": {"image_size": 33, "num_heads": 5}}, "33"),
        ({"text": {"vocab_size": 700, "num_attention_heads": 4}}, "vocab_size is 700"),
    ],
)
def test_mismatched_settings_raise(change: dict[str, Any], match: str, tmp_path: Path) -> None:
    assert_conversion_raises(tmp_path, match, config=settings("blip_caption") | change)


def test_settings_that_are_not_json_raise(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{'a': 1}")
    assert_conversion_raises(tmp_path, "c.json is not valid JSON", config=tmp_path / "c.json")
    (tmp_path / "c.json").write_text("[1]")
    assert_conversion_raises(tmp_path, "contains a list", config=tmp_path / "c.json")
    assert_conversion_raises(tmp_path, "absent.json cannot be read", error=OSError, config=tmp_path / "absent.json")


def test_unknown_number_of_classes_raises(tmp_path: Path) -> None:
    config = {key: settings("blip_pretrain")[key] for key in ("vision", "text")}
    assert_conversion_raises(
        tmp_path, '"num_classes": 3', recording="blip_pretrain", architecture="blip_classification", config=config
    )


def test_unknown_names_raise(tmp_path: Path) -> None:
    assert "blip_caption" in assert_conversion_raises(
        tmp_path, "Unknown architecture 'blip_caption2'", architecture="blip_caption2"
    )
    assert_conversion_raises(tmp_path, "Unknown architecture 'clip'", architecture="clip")
    assert "base_coco, large_coco" in assert_conversion_raises(
        tmp_path, "no published model type 'large'", model_type="large"
    )
    assert_conversion_raises(tmp_path, "Unknown dtype 'float8'", dtype="float8")
    assert_conversion_raises(tmp_path, "have no separate parts", vision_checkpoint="x.pth")
    assert_conversion_raises(tmp_path, "have no separate parts", language_model="facebook/opt-2.7b")


def test_mismatched_tokenizers_raise(tmp_path: Path) -> None:
    (tmp_path / "vocab").mkdir()
    (tmp_path / "vocab" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    message = assert_conversion_raises(tmp_path, "tokenizer has 8 tokens", tokenizer=tmp_path / "vocab")
    assert "602" in message and "--tokenizer" in message
    assert_conversion_raises(tmp_path, "cannot be loaded", error=OSError, tokenizer=tmp_path / "absent")
    (tmp_path / "vocab" / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    assert_conversion_raises(tmp_path, "vocabulary is empty", error=OSError, tokenizer=tmp_path / "vocab")
    (tmp_path / "vocab" / "tokenizer.json").write_text("{")
    assert_conversion_raises(tmp_path, "cannot be loaded", error=OSError, tokenizer=tmp_path / "vocab")


def test_existing_outputs_raise(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "mine.txt").write_text("keep")
    assert_conversion_raises(tmp_path, "--overwrite", error=FileExistsError)
    assert [path.name for path in (tmp_path / "repo").iterdir()] == ["mine.txt"]
    (tmp_path / "file").write_text("keep")
    assert_conversion_raises(tmp_path, "not a folder", error=FileExistsError, output=tmp_path / "file")
    assert_conversion_raises(tmp_path, "is not a folder", error=OSError, output=tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "keep"


def test_overwrite_replaces_model_repositories_only(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "holiday.jpg").write_text("keep")
    assert_conversion_raises(tmp_path, "not a model repository", error=FileExistsError, overwrite=True)
    old_repository(tmp_path / "clone")
    (tmp_path / "clone" / ".git").mkdir()
    assert_conversion_raises(tmp_path, "a git clone", error=FileExistsError, overwrite=True, output=tmp_path / "clone")
    old_repository(tmp_path / "holds_input")
    inside = save(tmp_path / "holds_input" / "x.pth", weights("blip_caption"))
    assert_conversion_raises(
        tmp_path, "inside the output", checkpoint=inside, overwrite=True, output=tmp_path / "holds_input"
    )
    assert inside.exists() and (tmp_path / "repo" / "holiday.jpg").exists()


def test_unwritable_folders_raise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_conversion_raises(tmp_path, "no permission to write", error=PermissionError)


def test_file_modes_of_the_output(tmp_path: Path) -> None:
    convert(**arguments("blip_caption", tmp_path / "repo"))
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "repo").iterdir()}
    (tmp_path / "plain").touch()
    assert modes == {(tmp_path / "plain").stat().st_mode & 0o777}


def test_empty_output_folder(tmp_path: Path) -> None:
    (tmp_path / "repo").mkdir()
    convert(**arguments("blip_caption", tmp_path / "repo"))
    assert (tmp_path / "repo" / "config.json").exists()


def old_repository(folder: Path) -> None:
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    (folder / "config.json").write_text("{}")


def test_overwrite_replaces_the_whole_folder(tmp_path: Path) -> None:
    old_repository(tmp_path / "repo")
    convert(**arguments("blip_caption", tmp_path / "repo", overwrite=True))
    assert not (tmp_path / "repo" / "old.txt").exists() and (tmp_path / "repo" / "config.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]


@pytest.mark.parametrize("stage", ["weights", "processor", "card", "interrupt"])
def test_failure_while_writing_leaves_no_files(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt if stage == "interrupt" else OSError(28, "No space left on device")

    target = {
        "weights": "modeling_lavis.hub.writing.save_file",
        "interrupt": "modeling_lavis.hub.writing.save_file",
        "processor": "modeling_lavis.models.processing_lavis_blip.LavisBlipProcessor.save_pretrained",
        "card": "modeling_lavis.hub.cards.card_for_conversion",
    }[stage]
    old_repository(tmp_path / "kept")
    monkeypatch.setattr(target, fail)
    for output, overwrite in ((tmp_path / "above" / "repo", False), (tmp_path / "kept", True)):
        with pytest.raises((OSError, KeyboardInterrupt)):
            convert(**arguments("blip_caption", output, overwrite=overwrite))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["config.json", "old.txt"]


def test_failed_replacement_is_rolled_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_repository(tmp_path / "repo")
    rename, moved = os.rename, []

    def second_fails(source: Any, target: Any) -> None:
        moved.append(target)
        if len(moved) == 2:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="no"):
        convert(**arguments("blip_caption", tmp_path / "repo", overwrite=True))
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]
    assert (tmp_path / "repo" / "old.txt").read_text() == "old"


def test_full_disk_raises_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: argparse.Namespace(free=10))
    assert_conversion_raises(tmp_path, "Free disk space", error=OSError)


# ---- values ----


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_are_reported(number: float, tmp_path: Path) -> None:
    state = weights("blip_caption")
    name = "text_decoder.bert.encoder.layer.0.output.dense.weight"
    state[name] = state[name].clone()
    state[name][-1, -1] = number
    report = convert(**arguments("blip_caption", tmp_path / "repo", checkpoint=save(tmp_path / "x.pth", state)))
    assert report.not_finite == (name,) and report.as_dict()["not_finite"] == [name]
    assert f"WARNING      1 weights contain NaN or infinite values: {name}" in str(report)
    assert f"`{name}`" in (tmp_path / "repo" / "README.md").read_text()


def test_overflow_in_half_precision_is_reported(tmp_path: Path) -> None:
    state = weights("blip_caption")
    name = "visual_encoder.blocks.0.mlp.fc1.bias"
    state[name] = state[name] + 1e6
    given = {"checkpoint": save(tmp_path / "x.pth", state)}
    assert convert(**arguments("blip_caption", tmp_path / "whole", **given)).not_finite == ()
    found = convert(**arguments("blip_caption", tmp_path / "half", dtype="float16", **given))
    assert found.not_finite == ("vision_model.blocks.0.mlp.fc1.bias",)
    plain = convert(**arguments("blip_caption", tmp_path / "plain"))
    assert plain.not_finite == () and "WARNING" not in str(plain)


# ---- URLs ----


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A loopback server with one checkpoint, which is truncated under another URL."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    monkeypatch.setattr(downloads.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(downloads, "_PAUSE", 0.0)
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
    data = checkpoint("blip_caption").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path not in ("/good.pth", "/short.pth"):
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if self.path == "/good.pth" else data[:5000])

    with serve(Handler) as address:
        yield address


def test_url_is_downloaded_unless_lavis_has_it(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = convert(**arguments("blip_caption", tmp_path / "repo", checkpoint=f"{server}/good.pth"))
    content = checkpoint("blip_caption").read_bytes()
    assert report.checkpoint.name == "good.pth" and report.checkpoint.read_bytes() == content
    assert report.source is not None and report.source["url"] == f"{server}/good.pth"
    assert report.as_dict()["source"] == {
        "url": f"{server}/good.pth",
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    of_lavis = tmp_path / "cache" / "checkpoints" / "good.pth"
    of_lavis.parent.mkdir(parents=True)
    of_lavis.write_bytes(checkpoint("blip_nlvr").read_bytes())
    assert read_checkpoint(f"{server}/good.pth").path != of_lavis  # a file of that name, and of another site
    monkeypatch.setattr(downloads, "_SITES_OF_LAVIS", (f"{server}/",))
    assert "cls_head.0.weight" in read_checkpoint(f"{server}/good.pth").tensors


def test_interrupted_download_is_no_checkpoint(server: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"was interrupted after 5,000 of"):
        convert(**arguments("blip_caption", tmp_path / "repo", checkpoint=f"{server}/short.pth"))
    assert [path.suffix for path in (tmp_path / "assets").rglob("blobs/*")] == [".incomplete"]
    assert not (tmp_path / "repo").exists()


def test_failed_downloads_raise(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="returned 404"):
        read_checkpoint(f"{server}/absent.pth")
    with pytest.raises(OSError, match="cannot be downloaded"):
        read_checkpoint("http://127.0.0.1:9/x.pth")
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        read_checkpoint(f"{server}/good.pth")
    with pytest.raises(ValueError, match="does not name a file"):
        read_checkpoint(f"{server}/")


def test_error_messages_are_shortened(tmp_path: Path) -> None:
    state = weights("blip_caption") | {f"visual_encoder.extra.{n}": torch.zeros(1) for n in range(100)}
    message = assert_conversion_raises(tmp_path, "and 80 more", checkpoint=save(tmp_path / "x.pth", state))
    assert len(message.splitlines()) < 40
    assert len(set(re.findall(r"visual_encoder\.extra\.\d+", message))) == 20
