"""Conversion of checkpoints in the format of the original ALBEF repository, derived from recorded ones."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from modeling_lavis.hub.accounting import AccountingError
from modeling_lavis.hub.convert import convert


def recorded(goldens: Path, architecture: str) -> dict[str, torch.Tensor]:
    return dict(torch.load(goldens / architecture / "checkpoint.pth", weights_only=True)["model"])


def with_token_types(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Add the token type embeddings that checkpoints of the original repository have."""
    generator = torch.Generator().manual_seed(0)
    for name in [name for name in weights if name.endswith("word_embeddings.weight")]:
        table = torch.randn(2, weights[name].shape[1], generator=generator) * 0.1
        weights[name.replace("word_embeddings", "token_type_embeddings")] = table
    return weights


def convert_weights(
    goldens: Path, tmp_path: Path, architecture: str, weights: dict[str, torch.Tensor], like: str = "", **settings: Any
) -> tuple[Any, Any]:
    file, output = tmp_path / "weights.pth", tmp_path / "repository"
    torch.save(weights, file)
    config = json.loads((goldens / (like or architecture) / "config.json").read_text())
    config = {**config, "arch": architecture, **settings}
    report = convert(architecture, file, output, config=config, tokenizer=goldens / "tokenizer")
    return AutoModel.from_pretrained(output).eval(), report


@pytest.mark.parametrize("use_token_types", [None, True, False])
def test_token_types_of_pretraining(goldens: Path, tmp_path: Path, use_token_types: bool | None) -> None:
    weights = with_token_types(recorded(goldens, "albef_pretrain"))
    settings = {} if use_token_types is None else {"use_token_type_embeddings": use_token_types}
    model, report = convert_weights(goldens, tmp_path, "albef_feature_extractor", weights, "albef_pretrain", **settings)
    assert model.config.use_token_type_embeddings is bool(use_token_types)
    name = "text_encoder.embeddings.token_type_embeddings.weight"
    assert torch.equal(model.state_dict()[name], weights[f"text_encoder.bert.{name.removeprefix('text_encoder.')}"])
    ids = torch.tensor([[2, 30, 31, 3]])
    embedded = model.text_encoder.embeddings(ids)
    table = model.text_encoder.embeddings
    raw = table.word_embeddings(ids) + table.position_embeddings(torch.arange(4))
    raw = raw + table.token_type_embeddings.weight[0] if use_token_types else raw
    assert torch.allclose(embedded, table.LayerNorm(raw), atol=1e-6)


def test_fine_tuned_checkpoints_use_token_types(goldens: Path, tmp_path: Path) -> None:
    weights = with_token_types(recorded(goldens, "albef_retrieval"))
    weights["ptr_queue"] = weights.pop("queue_ptr")
    model, report = convert_weights(goldens, tmp_path, "albef_retrieval", weights)
    assert model.config.use_token_type_embeddings
    assert not report.initialised


def test_missing_token_types_raise(goldens: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no token type embeddings"):
        convert_weights(
            goldens, tmp_path, "albef_retrieval", recorded(goldens, "albef_retrieval"), use_token_type_embeddings=True
        )


def test_nlvr_pretraining_checkpoint(goldens: Path, tmp_path: Path) -> None:
    """`pretrain_model_nlvr.pth`: pairs of layers, a text assignment head, no momentum encoders."""
    weights = {
        name.replace("text_encoder.", "text_encoder.bert.", 1): value
        for name, value in recorded(goldens, "albef_nlvr").items()
        if not name.split(".")[0].endswith("_m") and not name.startswith("cls_head")
    }
    hidden_size = weights["visual_encoder.pos_embed"].shape[-1]
    weights |= {"ta_head.weight": torch.zeros(3, hidden_size), "ta_head.bias": torch.zeros(3)}
    model, report = convert_weights(goldens, tmp_path, "albef_nlvr", with_token_types(weights))
    assert report.source_architecture == "albef_nlvr_pretrain"
    assert set(report.dropped) >= {"ta_head.weight", "ta_head.bias"}
    initialized = {name for name in report.initialised if not name.split(".")[0].endswith("_m")}
    assert {name.split(".")[0] for name in initialized} == {"cls_head"}
    layers = model.text_encoder.encoder.layer
    assert layers[6].crossattention.self.key.weight is layers[7].crossattention.self.key.weight


def test_nlvr_pretraining_checkpoint_fits_nlvr_only(goldens: Path, tmp_path: Path) -> None:
    weights = {
        name: value
        for name, value in recorded(goldens, "albef_nlvr").items()
        if name.startswith(("visual_encoder.", "text_encoder."))
    }
    with pytest.raises(
        ValueError, match="albef_nlvr_pretrain checkpoint, which cannot be converted to albef_classification"
    ):
        convert_weights(goldens, tmp_path, "albef_classification", weights, "albef_nlvr")


def test_untied_pairs_raise(goldens: Path, tmp_path: Path) -> None:
    weights = recorded(goldens, "albef_nlvr")
    name = "text_encoder.encoder.layer.7.crossattention.self.key.weight"
    weights[name] = weights[name] + 1
    with pytest.raises(AccountingError, match="tied in the model, but different in the checkpoint"):
        convert_weights(goldens, tmp_path, "albef_nlvr", weights)


def test_missing_weights_raise(goldens: Path, tmp_path: Path) -> None:
    weights = recorded(goldens, "albef_pretrain")
    del weights["text_encoder.bert.encoder.layer.3.crossattention.self.value.bias"]
    with pytest.raises(AccountingError, match=r"text_encoder\.bert\.encoder\.layer\.3\.crossattention\.self\.value"):
        convert_weights(goldens, tmp_path, "albef_pretrain", weights)
