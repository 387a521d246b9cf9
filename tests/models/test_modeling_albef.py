"""ALBEF: token types, computation shared by pairs, invalid inputs, the queue."""

from pathlib import Path

import pytest
import torch

from modeling_lavis import (
    AlbefForImagesAndTextClassification,
    AlbefForImageTextRetrieval,
    AlbefForPreTraining,
    AlbefForQuestionAnswering,
    AlbefModel,
)
from tests.models.albef_cases import albef_config
from tests.models.lavis_blip_cases import CLS, PAD, VOCAB, one_image

LOSS_OPTIONS = {"return_loss": True, "alpha": 0.3}


def count_rows(module: torch.nn.Module) -> list[int]:
    """List to which every later call of a module appends the rows of its first argument."""
    rows: list[int] = []
    module.register_forward_pre_hook(lambda _, args: rows.append(args[0].shape[0]))
    return rows


def test_use_token_type_embeddings_of_from_pretrained(tmp_path: Path) -> None:
    model = AlbefModel(albef_config(use_token_type_embeddings=True)).eval()
    table = model.text_encoder.embeddings.token_type_embeddings.weight
    inputs = {name: value for name, value in one_image(2).items() if name != "pixel_values"}
    model.save_pretrained(tmp_path)
    with_types = model(**inputs).text_embeds
    again = AlbefModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**inputs).text_embeds, with_types)
    without = AlbefModel.from_pretrained(tmp_path, use_token_type_embeddings=False).eval()
    kept = without.text_encoder.embeddings.token_type_embeddings.weight
    assert torch.equal(kept, table)
    assert not kept.requires_grad
    assert not torch.allclose(without(**inputs).text_embeds, with_types)
    with torch.no_grad():
        model.text_encoder.embeddings.token_type_embeddings.weight.zero_()
    assert torch.allclose(without(**inputs).text_embeds, model(**inputs).text_embeds, atol=1e-6)


def test_score_pairs_encodes_every_text_and_image_once() -> None:
    model = AlbefForImageTextRetrieval(albef_config(use_momentum=False)).eval()
    inputs = one_image(4)
    pairs = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    text_rows = count_rows(model.text_encoder.encoder.layer[0].attention.self.key)
    key_rows = count_rows(model.text_encoder.encoder.layer[1].crossattention.self.key)
    scores = model.score_pairs(inputs["pixel_values"], texts, pairs).logits
    assert sum(text_rows) == 4
    assert sum(key_rows) == 4
    one_by_one = [
        model(
            pixel_values=inputs["pixel_values"][i : i + 1],
            **{name: value[t : t + 1] for name, value in texts.items()},
            match_head="itm",
        ).logits[0]
        for i, t in pairs.tolist()
    ]
    torch.testing.assert_close(scores, torch.stack(one_by_one), atol=1e-5, rtol=1e-4)


def test_training_step_projects_images_once() -> None:
    model = AlbefForPreTraining(albef_config())
    inputs = {**one_image(4), "image_ids": torch.arange(4)}
    key_rows = count_rows(model.text_encoder.encoder.layer[1].crossattention.self.key)
    text_rows = count_rows(model.text_encoder.encoder.layer[0].attention.self.key)
    momentum_parameters = [p for name, p in model.named_parameters() if name.split(".")[0].endswith("_m")]
    model(**inputs, **LOSS_OPTIONS).loss.backward()
    assert key_rows == [4]  # shared by ITM and MLM
    assert text_rows == [4, 4]  # texts, and texts with masked tokens
    assert all(p.grad is None for p in momentum_parameters)


