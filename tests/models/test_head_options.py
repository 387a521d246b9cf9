"""Options and outputs that all heads share: features, recorded attention, missing masks, what a Trainer collects."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import Case, assert_same

ALL = [*albef_cases.CASES, *alpro_cases.CASES, *lavis_blip_2_cases.CASES, *lavis_blip_cases.CASES]
FEATURES = [case for case in ALL if hasattr(case.model_class, "get_text_features")]
ANSWERING = (albef_cases.ANSWERING, lavis_blip_cases.ANSWERING)


def by_name(cases: Any) -> Any:
    return pytest.mark.parametrize("case", cases, ids=[case.name for case in cases])


def visual_features(case: Case, model: Any, **options: Any) -> BaseModelOutputWithPooling:
    is_video = case.pixel_name == "pixel_values_videos"
    method = model.get_video_features if is_video else model.get_image_features
    return method(case.inputs(3)[case.pixel_name], **options)


def text_features(case: Case, model: Any, **options: Any) -> BaseModelOutputWithPooling:
    inputs = case.inputs(3)
    return model.get_text_features(inputs["input_ids"], inputs["attention_mask"], **options)


# ---- get_image_features and its like ----


@by_name(FEATURES)
def test_a_head_has_features_of_images_or_of_videos(case: Case) -> None:
    names = [name for name in ("get_image_features", "get_video_features") if hasattr(case.model_class, name)]
    assert names == ["get_video_features" if case in alpro_cases.CASES else "get_image_features"]


@by_name(FEATURES)
@pytest.mark.parametrize("features", [visual_features, text_features])
def test_features_are_outputs_with_gradient(case: Case, features: Any) -> None:
    model = case.model()
    model.set_attn_implementation("eager")
    output = features(case, model)
    assert type(output) is BaseModelOutputWithPooling and output.hidden_states is None and output.attentions is None
    pooled = output.pooler_output
    assert pooled.dtype == torch.float32 and pooled.shape[-1] == model.config.projection_dim
    torch.testing.assert_close(pooled.norm(dim=-1), torch.ones(pooled.shape[:-1]))
    projection = model.text_proj if features is text_features else model.vision_proj
    (gradient,) = torch.autograd.grad(pooled[..., 0].sum(), projection.weight)
    assert gradient.abs().sum() > 0
    recorded = features(case, model, output_hidden_states=True, output_attentions=True)
    assert len(recorded.hidden_states) == len(recorded.attentions) + 1 > 1
    as_tuple = features(case, model, return_dict=False)
    assert_same(as_tuple, (output.last_hidden_state, output.pooler_output), atol=0, rtol=0)
    model.config.return_dict = False
    assert isinstance(features(case, model), tuple)


@by_name(FEATURES)
@pytest.mark.parametrize("features", [visual_features, text_features])
def test_features_refuse_unknown_options(case: Case, features: Any) -> None:
    model = case.model()
    with pytest.raises(TypeError, match=r"got the option 'normalize', which it does not have.*It has: .*return_dict"):
        features(case, model, normalize=False)
    with pytest.raises(TypeError, match="Is 'interpolate_pos_encoding' meant|It has"):
        features(case, model, interpolate_position_encoding=True)


@by_name([case for case in FEATURES if "logits_per_text" in case.model()(**case.inputs(2))])
def test_features_equal_those_of_the_forward_pass(case: Case) -> None:
    model = case.model()
    output = model(**case.inputs(3))
    name = "video_features" if case.pixel_name == "pixel_values_videos" else "image_features"
    torch.testing.assert_close(visual_features(case, model).pooler_output, output[name])
    torch.testing.assert_close(text_features(case, model).pooler_output, output.text_features)


# ---- inputs of other heads ----


@pytest.mark.parametrize(
    ("case", "owner"),
    [
        (albef_cases.PRETRAINING, "AlbefForQuestionAnswering"),
        (lavis_blip_cases.PRETRAINING, "LavisBlipForConditionalGeneration"),
        (lavis_blip_cases.RETRIEVAL, "LavisBlipForConditionalGeneration"),
        (lavis_blip_2_cases.PRETRAINING, "LavisBlip2ForConditionalGeneration"),
        (alpro_cases.RETRIEVAL, "AlproForVideoQuestionAnswering"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_labels_of_another_head(case: Case, owner: str) -> None:
    with pytest.raises(TypeError, match=rf"{case.name}.forward got the option 'labels'.*Heads of this family.*{owner}"):
        case.model()(**case.inputs(2), labels=torch.zeros(2, dtype=torch.long))


def test_embeddings_of_prompts_are_refused() -> None:
    model = lavis_blip_2_cases.OPT.model()
    inputs = lavis_blip_2_cases.OPT.inputs(2)
    embeds = torch.zeros(2, 4, model.config.text_config.hidden_size)
    with pytest.raises(TypeError, match="inputs_embeds"):
        model(**inputs, inputs_embeds=embeds)
    with pytest.raises(TypeError, match="generate got inputs_embeds.*pixel_values and input_ids"):
        model.generate(**inputs, inputs_embeds=embeds)


def test_options_of_the_language_model_reach_it() -> None:
    model = lavis_blip_2_cases.OPT.model()
    inputs = lavis_blip_2_cases.OPT.inputs(2)
    assert model(**inputs, use_cache=False).past_key_values is None
    assert model(**inputs, use_cache=True).past_key_values is not None
    last = model(**inputs, logits_to_keep=1).logits
    torch.testing.assert_close(last, model(**inputs).logits[:, -1:])


# ---- recorded attention ----


def test_attention_to_image_pairs_has_one_entry_per_layer() -> None:
    model = lavis_blip_cases.IMAGE_PAIRS.model()
    model.set_attn_implementation("eager")
    inputs = lavis_blip_cases.IMAGE_PAIRS.inputs(3)
    weights: list[Tensor] = []
    for layer in model.text_encoder.encoder.layer:
        for part in (layer.crossattention.self0, layer.crossattention.self1):
            part.register_forward_hook(lambda module, args, output: weights.append(output[1]))
    output = model(**inputs, output_attentions=True)
    assert len(output.cross_attentions) == model.config.text_config.num_hidden_layers
    for layer, own in enumerate(output.cross_attentions):
        assert torch.equal(own[:, 0], weights[2 * layer]) and torch.equal(own[:, 1], weights[2 * layer + 1])
    assert output.vision_attentions[0].shape[:2] == (3, 2)


@by_name([case for case in ALL if case is not lavis_blip_2_cases.OPT])
def test_attention_without_eager_is_reported(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    from transformers.utils import logging

    logging.get_logger("x").warning_once.cache_clear()
    model = case.model()
    logger = logging.get_logger("modeling_lavis.models.forward_options")
    logger.addHandler(caplog.handler)
    try:
        output = model(**case.inputs(3), **next(iter(case.modes.values())), output_attentions=True)
    finally:
        logger.removeHandler(caplog.handler)
    assert "attn_implementation='eager'" in caplog.text and "vision_attentions" not in output


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_answer_decoder_gets_the_attention_implementation(implementation: str, tmp_path: Path) -> None:
    case = albef_cases.ANSWERING
    config = case.config()
    config.answer_config = None
    model = case.model_class._from_config(config, attn_implementation=implementation)
    assert model.text_decoder.config._attn_implementation == implementation
    model.config.answer_config = None
    model.save_pretrained(tmp_path)
    loaded = case.model_class.from_pretrained(tmp_path, attn_implementation=implementation)
    for part in (loaded.text_decoder, loaded.text_decoder.bert, loaded.text_encoder, loaded.vision_model):
        assert part.config._attn_implementation == implementation


# ---- missing masks ----


def padded_batch(case: Case) -> dict[str, Any]:
    """A batch in which the last tokens of some texts are padding."""
    inputs = case.inputs(3)
    pad = inputs["attention_mask"] == 0
    assert bool(pad.any())
    inputs["input_ids"] = inputs["input_ids"].masked_fill(pad, 0)
    return inputs


@by_name([case for case in ALL if "input_ids" in case.required])
def test_pad_tokens_are_padding_without_a_mask(case: Case) -> None:
    model = case.model()
    inputs = padded_batch(case)
    without = {**inputs, "attention_mask": None}
    for options in case.modes.values():
        if options.get("input_ids", inputs) is None or "decoder_input_ids" in options:
            continue
        assert_same(model(**without, **options), model(**inputs, **options), atol=0, rtol=0)
    training = case.training(3)
    if training:
        torch.manual_seed(0)
        expected = model(**inputs, **training).loss
        torch.manual_seed(0)
        torch.testing.assert_close(model(**without, **training).loss, expected, rtol=0, atol=0)


@by_name([case for case in ALL if hasattr(case.model_class, "score_pairs")])
def test_scores_equal_forward_without_a_mask(case: Case) -> None:
    model = case.model()
    inputs = padded_batch(case)
    pairs = torch.arange(3)[:, None].expand(3, 2)
    pixels, ids = inputs[case.pixel_name], inputs["input_ids"]
    mode = "vtm" if case.pixel_name == "pixel_values_videos" else "itm"
    logits = model(**{case.pixel_name: pixels}, input_ids=ids, match_head=mode).logits
    torch.testing.assert_close(model.score_pairs(pixels, {"input_ids": ids}, pairs).logits, logits)


@by_name(ANSWERING)
def test_answers_without_a_mask(case: Case) -> None:
    model = case.model()
    inputs = padded_batch(case)
    without = {**inputs, "attention_mask": None}
    assert torch.equal(model.generate(**without, max_length=6), model.generate(**inputs, max_length=6))
    answers = {"answer_input_ids": torch.tensor([[1, 10, 11, 3], [1, 12, 3, 0], [1, 13, 14, 3]])}
    assert_same(model.rank_answers(**without, **answers), model.rank_answers(**inputs, **answers), atol=0, rtol=0)


# ---- evaluation by a Trainer ----


@by_name(ANSWERING)
def test_labels_with_one_row_per_question(case: Case) -> None:
    model = case.model()
    inputs = case.inputs(3)
    labels = torch.full((3, 2, 4), -100)
    labels[0, 0, :3] = torch.tensor([1, 10, 3])
    labels[0, 1, :4] = torch.tensor([1, 11, 12, 3])
    labels[1, 0, :3] = torch.tensor([1, 13, 3])
    labels[2, 1, :3] = torch.tensor([1, 14, 3])
    weights = torch.tensor([[0.5, 0.25], [1.0, 9.0], [9.0, 2.0]])
    places = (labels != -100).any(-1)
    flat = model(**inputs, labels=labels[places], answer_counts=torch.tensor([2, 1, 1]), answer_weights=weights[places])
    rows = model(**inputs, labels=labels, answer_weights=weights)
    torch.testing.assert_close(rows.loss, flat.loss)
    assert rows.logits.shape[:3] == (3, 2, 4)
    torch.testing.assert_close(rows.logits[places], flat.logits)
    assert not rows.logits[~places].any()
    rows.loss.backward()
    with pytest.raises(ValueError, match="answer_counts and labels of shape"):
        model(**inputs, labels=labels, answer_counts=torch.tensor([2, 1, 1]))
    with pytest.raises(ValueError, match=r"answer_weights of shape .*expected \(3, 2\)"):
        model(**inputs, labels=labels, answer_weights=weights[places])


class Batches(Dataset):  # type: ignore[type-arg]
    """Batches as rows of a dataset."""

    def __init__(self, batches: list[dict[str, Any]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.batches[index]


PREDICTIONS = [
    (albef_cases.ANSWERING, "logits"),
    (albef_cases.CLASSIFICATION, "logits"),
    (albef_cases.IMAGE_PAIRS, "logits"),
    (alpro_cases.ANSWERING, "logits"),
    (lavis_blip_cases.CAPTIONING, "logits"),
    (lavis_blip_cases.CLASSIFICATION, "logits"),
    (lavis_blip_2_cases.OPT, "logits"),
    (albef_cases.RETRIEVAL, ("logits", "image_features", "text_features")),
    (lavis_blip_cases.PRETRAINING, ("logits", "image_features", "text_features")),
    (lavis_blip_2_cases.PRETRAINING, ("logits", "image_features", "text_features")),
    (alpro_cases.RETRIEVAL, ("logits", "video_features", "text_features")),
]


@pytest.mark.parametrize(("case", "wanted"), PREDICTIONS, ids=[case.name for case, _ in PREDICTIONS])
def test_predictions_of_a_trainer(case: Case, wanted: Any, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="the Trainer needs the extra [train]")
    seen: list[Any] = []

    def compute_metrics(prediction: Any) -> dict[str, float]:
        seen.append(prediction)
        return {}

    batch = {**case.inputs(3), **case.training(3)}
    if case is albef_cases.ANSWERING:
        batch.pop("answer_counts"), batch.pop("answer_weights")
        batch["labels"] = batch["labels"][:3]
    names = None if "labels" in batch else ["input_ids"]
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_eval_batch_size=1,
        remove_unused_columns=False,
        label_names=names,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    model = case.model()
    model.config.output_hidden_states = True
    trainer = Trainer(
        model,
        arguments,
        data_collator=lambda rows: rows[0],
        eval_dataset=Batches([batch]),
        compute_metrics=compute_metrics,
    )
    metrics = trainer.evaluate()
    (prediction,) = seen
    torch.manual_seed(0)
    output = model(**batch)
    assert metrics["eval_loss"] > 0
    found = prediction.predictions
    if isinstance(wanted, str):
        torch.testing.assert_close(torch.from_numpy(found), output[wanted].detach(), atol=1e-4, rtol=1e-3)
        if names is None:
            assert torch.equal(torch.from_numpy(prediction.label_ids), batch["labels"])
    else:
        assert [value.shape for value in found] == [tuple(output[name].shape) for name in wanted]
