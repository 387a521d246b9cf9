# SPDX-License-Identifier: Apache-2.0
"""Ranking of a closed answer list: BLIP VQA at 480 pixels, 2 questions, 1,000 answers, 128 candidates.

transformers has no ranking, so LAVIS is the only peer.
"""

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks import flops, weights
from benchmarks.workloads.base import OURS, Run, Tensors, Workload
from benchmarks.workloads.caption import make_pixels

CLS, SEP, DEC, ENC = 101, 102, 30522, 30523
FIRST_ID, LAST_ID = 1000, 29612  # range of the ids of BERT's vocabulary that are neither special nor unused


@dataclass(frozen=True)
class Size:
    """Sizes of model and task; answers have 1 to `longest` tokens between [DEC] and [SEP]."""

    questions: int = 2
    question_length: int = 10
    answers: int = 1000
    candidates: int = 128
    longest: int = 4
    image_size: int = 480
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    vocabulary: int = 30524

    @property
    def intermediate_size(self) -> int:
        return 4 * self.hidden_size


def make_questions(size: Size) -> list[list[int]]:
    """Ids from [CLS] to [SEP]; each question is one token shorter than the one before it."""
    generator = torch.Generator().manual_seed(2)
    lengths = [max(size.question_length - index, 4) for index in range(size.questions)]
    return [[CLS, *_random_ids(length - 2, generator), SEP] for length in lengths]


def make_answers(size: Size) -> list[list[int]]:
    """Ids from [CLS] to [SEP]. Half of the answers have one token, as in the list of VQAv2."""
    generator = torch.Generator().manual_seed(3)
    answers = []
    for index in range(size.answers):
        length = 1 if index % 2 == 0 else 2 + index // 2 % (size.longest - 1)
        answers.append([CLS, *_random_ids(length, generator), SEP])
    return answers


def _random_ids(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(FIRST_ID, LAST_ID, (count,), generator=generator).tolist()


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
        hidden_size=size.hidden_size,
        encoder_width=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
    )
    vision_encoder = lavis_parts.vision_encoder(
        image_size=size.image_size, hidden_size=size.hidden_size, layers=size.layers, heads=size.heads
    )
    encoder, decoder = XBertEncoder(config, add_pooling_layer=False), XBertLMHeadDecoder(config)
    model = lavis_parts.with_tokenizer(BlipVQA, tokenizer)(vision_encoder, encoder, decoder)
    weights.fill(model, weights.FROM_LAVIS)
    model = model.to(dtype).eval()
    pixels = make_pixels(size.questions, size.image_size).to(dtype)
    answer_list = list(answers)
    passes: list[Any] = []
    decoder.register_forward_hook(lambda module, arguments, output: passes.append(output))

    def run() -> Tensors:
        passes.clear()
        best = model.predict_answers(
            {"image": pixels, "text_input": list(questions)},
            inference_method="rank",
            num_ans_candidates=size.candidates,
            answer_list=answer_list,
        )
        # LAVIS returns the best answers only; candidates and losses are outputs of its two decoder passes
        first, losses = passes[0].logits[:, 0], passes[1].loss
        first_tokens = torch.tensor([ids[1] for ids in answers.values()])
        candidates = first.softmax(1)[:, first_tokens].topk(size.candidates, dim=1).indices
        indices = torch.tensor([answer_list.index(name) for name in best])
        return _sorted_by_candidate(indices, candidates, -losses.view(size.questions, size.candidates))

    return run


def _sorted_by_candidate(best: torch.Tensor, candidates: torch.Tensor, scores: torch.Tensor) -> Tensors:
    """Sort candidates by their index in the answer list, to compare peers with other orders."""
    order = candidates.argsort(dim=1)
    return {"best": best, "candidates": candidates.gather(1, order), "scores": scores.gather(1, order)}


def count_flops(size: Size) -> float:
    """Image encoder, questions, the start token once per question, then all tokens of the candidates.

    The candidates depend on the weights; their mean length is assumed to be that of the answer list.
    """
    image_tokens = (size.image_size // 16) ** 2 + 1
    work = 0.0
    # all candidates of a question share [DEC], and the last token has no target
    own_tokens = sum(len(ids) - 2 for ids in make_answers(size)) / size.answers
    for question in make_questions(size):
        length = len(question)
        work += flops.vit(size.image_size, size.hidden_size, size.layers)
        work += size.layers * flops.project_keys_and_values(image_tokens, size.hidden_size, size.hidden_size)
        work += size.layers * flops.bert_layer(length, length, size.hidden_size, size.intermediate_size, image_tokens)
        work += size.layers * flops.project_keys_and_values(length, size.hidden_size, size.hidden_size)
        work += size.layers * flops.bert_layer(1, 1, size.hidden_size, size.intermediate_size, length)
        tokens = size.candidates * own_tokens
        work += size.layers * flops.bert_layer(
            tokens, 1 + own_tokens / 2, size.hidden_size, size.intermediate_size, length
        )
        work += flops.lm_head(1 + tokens, size.hidden_size, size.vocabulary)
    return work


WORKLOAD = Workload(
    name="vqa_rank",
    summary="BLIP VQA, 480 px, 2 questions, 1,000 answers, 128 candidates",
    sizes={
        "full": Size(),
        "tiny": Size(answers=12, candidates=4, image_size=32, hidden_size=32, layers=2, heads=2),
    },
    builders={OURS: build_ours, "lavis": build_lavis},
    count_flops=count_flops,
    exact=frozenset({"best", "candidates"}),
)
