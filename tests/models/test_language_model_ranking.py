"""Answers ranked by a language model: every score is the one of the answer alone, whatever runs beside it."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from modeling_lavis import LavisBlip2ForConditionalGeneration
from modeling_lavis.models.generation import CausalPrompts
from modeling_lavis.models.transformers_compat import major_minor
from tests.models.contract import perturb
from tests.models.lavis_blip_2_cases import LANGUAGE_MODELS, blip_2_config, pixels, second_stage
from tests.models.tiny_tokenizers import KINDS, tiny_model, tiny_processor

QUESTIONS = ["what is this?", "is it a red dog on the mat?", "no"]
ANSWERS = ["yes", "no", "a red dog", "two cats on a mat, or three", "yes"]
_DECODER = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
#: Windows shorter than query tokens and question, recurrent layers, and distances in place of positions.
UNUSUAL: dict[str, dict[str, Any]] = {
    "sliding window": {"model_type": "mistral", "sliding_window": 5, **_DECODER, **_HEADS},
    "some sliding windows": {
        "model_type": "gemma2",
        "sliding_window": 5,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        **_DECODER,
        **_HEADS,
    },
    "recurrent": {"model_type": "mamba", "state_size": 4, "pad_token_id": 0, "bos_token_id": 1, **_DECODER},
    "distances": {"model_type": "bloom", "n_head": 2, "n_layer": 2, "hidden_size": 16, "vocab_size": 60},
}


def unusual_model(kind: str) -> LavisBlip2ForConditionalGeneration:
    torch.manual_seed(0)
    values = blip_2_config(language_model="opt").to_dict()
    model = LavisBlip2ForConditionalGeneration(
        type(blip_2_config()).from_dict({**values, "text_config": dict(UNUSUAL[kind])})
    )
    perturb(model)
    return model.eval()


def question_rows() -> dict[str, Tensor]:
    """Three questions of 3 to 6 tokens, padded on the left."""
    ids = torch.randint(5, 60, (3, 6), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    ids[0, :3], mask[0, :3], ids[2, :1], mask[2, :1] = 0, 0, 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def answer_rows() -> dict[str, Tensor]:
    """Five answers of 1 to 4 tokens; the last one is the first one again."""
    ids = torch.randint(5, 60, (5, 4), generator=torch.Generator().manual_seed(4))
    ids[4] = ids[0]
    mask = (torch.arange(4) < torch.tensor([2, 4, 1, 3, 2])[:, None]).long()
    return {"answer_input_ids": ids.masked_fill(mask == 0, 0), "answer_attention_mask": mask}


@pytest.mark.parametrize("kind", ["opt", "gpt2"])
def test_masks_of_other_types(kind: str) -> None:
    model, questions, answers = second_stage(kind), question_rows(), answer_rows()
    expected = model.rank_answers(pixels(3), **questions, **answers).scores
    for dtype in (torch.float32, torch.bool, torch.int32):
        questions["attention_mask"] = questions["attention_mask"].to(dtype)
        assert torch.equal(model.rank_answers(pixels(3), **questions, **answers).scores, expected), dtype


def scores_in_order(output: Any) -> Tensor:
    """Scores `(R, A)` in the order of the answer list."""
    return torch.empty_like(output.scores).scatter(1, output.candidates, output.scores)


def alone(model: Any, images: Tensor, questions: dict[str, Tensor], answers: dict[str, Tensor]) -> Tensor:
    """Log-likelihood `(R, A)` of each answer from the training loss of one question with one answer, not padded."""
    scores = images.new_zeros(len(images), len(answers["answer_input_ids"]))
    for row, column in torch.cartesian_prod(*(torch.arange(size) for size in scores.shape)).tolist():
        question = questions["input_ids"][row][questions["attention_mask"][row].bool()]
        answer = answers["answer_input_ids"][column][answers["answer_attention_mask"][column].bool()]
        if model.config.is_encoder_decoder:
            texts = {"input_ids": question[None], "labels": answer[None]}
        else:
            ids = torch.cat([question, answer])[None]
            texts = {"input_ids": ids, "labels": ids.clone()}
            texts["labels"][:, : len(question)] = -100
        mask = torch.ones_like(texts["input_ids"])
        loss = model(pixel_values=images[row : row + 1], attention_mask=mask, **texts).loss
        scores[row, column] = -loss * len(answer)
    return scores


@torch.no_grad()
def check(model: Any, atol: float, dtype: torch.dtype = torch.float64) -> None:
    model = model.to(dtype)
    images, questions, answers = pixels(3).to(dtype), question_rows(), answer_rows()
    if model.config.is_encoder_decoder:  # padding on the right
        questions = {name: value.flip(1) for name, value in questions.items()}
    expected = alone(model, images, questions, answers)
    assert expected.std() > 0.1
    for chunk_size in (1, 7, 64):
        output = model.rank_answers(images, **questions, **answers, chunk_size=chunk_size)
        assert bool((output.scores.diff(dim=1) <= 0).all()) and torch.equal(output.best, output.candidates[:, 0])
        torch.testing.assert_close(scores_in_order(output), expected, atol=atol, rtol=0)
    mean = model.rank_answers(images, **questions, **answers, length_normalization="mean")
    lengths = answers["answer_attention_mask"].sum(dim=1)
    torch.testing.assert_close(scores_in_order(mean), expected / lengths, atol=atol, rtol=0)


@pytest.mark.parametrize("kind", ["opt", "gpt2", "t5"])
def test_scores_are_those_of_each_answer_alone(kind: str) -> None:
    # T5 of older transformers computes its softmax in float32
    check(second_stage(kind), 1e-5 if kind == "t5" and major_minor(transformers.__version__) < (5, 23) else 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "bart"])
def test_scores_of_more_language_models(kind: str) -> None:
    check(second_stage(kind), 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNUSUAL)
def test_scores_of_language_models_with_other_caches(kind: str) -> None:
    """In float32, in which some of them compute parts in any case."""
    check(unusual_model(kind), 2e-5, torch.float32)


@pytest.mark.parametrize(("kind", "shares"), [("sliding window", True), ("recurrent", False)])
def test_questions_run_again_where_the_cache_would_not_be_exact(kind: str, shares: bool) -> None:
    model = unusual_model(kind)
    embeds = torch.randn(2, 7, 16)
    prompts = CausalPrompts(model.language_model, embeds, torch.ones(2, 7, dtype=torch.long))
    assert (prompts.cache is not None) == shares
    assert prompts.logits_after(torch.tensor([[5, 6], [7, 8]]), 1).shape == (2, 2, 60)


@pytest.mark.slow
@pytest.mark.parametrize("kind", LANGUAGE_MODELS)
def test_scores_in_float32(kind: str) -> None:
    check(second_stage(kind), 1e-4, torch.float32)


def count_rows(module: torch.nn.Module, runs: list[int]) -> Any:
    """Hook that appends the number of tokens of each pass of a layer."""
    return module.register_forward_hook(lambda module, args, output: runs.append(output[..., 0].numel()))


@pytest.mark.parametrize(
    ("kind", "layer"), [("opt", "model.decoder.layers.0.fc1"), ("t5", "encoder.block.0.layer.1.DenseReluDense")]
)
def test_queries_and_questions_run_once(kind: str, layer: str) -> None:
    model, questions, answers = second_stage(kind), question_rows(), answer_rows()
    runs: list[int] = []
    module = model.language_model.get_submodule(layer)
    with torch.no_grad():
        count_rows(module, runs)
        model.rank_answers(pixels(3), **questions, **answers, chunk_size=3)
    num_prompt = 3 * (4 + 6)
    assert runs[0] == num_prompt
    # all answers but one of a single token run, without their last token
    assert sum(runs[1:]) == (0 if kind == "t5" else 3 * (1 + 3 + 2 + 1))


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_candidates_have_the_most_likely_first_tokens(kind: str) -> None:
    model, questions, answers = second_stage(kind), question_rows(), answer_rows()
    everything = model.rank_answers(pixels(3), **questions, **answers)
    first = {name: value[:, :1] for name, value in answers.items()}
    by_first = model.rank_answers(pixels(3), **questions, **first)
    output = model.rank_answers(pixels(3), **questions, **answers, num_candidates=2)
    assert output.candidates.shape == output.scores.shape == (3, 2)
    for row in range(3):
        chosen = set(output.candidates[row].tolist())
        assert chosen == set(by_first.candidates[row, :2].tolist())
        kept = [index for index in everything.candidates[row].tolist() if index in chosen]
        assert output.candidates[row].tolist() == kept
    torch.testing.assert_close(
        output.scores, scores_in_order(everything).gather(1, output.candidates), atol=1e-5, rtol=0
    )


def test_several_questions_of_one_image_and_no_question() -> None:
    model, questions, answers = second_stage("opt"), question_rows(), answer_rows()
    together = model.rank_answers(pixels(1), **questions, **answers)
    apart = model.rank_answers(pixels(1).expand(3, -1, -1, -1), **questions, **answers)
    torch.testing.assert_close(together.scores, apart.scores, atol=1e-5, rtol=0)
    empty = model.rank_answers(pixels(2), **answers)
    start = torch.full((2, 1), 2)  # the first token of OPT's texts
    given = model.rank_answers(pixels(2), input_ids=start, attention_mask=torch.ones_like(start), **answers)
    torch.testing.assert_close(empty.scores, given.scores, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["opt", "t5"])
def test_padding_may_be_on_either_side(kind: str) -> None:
    model, questions, answers = second_stage(kind).double(), question_rows(), answer_rows()
    images = pixels(3).double()
    flip = lambda values: {name: value.flip(1) for name, value in values.items()}  # noqa: E731
    expected = model.rank_answers(images, **questions, **answers)
    # reversed rows are other texts, so padding is moved by hand
    moved = {name: value.clone() for name, value in answers.items()}
    for index, length in enumerate(answers["answer_attention_mask"].sum(dim=1).tolist()):
        for name, value in answers.items():
            moved[name][index] = value[index].roll(value.shape[1] - length)
    torch.testing.assert_close(
        model.rank_answers(images, **questions, **moved).scores, expected.scores, atol=1e-10, rtol=0
    )
    assert not torch.equal(model.rank_answers(images, **questions, **flip(answers)).scores, expected.scores)
    right = {name: value.clone() for name, value in questions.items()}
    for index, length in enumerate(questions["attention_mask"].sum(dim=1).tolist()):
        for name, value in questions.items():
            right[name][index] = value[index].roll(length)
    assert right["attention_mask"][0].tolist() == [1, 1, 1, 0, 0, 0]
    torch.testing.assert_close(
        model.rank_answers(images, **right, **answers).scores, expected.scores, atol=1e-10, rtol=0
    )


def test_recomputing_in_training_leaves_scores() -> None:
    model, questions, answers = second_stage("opt").double(), question_rows(), answer_rows()
    expected = model.rank_answers(pixels(3).double(), **questions, **answers)
    model.gradient_checkpointing_enable()
    model.language_model.train()  # which has no dropout
    output = model.rank_answers(pixels(3).double(), **questions, **answers)
    torch.testing.assert_close(output.scores, expected.scores, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"answer_input_ids": None}, "needs the answer list"),
        ({"num_candidates": 0}, "num_candidates is 0"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"length_normalization": "median"}, "'median'; expected one of"),
        ({"answer_attention_mask": torch.eye(5, 4).long()}, "The answer 4 has no tokens"),
        ({"answer_input_ids": torch.full((5, 4), 60)}, "token id 60"),
        (
            {"answer_input_ids": torch.ones(5, 40).long(), "answer_attention_mask": None},
            "40 tokens, 49 with what is before it",
        ),
    ],
)
def test_errors_say_what_is_wrong(options: dict[str, Any], message: str) -> None:
    model = second_stage("gpt2")
    with pytest.raises(ValueError, match=message):
        model.rank_answers(pixels(3), **{**question_rows(), **answer_rows(), **options})


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_tokenized_as_in_training(kind: str) -> None:
    """An answer's tokens are the labels that follow the question in training."""
    processor = tiny_processor(kind)
    candidates = processor.answer_candidates(ANSWERS)
    for answer, ids, mask in zip(
        ANSWERS, candidates["answer_input_ids"], candidates["answer_attention_mask"], strict=True
    ):
        made = processor.caption_labels([answer], prompt=processor.question_prompts(QUESTIONS[:1]), cleaning=None)
        labels = made["labels"][0]
        assert ids[mask.bool()].tolist() == labels[labels != -100].tolist()
    assert processor.answer_candidates(ANSWERS, max_length=2)["answer_input_ids"].shape == (5, 2)


@pytest.mark.parametrize("kind", ["has BOS (GPT-2)", "adds BOS (Llama)", "has no BOS (Qwen)", "adds EOS (T5)"])
def test_scores_are_training_losses(kind: str) -> None:
    """From texts: question and answer through the processor, with every kind of special tokens."""
    processor = tiny_processor(kind, max_text_length=None)
    model = tiny_model(kind, processor).eval()
    perturb(model)
    images, prompts = pixels(3), processor.question_prompts(QUESTIONS)
    output = model.rank_answers(images, **processor.question_inputs(QUESTIONS), **processor.answer_candidates(ANSWERS))
    ranked = processor.post_process_ranked_answers(output, ANSWERS, top_k=3)
    assert [len(row) for row in ranked] == [3, 3, 3]
    with torch.no_grad():
        for image, prompt, row in zip(images, prompts, ranked, strict=True):
            for entry in row:
                made = processor.caption_labels([entry["answer"]], prompt=[prompt], cleaning=None)
                loss = model(pixel_values=image[None], **made).loss * int((made["labels"] != -100).sum())
                assert entry["score"] == pytest.approx(-float(loss), abs=1e-4)
