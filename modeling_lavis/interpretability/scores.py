# SPDX-License-Identifier: Apache-2.0
"""The score that an explanation is about, for each kind of head, and the words that it has maps for.

Shapes: T text tokens, V vocabulary size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modeling_lavis.evaluation.generating import best_sequences, with_newline
from modeling_lavis.interpretability.query_routes import LanguageModelRoute, QFormerRoute, QueryFeatureRoute
from modeling_lavis.interpretability.recording import AttentionRecord
from modeling_lavis.interpretability.routes import CrossAttentionRoute, ImageRoute, Route
from modeling_lavis.interpretability.video_routes import VideoFeatureRoute, VideoRoute
from modeling_lavis.interpretability.words import Word, find_words

#: answers and captions that are not given are generated with these options, as published
_GENERATION = {"num_beams": 3, "max_new_tokens": 30, "do_sample": False}
_MATCHES = ("mismatch", "match")
SIMILARITY = "similarity"
# Token types of a record, from the names of a language model's outputs.
_LANGUAGE_ATTENTION = {
    False: {"attentions": "decoder"},
    True: {"encoder_attentions": "encoder", "decoder_attentions": "decoder", "cross_attentions": "cross"},
}


@dataclass
class Scored:
    """
    What a forward pass gives.

    Args:
        score (`float`): the score, as it is shown.
        words (`list[Word]`): words, whose tokens are rows of the route.
        derived (`list[Tensor]`): for each word the scalar whose gradient its map has. It is the same tensor for all
            words that the model reads, and the word's own log-probability for words that it writes.
    """

    score: float
    words: list[Word]
    derived: list[Tensor]


@dataclass
class Task:
    """
    A score to explain.

    Args:
        route (`Route`): the way from words to patches.
        target (`str`): what is scored: `"match"`, a class, an answer or a caption.
        score_name (`str`): what the score is.
        run (`Callable`): the forward pass.
    """

    route: Route
    target: str
    score_name: str
    run: Callable[[AttentionRecord], Scored]


def find_task(
    model: Any, processor: Any, pixels: Mapping[str, Tensor], text: str | None, target: str | int | None
) -> Task:
    """
    Prepare the score of a head.

    Args:
        model (`PreTrainedModel`): a head of this package.
        processor (`ProcessorMixin`): its processor.
        pixels (`Mapping[str, Tensor]`): the processed picture, by the name of the model's argument.
        text (`str`, *optional*): what the model reads.
        target (`str` or `int`, *optional*): see `explain`.

    Raises:
        ValueError: the head has no score to explain, or text or target do not fit it.
    """
    given = (model, processor, pixels, text, target)
    if hasattr(model, "vision_proj") and (target == SIMILARITY or not hasattr(model, "itm_head")):
        return _similarity(*given)
    has_decoder, has_encoder = hasattr(model, "text_decoder"), hasattr(model, "text_encoder")
    if hasattr(model, "itm_head") and (text is not None or not model.can_generate()):
        return _matching(*given)
    if hasattr(model, "cls_head") or hasattr(model, "classifier"):
        return _classification(*given)
    if has_decoder and has_encoder and not hasattr(model, "itm_head"):
        return _answer(*given)
    if hasattr(model, "language_model"):
        return _language_model(*given)
    if model.can_generate():
        return _caption(*given)
    raise ValueError(
        f"{type(model).__name__} has no score to explain; expected a head for features, retrieval, pretraining, "
        "captions, answers or classification."
    )


def text_route(model: Any) -> Route:
    """The route from texts that a model reads."""
    if hasattr(model, "qformer"):
        return QFormerRoute(model, model.config.num_query_tokens)
    if "video" in model.input_modalities:
        return VideoRoute(model)
    return CrossAttentionRoute(model, model.text_encoder)


def _tokenize(model: Any, processor: Any, text: str | None, **options: Any) -> dict[str, Tensor]:
    """Ids and mask `(1, T)` of a text; `ValueError` without one."""
    if text is None:
        raise ValueError(f"{type(model).__name__} reads a text beside the picture; pass text=.")
    encoded = processor(text=[text], text_format="encoder", return_tensors="pt", **options)
    return {name: encoded[name].to(model.device) for name in ("input_ids", "attention_mask")}


def _words_read(processor: Any, tokens: Mapping[str, Tensor], text: str | None) -> list[Word]:
    words = find_words(processor.tokenizer, tokens["input_ids"][0].tolist())
    if not words:
        raise ValueError(f"The text {text!r} has no words after cleaning, so that there is nothing to map.")
    return words


# ---- heads that read a text ----


def _matching(model: Any, processor: Any, pixels: Any, text: str | None, target: Any) -> Task:
    target = "match" if target is None else target
    if target not in _MATCHES:
        raise ValueError(
            f"target is {target!r}; {type(model).__name__} scores whether a text matches, expected 'match', "
            "'mismatch' or 'similarity'."
        )
    tokens = _tokenize(model, processor, text)
    words = _words_read(processor, tokens, text)
    head = "vtm" if "video" in model.input_modalities else "itm"

    def run(record: AttentionRecord) -> Scored:
        logits = model(**pixels, **tokens, match_head=head).logits[0].float()
        index = _MATCHES.index(target)
        return Scored(float(logits.detach().softmax(dim=-1)[index]), words, [logits[index]] * len(words))

    return Task(text_route(model), target, f"probability of a {target}", run)


def _similarity(model: Any, processor: Any, pixels: Any, text: str | None, target: Any) -> Task:
    if target not in (None, SIMILARITY):
        raise ValueError(f"target is {target!r}; {type(model).__name__} has a similarity alone, expected 'similarity'.")
    tokens = _tokenize(model, processor, text)
    is_video, has_qformer = "video" in model.input_modalities, hasattr(model, "qformer")
    image_features = model.get_video_features if is_video else model.get_image_features
    route: Route = (VideoFeatureRoute if is_video else QueryFeatureRoute if has_qformer else ImageRoute)(model)

    def run(record: AttentionRecord) -> Scored:
        # the texts first, because the attention of the last pass is kept, and one of BLIP-2's encoders makes both
        features = model.get_text_features(**tokens).pooler_output
        cosine = model.compare_features(image_features(**pixels).pooler_output, features)[0, 0].float()
        return Scored(float(cosine.detach()), [Word(str(text), (0,))], [cosine])

    return Task(route, SIMILARITY, "cosine similarity of the features", run)


def _classification(model: Any, processor: Any, pixels: Any, text: str | None, target: Any) -> Task:
    is_question = "video" in model.input_modalities
    tokens = _tokenize(model, processor, text, **({"cleaning": "question"} if is_question else {}))
    words = _words_read(processor, tokens, text)
    labels = model.config.id2label
    if target is None:
        with torch.no_grad():
            target = int(model(**pixels, **tokens).logits[0].argmax())
    names = {str(index): index for index in labels} | {label: index for index, label in labels.items()}
    index = names.get(str(target))
    if index is None:
        some = ", ".join(repr(label) for label in list(labels.values())[:5])
        raise ValueError(
            f"target is {target!r}, which is not a class of the model; expected one of {some}, or a number."
        )

    def run(record: AttentionRecord) -> Scored:
        logits = model(**pixels, **tokens).logits[0].float()
        return Scored(float(logits.detach().softmax(dim=-1)[index]), words, [logits[index]] * len(words))

    return Task(text_route(model), str(labels[index]), "probability of the class", run)


def _answer(model: Any, processor: Any, pixels: Any, text: str | None, target: Any) -> Task:
    tokens = _tokenize(model, processor, text, cleaning="question")
    words = _words_read(processor, tokens, text)
    if target is None:
        mask = {"encoder_attention_mask": tokens["attention_mask"]}
        options = {**_GENERATION, "max_new_tokens": model.default_max_new_tokens}
        found = best_sequences(model.generate(**pixels, **tokens, **mask, **options), 1)
        target = processor.post_process_answers(found)[0]
        answer_ids = torch.tensor([_until_end(found[0].tolist(), [model.config.eos_token_id])], device=model.device)
    else:
        answer_ids = processor.answer_candidates([_text_target(target)])["answer_input_ids"].to(model.device)

    def run(record: AttentionRecord) -> Scored:
        logits = model(**pixels, **tokens, decoder_input_ids=answer_ids).logits[0]
        found = _log_probabilities(logits[:-1], answer_ids[0, 1:])
        return Scored(float(found.detach().mean()), words, [found.sum()] * len(words))

    return Task(text_route(model), target, "mean log-probability of the answer's tokens", run)


# ---- heads that write a text ----


def _caption(model: Any, processor: Any, pixels: Any, text: str | None, target: Any) -> Task:
    prompt = processor.prompt_inputs(processor.prompt if text is None else text, return_tensors="pt").to(model.device)
    prompt_ids = prompt["input_ids"][0].tolist()
    if target is None:
        found = model.generate(**pixels, input_ids=prompt["input_ids"], **_GENERATION)
        caption = _until_end(best_sequences(found, 1)[0].tolist()[len(prompt_ids) :], [model.config.eos_token_id])
    else:
        cleaned = processor.clean(_text_target(target))[0]
        caption = processor.tokenizer(cleaned, add_special_tokens=False)["input_ids"] + [model.config.eos_token_id]
    ids = torch.tensor([prompt_ids + caption], device=model.device)
    first = len(prompt_ids)
    words = find_words(processor.tokenizer, ids[0].tolist(), first)
    has_qformer = hasattr(model, "qformer")

    def run(record: AttentionRecord) -> Scored:
        if has_qformer:
            states = model.query_images(model.encode_images(pixels["pixel_values"]), ids, causal=True).last_hidden_state
            logits = model.cls(states[0, model.config.num_query_tokens :])
        else:
            logits = model(**pixels, decoder_input_ids=ids).logits[0]
        return _score_written(_log_probabilities(logits[:-1], ids[0, 1:]), words, first, offset=-1)

    route: Route = (
        QFormerRoute(model, model.config.num_query_tokens, is_generated=True)
        if has_qformer
        else CrossAttentionRoute(model, model.text_decoder.bert, is_generated=True)
    )
    return Task(route, _joined(words), "mean log-probability of the caption's tokens", run)


def _language_model(model: Any, processor: Any, pixels: Any, text: str | None, target: Any) -> Task:
    is_encoder_decoder = model.config.is_encoder_decoder
    template = processor.prompt if text is None else text
    prompt = processor.prompt_inputs(template, return_tensors="pt").to(model.device)
    prompt_ids = prompt["input_ids"][0].tolist()
    if target is None:
        options = with_newline(_GENERATION, model, processor)
        found = best_sequences(model.generate(**pixels, **prompt, **options), 1)[0].tolist()
        ends = options.get("eos_token_id", model.generation_config.eos_token_id)
        written = _until_end(
            found[1 if is_encoder_decoder else len(prompt_ids) :], ends if isinstance(ends, list) else [ends]
        )
    else:
        continued = processor.answer_candidates([_text_target(target)], template="{}" + template)
        written = continued["answer_input_ids"][0].tolist()
    words = find_words(processor.tokenizer, written)
    placeholder = model.config.image_token_id
    positions = [place for place, token in enumerate(prompt_ids) if token == placeholder]
    has_prefix = not positions  # the query tokens come before the prompt, not in the place of placeholders
    positions = positions or list(range(model.config.num_query_tokens))

    def run(record: AttentionRecord) -> Scored:
        ids = prompt_ids if is_encoder_decoder else prompt_ids + written
        inputs = model.build_prompt(pixels["pixel_values"], torch.tensor([ids], device=model.device))
        options: dict[str, Any] = {}
        offset = len(prompt_ids) + (len(positions) if has_prefix else 0) - 1
        if is_encoder_decoder:
            start, offset = model.language_model.config.decoder_start_token_id, 0
            options["decoder_input_ids"] = torch.tensor([[start, *written[:-1]]], device=model.device)
        output = model.language_model(
            inputs_embeds=inputs.inputs_embeds,
            attention_mask=inputs.attention_mask,
            use_cache=False,
            output_attentions=True,
            **options,
        )
        for name, kind in _LANGUAGE_ATTENTION[is_encoder_decoder].items():
            for number, weights in enumerate(output[name] or (None,)):
                record.add((kind, number), weights)
        logits = output.logits[0, offset : offset + len(written)]
        found = _log_probabilities(logits, torch.tensor(written))
        return _score_written(found, words, 0, offset)

    route = LanguageModelRoute(model, positions)
    return Task(route, _joined(words), "mean log-probability of the text's tokens", run)


def _text_target(target: Any) -> str:
    if not isinstance(target, str) or not target.strip():
        raise ValueError(f"target is {target!r}; expected the text whose probability is explained.")
    return target


def _joined(words: list[Word]) -> str:
    if not words:
        raise ValueError("The generated text has no words, so that there is nothing to map; pass a text as target=.")
    return " ".join(word.text for word in words)


def _until_end(token_ids: list[int], ends: list[int | None]) -> list[int]:
    """Token ids up to the first one that ends a text, which is kept."""
    for position, token in enumerate(token_ids):
        if token in ends:
            return token_ids[: position + 1]
    return token_ids


def _log_probabilities(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Log-probabilities `(T,)` of tokens by logits `(T, V)`."""
    token_ids = token_ids.to(logits.device)  # a model can be spread over several
    return logits.float().log_softmax(dim=-1).gather(1, token_ids[:, None])[:, 0]


def _score_written(found: Tensor, words: list[Word], first: int, offset: int) -> Scored:
    """
    Score of a text that the model wrote.

    Args:
        found (`Tensor` of shape `(T,)`): log-probabilities; the last ones are those of the text and its end.
        words (`list[Word]`): words with positions in the text from `first` on.
        first (`int`): position of the first written token.
        offset (`int`): from the position of a token to the row of the route that predicts it.
    """
    written = found[max(first - 1, 0) :]
    derived = [written[[token - first for token in word.tokens]].sum() for word in words]
    rows = [Word(word.text, tuple(token + offset for token in word.tokens)) for word in words]
    return Scored(float(written.detach().mean()), rows, derived)


__all__ = ["Scored", "Task", "find_task", "text_route"]
