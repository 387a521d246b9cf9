# SPDX-License-Identifier: Apache-2.0
"""Ranking a closed list of answers: BLIP VQA at 480 pixels, 2 questions, 1,000 answers, 128 candidates.

transformers has no ranking, so LAVIS is the only peer.
"""

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Run, Tensors, Workload
from benchmarks.workloads.caption import make_pixels

CLS, SEP, DEC, ENC = 101, 102, 30522, 30523
FIRST_WORD, LAST_WORD = 1000, 29612  # the word pieces of BERT's vocabulary that are not special or unused


@dataclass(frozen=True)
class Size:
    """Dimensions of model and task; an answer has one to `longest` word pieces between [DEC] and [SEP]."""

    questions: int = 2
    question_length: int = 10
    answers: int = 1000
    candidates: int = 128
    longest: int = 4
    image_size: int = 480
    width: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 30524

    @property
    def feed_forward(self) -> int:
        return 4 * self.width


def make_questions(size: Size) -> list[list[int]]:
    """Ids from [CLS] to [SEP]; each question is one token shorter than the one before it."""
    generator = torch.Generator().manual_seed(2)
    lengths = [max(size.question_length - index, 4) for index in range(size.questions)]
    return [[CLS, *_words(length - 2, generator), SEP] for length in lengths]


def make_answers(size: Size) -> list[list[int]]:
    """Ids from [CLS] to [SEP]. Half of the answers are one word piece long, as they are in VQAv2's list."""
    generator = torch.Generator().manual_seed(3)
    answers = []
    for index in range(size.answers):
        pieces = 1 if index % 2 == 0 else 2 + index // 2 % (size.longest - 1)
        answers.append([CLS, *_words(pieces, generator), SEP])
    return answers


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(FIRST_WORD, LAST_WORD, (count,), generator=generator).tolist()


def _padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    return ids, (ids != 0).long()


def build_ours(size: Size, dtype: torch.dtype) -> Run:
    from benchmarks.our_parts import blip_config
    from modeling_lavis import LavisBlipForQuestionAnswering

    model = LavisBlipForQuestionAnswering(blip_config(size))
    weights.fill(model, weights.FROM_OURS)
    model = model.to(dtype).eval()
    pixels = make_pixels(size.questions, size.image_size).to(dtype)
    questions, question_mask = _padded(make_questions(size))
    answers, answer_mask = _padded(make_answers(size))
    answers[:, 0] = DEC

    def run() -> Tensors:
        ranked = model.rank_answers(
            pixel_values=pixels,
            input_ids=questions,
            attention_mask=question_mask,
            answer_input_ids=answers,
            answer_attention_mask=answer_mask,
            num_candidates=size.candidates,
        )
        return _sorted_by_candidate(ranked.best, ranked.candidates, ranked.scores)

    return run


def build_lavis(size: Size, dtype: torch.dtype) -> Run:
    from lavis.models.blip_models.blip_vqa import BlipVQA
    from lavis.models.med import XBertEncoder, XBertLMHeadDecoder

    from benchmarks import lavis_parts

    questions = {f"question {index}": ids for index, ids in enumerate(make_questions(size))}
    answers = {f"answer {index}": ids for index, ids in enumerate(make_answers(size))}
    tokenizer = lavis_parts.PreparedTokenizer(
        {**questions, **answers}, bos_token_id=DEC, enc_token_id=ENC, sep_token_id=SEP, pad_token_id=0
    )
    config = lavis_parts.med_config(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        encoder_width=size.width,
        intermediate_size=size.feed_forward,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
    )
    tower = lavis_parts.vision_tower(image_size=size.image_size, width=size.width, layers=size.layers, heads=size.heads)
    encoder, decoder = XBertEncoder(config, add_pooling_layer=False), XBertLMHeadDecoder(config)
    model = lavis_parts.with_tokenizer(BlipVQA, tokenizer)(tower, encoder, decoder)
    weights.fill(model, weights.FROM_LAVIS)
    model = model.to(dtype).eval()
    pixels = make_pixels(size.questions, size.image_size).to(dtype)
    names = list(answers)
    passes: list[Any] = []
    decoder.register_forward_hook(lambda module, arguments, output: passes.append(output))

    def run() -> Tensors:
        passes.clear()
        best = model.predict_answers(
            {"image": pixels, "text_input": list(questions)},
            inference_method="rank",
            num_ans_candidates=size.candidates,
            answer_list=names,
        )
        # LAVIS returns the winners only; candidates and losses are read off its two passes through the decoder
        first, losses = passes[0].logits[:, 0], passes[1].loss
        first_tokens = torch.tensor([ids[1] for ids in answers.values()])
        candidates = first.softmax(1)[:, first_tokens].topk(size.candidates, dim=1).indices
        indices = torch.tensor([names.index(name) for name in best])
        return _sorted_by_candidate(indices, candidates, -losses.view(size.questions, size.candidates))

    return run


def _sorted_by_candidate(best: torch.Tensor, candidates: torch.Tensor, scores: torch.Tensor) -> Tensors:
    """Bring candidates into the order of the answer list, so that peers with other orders can be compared."""
    order = candidates.argsort(dim=1)
    return {"best": best, "candidates": candidates.gather(1, order), "scores": scores.gather(1, order)}


def count_flops(size: Size) -> float:
    """Towers, questions, the start token once per question, then every real token of the candidates once.

    Which answers become candidates depends on the weights; their mean length is taken to be the list's.
    """
    image_tokens = (size.image_size // 16) ** 2 + 1
    work = 0.0
    # [DEC] is shared by all candidates of a question, and the last token predicts nothing
    own_tokens = sum(len(ids) - 2 for ids in make_answers(size)) / size.answers
    for question in make_questions(size):
        length = len(question)
        work += flops.vit(size.image_size, size.width, size.layers)
        work += size.layers * flops.project_keys_and_values(image_tokens, size.width, size.width)
        work += size.layers * flops.bert_layer(length, length, size.width, size.feed_forward, image_tokens)
        work += size.layers * flops.project_keys_and_values(length, size.width, size.width)
        work += size.layers * flops.bert_layer(1, 1, size.width, size.feed_forward, length)
        tokens = size.candidates * own_tokens
        work += size.layers * flops.bert_layer(tokens, 1 + own_tokens / 2, size.width, size.feed_forward, length)
        work += flops.lm_head(1 + tokens, size.width, size.vocabulary)
    return work


WORKLOAD = Workload(
    name="vqa_rank",
    summary="BLIP VQA, 480 px, 2 questions, 1,000 answers, 128 candidates",
    sizes={
        "full": Size(),
        "tiny": Size(answers=12, candidates=4, image_size=32, width=32, layers=2, heads=2),
    },
    builders={OURS: build_ours, "lavis": build_lavis},
    count_flops=count_flops,
    exact=frozenset({"best", "candidates"}),
)