def test_columns_of_padding_are_cut_off() -> None:
    model = AlbefForImageTextRetrieval(albef_config()).eval()
    inputs = one_image(4)
    padded = dict(inputs)
    padded["input_ids"] = torch.nn.functional.pad(inputs["input_ids"], (0, 9), value=PAD)
    padded["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 9))
    lengths: list[int] = []
    model.text_encoder.embeddings.register_forward_hook(lambda _, args, output: lengths.append(output.shape[1]))
    losses = []
    for batch in (inputs, padded):
        torch.manual_seed(0)
        losses.append(model(**batch, **LOSS_OPTIONS, update_state=False).loss)
    torch.testing.assert_close(*losses)
    assert set(lengths) == {inputs["input_ids"].shape[1]}


@pytest.mark.parametrize("head", [AlbefForImageTextRetrieval, AlbefForPreTraining])
def test_batches_without_negatives_raise(head: type) -> None:
    model = head(albef_config())
    with pytest.raises(ValueError, match="negative for every row"):
        model(**one_image(1), **LOSS_OPTIONS)
    with pytest.raises(ValueError, match="image_ids are equal"):
        model(**one_image(3), image_ids=torch.zeros(3, dtype=torch.long), **LOSS_OPTIONS)


def test_answer_decoder_has_the_fusion_layers_only() -> None:
    model = AlbefForQuestionAnswering(albef_config(text={"num_hidden_layers": 5, "fusion_layer": 2}))
    decoder = model.config.get_text_config(decoder=True)
    assert decoder.num_hidden_layers == 3
    assert all(hasattr(layer, "crossattention") for layer in model.text_decoder.bert.encoder.layer)
    assert model.config.get_text_config() is model.config.text_config
    answers = model.eval().generate(**one_image(2), num_beams=2, max_new_tokens=3)
    assert (answers[:, 0] == CLS).all()


@pytest.mark.parametrize(
    "head", [AlbefModel, AlbefForImageTextRetrieval, AlbefForPreTraining, AlbefForQuestionAnswering]
)
def test_heads_for_one_image_refuse_checkpoints_for_two(head: type, tmp_path: Path) -> None:
    config = albef_config()
    AlbefForImagesAndTextClassification(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="two images .* takes one image"):
        head.from_pretrained(tmp_path)
    assert not config.text_config.pair_image_layers
    head(config)
    again = AlbefForImagesAndTextClassification.from_pretrained(tmp_path)
    assert again.config.text_config.pair_image_layers


def test_features_of_images_and_texts_alone() -> None:
    model = AlbefModel(albef_config()).eval()
    inputs = one_image(2)
    text_inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    both, image, text = model(**inputs), model(pixel_values=inputs["pixel_values"]), model(**text_inputs)
    images, texts = ("image_embeds", "image_features"), ("text_embeds", "text_features")
    for given, alone, names in ((both, image, images), (both, text, texts)):
        for name in names:
            torch.testing.assert_close(alone[name], given[name])
    assert set(image) == set(images) and set(text) == set(texts)
    assert set(both) == {*images, *texts, "multimodal_embeds"}


@pytest.mark.parametrize("token_id", [-100, VOCAB, VOCAB + 7])
def test_token_ids_outside_the_vocabulary_raise(token_id: int) -> None:
    model = AlbefForImageTextRetrieval(albef_config())
    inputs = one_image(2)
    inputs["input_ids"][1, 1] = token_id
    calls = [LOSS_OPTIONS, {"match_head": "itm"}, {"match_head": "itc"}]
    for call in calls:
        with pytest.raises(ValueError, match=rf"token id {token_id} .* from 0 to {VOCAB - 1}"):
            model(**inputs, **call)
    with pytest.raises(ValueError, match="the vocabulary of the model has ids"):
        model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    model.resize_token_embeddings(VOCAB + 8)
    if token_id > 0:
        assert bool(model(**inputs, **LOSS_OPTIONS).loss.isfinite())


def test_queue_wraps_around() -> None:
    model = AlbefForImageTextRetrieval(albef_config(queue_size=5)).train()
    features = []
    for step in range(3):
        output = model(**one_image(3), image_ids=torch.arange(3) + 3 * step, **LOSS_OPTIONS, output_intermediates=True)
        states = output.intermediates["image_embeds_m"][:, 0]
        features.append(torch.nn.functional.normalize(model.vision_proj_m(states), dim=-1))
        assert bool(output.loss.isfinite())
    assert model.queue_ptr.item() == 9 % 5
    assert model.idx_queue[0].tolist() == [5, 6, 7, 8, 4]
    newest = torch.cat(features)[[5, 6, 7, 8, 4]].T
    torch.testing.assert_close(model.image_queue, newest)
