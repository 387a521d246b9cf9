"""Options of `generate` for all generative heads: lengths, token ids, guidance towards the image, stop strings."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging as transformers_logging

from tests.models import albef_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.contract import perturb
from tests.models.tiny_tokenizers import tiny_model, tiny_processor

Made = tuple[Any, dict[str, Tensor]]


def _grounded(cases: Any, name: str) -> Callable[[], Made]:
    def make() -> Made:
        case = getattr(cases, name)
        model = case.model()
        for _ in range(4):
            perturb(model)
        call = {"pixel_values": cases.pixels(2) if hasattr(cases, "pixels") else lavis_blip_cases.pixels(2)}
        if name == "ANSWERING":
            call.update(lavis_blip_cases.texts(2))
        return model.eval(), call

    return make


def _second_stage(kind: str) -> Callable[[], Made]:
    def make() -> Made:
        model = lavis_blip_2_cases.second_stage(kind).eval()
        for _ in range(4):
            perturb(model)
        pad = lavis_blip_2_cases.LANGUAGE_MODELS[kind]["pad_token_id"]
        side = "right" if model.config.is_encoder_decoder else "left"
        call = {"pixel_values": lavis_blip_2_cases.pixels(2), **lavis_blip_2_cases.prompts(2, pad=pad, side=side)}
        return model, call

    return make


MODELS: dict[str, Callable[[], Made]] = {
    "BLIP captioning": _grounded(lavis_blip_cases, "CAPTIONING"),
    "BLIP pretraining": _grounded(lavis_blip_cases, "PRETRAINING"),
    "BLIP answering": _grounded(lavis_blip_cases, "ANSWERING"),
    "ALBEF answering": _grounded(albef_cases, "ANSWERING"),
    "BLIP-2 pretraining": _grounded(lavis_blip_2_cases, "PRETRAINING"),
    **{f"BLIP-2 {kind}": _second_stage(kind) for kind in ("opt", "llama", "gpt2", "t5", "bart")},
}
made = pytest.mark.parametrize("made", MODELS.values(), ids=MODELS.keys())


def vocabulary(model: GenerationMixin) -> int:
    return model.get_output_embeddings().weight.shape[0]


# ---- lengths ----


@made
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 3},
        {"max_length": 9},
        {"min_new_tokens": 2, "max_new_tokens": 3},
        {"min_length": 2, "max_length": 9},
        {"generation_config": GenerationConfig(max_new_tokens=3)},
        {"generation_config": GenerationConfig(max_length=9)},
    ],
    ids=str,
)
@pytest.mark.parametrize("stored", [{}, {"max_length": 8, "min_length": 1}, {"max_new_tokens": 4}], ids=str)
def test_lengths_make_nothing_warn(
    made: Callable[[], Made], options: dict[str, Any], stored: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    model, call = made()
    for name, value in stored.items():
        setattr(model.generation_config, name, value)
    transformers_logging.warning_once.cache_clear()
    transformers_logging.enable_propagation()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.generate(**call, **options)
    finally:
        transformers_logging.disable_propagation()
    assert [record.getMessage() for record in caplog.records if "length" in record.getMessage()] == []


@made
def test_a_length_of_the_call_replaces_the_stored_one(made: Callable[[], Made]) -> None:
    model, call = made()
    never_ends = {"suppress_tokens": _ends(model), "do_sample": False, "num_beams": 1}
    prompt = call["input_ids"].shape[1] if _begins_with_prompt(model, call) else 1
    for stored in ({"max_length": prompt + 7}, {"max_new_tokens": 7}):
        model.generation_config.max_length = model.generation_config.max_new_tokens = None
        for name, value in stored.items():
            setattr(model.generation_config, name, value)
        for options in (
            {"max_new_tokens": 3},
            {"max_length": prompt + 3},
            {"generation_config": GenerationConfig(max_new_tokens=3)},
            {"generation_config": GenerationConfig(max_length=prompt + 3)},
        ):
            assert model.generate(**call, **options, **never_ends).shape[1] == prompt + 3, (stored, options)
        assert model.generate(**call, **never_ends).shape[1] == prompt + 7, stored


def _begins_with_prompt(model: Any, call: dict[str, Tensor]) -> bool:
    is_answering = "Answering" in type(model).__name__
    return (
        "input_ids" in call
        and not is_answering
        and not getattr(model, "language_model", model).config.is_encoder_decoder
    )


def _ends(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    ends = model.config.eos_token_id if ends is None else ends
    return ends if isinstance(ends, list) else [ends]


# ---- token ids ----


@made
@pytest.mark.parametrize(
    "name",
    ["bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id"],
)
def test_token_ids_outside_the_vocabulary_raise(made: Callable[[], Made], name: str) -> None:
    model, call = made()
    size = vocabulary(model)
    for value in (size, -2, 2.5, "[CLS]"):
        message = f"{name} is {value!r}, but the vocabulary of the model has ids from 0 to {size - 1}".replace(
            "[", r"\["
        )
        with pytest.raises(ValueError, match=message):
            model.generate(**call, max_new_tokens=3, **{name: value})
    with pytest.raises(ValueError, match=f"{name} is {size}, but"):
        setattr(model.generation_config, name, size)
        model.generate(**call, max_new_tokens=3)


@pytest.mark.parametrize("name", ["BLIP captioning", "BLIP pretraining", "BLIP answering", "ALBEF answering"])
def test_start_tokens_are_used(name: str) -> None:
    model, call = MODELS[name]()
    for option in ("bos_token_id", "decoder_start_token_id"):
        found = model.generate(**call, max_new_tokens=4, **{option: 7})
        assert found[:, 0].tolist() == [7, 7]
        if "answering" not in name:
            prompted = model.generate(
                **call, **lavis_blip_cases.texts(2, padded=False), max_new_tokens=4, **{option: 7}
            )
            assert prompted[:, 0].tolist() == [7, 7]


def test_any_of_several_end_tokens_ends_a_text() -> None:
    model, call = MODELS["BLIP captioning"]()
    free = model.generate(**call, max_new_tokens=6, num_beams=1, suppress_tokens=_ends(model))
    end = int(free[0, 3])
    stopped = model.generate(**call, max_new_tokens=6, num_beams=1, eos_token_id=[*_ends(model), end])
    position = free[0].tolist().index(end)
    assert stopped[0, : position + 1].tolist() == free[0, : position + 1].tolist()
    assert not stopped[0, position + 1 :].any()


# ---- guidance ----


@made
@pytest.mark.parametrize("beams", [1, 3])
def test_guidance(made: Callable[[], Made], beams: int) -> None:
    """Scores of each step are those of the definition, with the model's own scores for both images."""
    model, call = made()
    scale = 1.7
    options = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True, "max_new_tokens": 1}
    blank = {**call, "pixel_values": torch.zeros_like(call["pixel_values"])}
    with_image, without = (
        model.generate(**inputs, **options).scores[0].log_softmax(dim=-1) for inputs in (call, blank)
    )
    guided = model.generate(**call, **options, guidance_scale=scale).scores[0]
    torch.testing.assert_close(guided, without + scale * (with_image - without), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(guided, with_image, atol=1e-3)
    # later steps, and prompts of different lengths: a batch gives what single calls give
    longer = {"max_new_tokens": 5, "num_beams": beams, "do_sample": False, "guidance_scale": scale}
    batch = model.generate(**call, **longer, suppress_tokens=_ends(model))
    for row in range(2):
        one = {name: value[row : row + 1] for name, value in call.items()}
        alone = model.generate(**one, **longer, suppress_tokens=_ends(model))
        assert batch[row, -5:].tolist() == alone[0, -5:].tolist()


@made
def test_guidance_in_later_steps(made: Callable[[], Made]) -> None:
    """Each step equals the first step after a prompt, which a processor forces here."""
    model, call = made()
    options = {"do_sample": False, "num_beams": 1, "max_new_tokens": 3, "eos_token_id": -1}
    blank = {**call, "pixel_values": torch.zeros_like(call["pixel_values"])}
    guided = model.generate(**call, **options, guidance_scale=2.0, output_scores=True, return_dict_in_generate=True)
    scores = []
    for inputs in (call, blank):
        # the same tokens for both images: the scores of the model alone along the guided text
        steps: list[Tensor] = []

        def force(input_ids: Tensor, values: Tensor, steps: list[Tensor] = steps) -> Tensor:
            steps.append(values.log_softmax(dim=-1))
            forced = guided.sequences[:, guided.sequences.shape[1] - 3 + len(steps) - 1]
            return torch.full_like(values, -1e9).scatter(1, forced[:, None], 0.0)

        model.generate(**inputs, **options, logits_processor=LogitsProcessorList([force]))
        scores.append(steps)
    for step in range(3):
        expected = scores[1][step] + 2.0 * (scores[0][step] - scores[1][step])
        torch.testing.assert_close(guided.scores[step], expected, atol=1e-3, rtol=1e-3)


@made
def test_guidance_of_one_is_none(made: Callable[[], Made]) -> None:
    model, call = made()
    expected = model.generate(**call, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(**call, max_new_tokens=4, do_sample=False, guidance_scale=1.0), expected)
    stored = GenerationConfig(guidance_scale=4.0, max_new_tokens=1, do_sample=False)
    scores = {"output_scores": True, "return_dict_in_generate": True}
    by_config = model.generate(**call, generation_config=stored, **scores).scores[0]
    by_option = model.generate(**call, max_new_tokens=1, do_sample=False, guidance_scale=4.0, **scores).scores[0]
    assert torch.equal(by_config, by_option)


@made
def test_wrong_guidance_raises(made: Callable[[], Made]) -> None:
    model, call = made()
    for scale in (0, -1.0, float("nan"), float("inf"), "2", True):
        with pytest.raises(ValueError, match=r"guidance_scale is .*; expected a positive number"):
            model.generate(**call, max_new_tokens=2, guidance_scale=scale)
    with pytest.raises(ValueError, match="negative_prompt_ids is not supported"):
        model.generate(**call, max_new_tokens=2, guidance_scale=2.0, negative_prompt_ids=torch.ones(2, 3).long())
    if not hasattr(model, "language_model"):
        states = BaseModelOutput(last_hidden_state=torch.zeros(2, 5, 16))
        with pytest.raises(ValueError, match="Pass pixel_values instead"):
            model.generate(encoder_outputs=states, guidance_scale=2.0)


# ---- stop strings ----


@pytest.mark.parametrize("kind", ["has BOS (GPT-2)", "adds BOS (Llama)", "adds EOS (T5)"])
@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_of_language_models(kind: str, beams: int) -> None:
    processor = tiny_processor(kind)
    model = tiny_model(kind, processor).eval()
    for _ in range(3):
        perturb(model)
    _check_stop_strings(model, {"pixel_values": lavis_blip_2_cases.pixels(2)}, processor.tokenizer, beams)


@pytest.mark.parametrize("beams", [1, 3])
def test_stop_strings_of_embedded_model(beams: int) -> None:
    from PIL import Image

    from modeling_lavis import LavisBlipForConditionalGeneration, LavisBlipProcessor
    from modeling_lavis.embedded import embedded_images, embedded_model_path

    model = LavisBlipForConditionalGeneration.from_pretrained(embedded_model_path()).eval()
    processor = LavisBlipProcessor.from_pretrained(embedded_model_path())
    images = [Image.open(image.path) for image in embedded_images()[:3]]
    _check_stop_strings(model, dict(processor(images=images, return_tensors="pt")), processor.tokenizer, beams)


def _check_stop_strings(model: Any, call: dict[str, Tensor], tokenizer: Any, beams: int) -> None:
    parts_of_characters = [token for token in range(len(tokenizer)) if not tokenizer.decode([token]).isprintable()]
    parts_of_characters += [token for token in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([token])]
    options = {"num_beams": beams, "do_sample": False, "max_new_tokens": 8, "suppress_tokens": parts_of_characters}
    free = tokenizer.batch_decode(model.generate(**call, **options), skip_special_tokens=True)
    found = re.search("[!-~]+", free[0][1:])
    assert found is not None, free
    string = found.group()[:3]
    for given in (
        {"stop_strings": [string]},
        {"generation_config": GenerationConfig(stop_strings=[string], eos_token_id=_ends(model))},
    ):
        found = tokenizer.batch_decode(
            model.generate(**call, **options, **given, tokenizer=tokenizer), skip_special_tokens=True
        )
        for text in found:
            # a token may hold more than the end of the string
            assert string not in text[: -len(string) - 8], (text, string)
        if beams == 1:
            assert string in found[0] and len(found[0]) < len(free[0])
        assert found != free
    with pytest.raises(ValueError, match="tokenizer"):
        model.generate(**call, **options, stop_strings=[string])
