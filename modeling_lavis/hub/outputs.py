# SPDX-License-Identifier: Apache-2.0
"""Outputs of a model for one image: what is expected of them, and how they are computed.

`model_cards/outputs.yaml` has what LAVIS states about its published checkpoints; a recording (see `hub.recordings`) has
what a model gave at another time. Both have one form, an [`ExpectedOutput`] for each call.
"""

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from modeling_lavis.hub import zoo
from modeling_lavis.model_card import is_repo_id

Value = str | float


@dataclass(frozen=True)
class ExpectedOutput:
    """
    What one call of a model is expected to give.

    Args:
        kind (`str`): a key of [`KINDS`]: what is computed.
        expected (`Mapping[str, str | float]`): the values by name.
        text (`str`, *optional*): caption, question or statement.
        choices (`tuple[str, ...]`, *optional*, defaults to `()`): answers to rank, or names of classes.
        prompt (`str`, *optional*): start of a caption; the processor's own by default.
        tolerance (`float`, *optional*, defaults to 0): difference of numbers that is allowed.
        relative_tolerance (`float`, *optional*, defaults to 0): the same as a share of the expected value. The larger
            one counts.
        image (`str`, *optional*): name of the image in `outputs.yaml`; `None` for the image of a recording.
        origin (`Mapping[str, str]`, *optional*): `name` and `url` of the page that states it.
        note (`str`, *optional*): remark for the reader.

    Raises:
        ValueError: If a value is of another type.
    """

    kind: str
    expected: Mapping[str, Value]
    text: str | None = None
    choices: tuple[str, ...] = ()
    prompt: str | None = None
    tolerance: float = 0.0
    relative_tolerance: float = 0.0
    image: str | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"The kind of an output is {self.kind!r:.80}; expected one of {', '.join(KINDS)}.")
        values = self.expected
        if not isinstance(values, Mapping) or not values or not all(_is_value(value) for value in values.values()):
            raise ValueError(f"The expected output is {values!r:.80}; expected strings and finite numbers by name.")
        for name in ("text", "prompt", "image", "note"):
            if not isinstance(getattr(self, name), (str, type(None))):
                raise ValueError(f"The {name} of an output is {getattr(self, name)!r:.80}; expected a string.")
        for name in ("tolerance", "relative_tolerance"):
            value = getattr(self, name)
            if not _is_value(value) or isinstance(value, str) or value < 0:
                raise ValueError(f"The {name} of an output is {value!r:.80}; expected a number from 0.")
        if not all(isinstance(choice, str) for choice in self.choices):
            raise ValueError(f"The choices of an output are {self.choices!r:.80}; expected strings.")

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "ExpectedOutput":
        """
        Make it from a mapping of its fields.

        Raises:
            ValueError: If a field is unknown, missing or of another type.
        """
        known = set(cls.__dataclass_fields__)
        if not isinstance(content, Mapping) or not {"kind", "expected"} <= set(content) <= known:
            raise ValueError(f"An output is {content!r:.120}; expected kind, expected and some of {sorted(known)}.")
        choices = content.get("choices") or ()
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            raise ValueError(f"The choices of an output are {choices!r:.80}; expected a list of strings.")
        return cls(**{**content, "choices": tuple(choices)})

    def allowed(self, name: str) -> float:
        """Difference that is allowed for an expected number."""
        return max(self.tolerance, self.relative_tolerance * abs(float(self.expected[name])))

    def agrees(self, name: str, found: Value) -> bool:
        """Whether a value is the expected one."""
        expected = self.expected[name]
        if isinstance(expected, str) or isinstance(found, str):
            return expected == found
        return math.isfinite(found) and abs(found - expected) <= self.allowed(name)

    @property
    def title(self) -> str:
        """What is computed, in a few words."""
        kind, given = KINDS[self.kind], self.text
        if self.prompt is not None:
            words = f"{kind.title} after {self.prompt!r}"
        else:
            words = kind.title if given is None else f"{kind.title} {kind.preposition} {given!r}"
        return f"{words}, from {', '.join(self.choices)}" if self.choices else words


def _is_value(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))


@cache
def _published() -> dict[str, Any]:
    return zoo.read_facts(zoo.FACTS_FOLDER / "outputs.yaml")


def published_images() -> dict[str, dict[str, Any]]:
    """The images of the published outputs: `name`, `about`, `url` and `size` (width, height) of each."""
    return dict(_published()["images"])


def published_outputs(entry: zoo.ZooEntry) -> list[ExpectedOutput]:
    """
    What LAVIS's tests and pages state about the outputs of a checkpoint; empty for most of them.

    Args:
        entry ([`ZooEntry`]): the checkpoint.
    """
    table = _published()
    return [
        ExpectedOutput.from_dict({**content, "origin": table["origins"][content["origin"]]})
        for content in table["checkpoints"].get(entry.name, ())
    ]


def check_name(repository: str) -> None:
    """Raise `OSError` if a name is neither a folder nor the id of a repository."""
    if not os.path.isdir(repository) and not is_repo_id(repository):
        raise OSError(f"There is no folder {repository}, and a Hub id has the form 'owner/name'.")


def load(repository: str, *, device: Any = None, dtype: Any = "auto", **hub_options: Any) -> tuple[Any, Any]:
    """Load the model of a repository, by the head that it was saved from, and its processor."""
    from transformers import AutoModel, AutoProcessor

    import modeling_lavis  # noqa: F401  (registers the classes)

    check_name(repository)
    model = AutoModel.from_pretrained(repository, dtype=dtype, **hub_options).eval()
    processor = AutoProcessor.from_pretrained(repository, **hub_options)
    return (model if device is None else model.to(device)), processor


# ---- computing ----


@dataclass(frozen=True)
class Kind:
    """
    A kind of output.

    Args:
        title (`str`): what it is, in a few words.
        needs (`tuple[str, ...]`): fields of [`ExpectedOutput`] that it needs.
        compute (`Callable`): function of model, processor, image and [`ExpectedOutput`] that returns values by name.
        fits (`Callable`): function of a model that says whether it has such outputs.
        preposition (`str`, *optional*, defaults to `"of"`): word between the title and a text.
    """

    title: str
    needs: tuple[str, ...]
    compute: Callable[[Any, Any, Any, ExpectedOutput], dict[str, Value]]
    fits: Callable[[Any], bool]
    preposition: str = "of"


def compute_output(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    """
    Compute an output.

    Args:
        model (`PreTrainedModel`): the model, on its device; it runs in evaluation mode.
        processor (`ProcessorMixin`): its processor.
        image: an image, or a video if the model takes videos, as its processor takes them.
        wanted ([`ExpectedOutput`]): what to compute.

    Returns:
        `dict[str, str | float]`: the values by name.

    Raises:
        ValueError: If the model has no such output, or a text is missing.
    """
    from modeling_lavis.evaluation.prediction import evaluation_mode

    kind = KINDS[wanted.kind]
    if not kind.fits(model):
        raise ValueError(f"{type(model).__name__} has no {kind.title}. Give a model for that task.")
    for name in kind.needs:
        if not getattr(wanted, name):
            raise ValueError(f"The {kind.title} needs {name}, which is missing.")
    image = os.fspath(image) if isinstance(image, os.PathLike) else image
    with evaluation_mode(model):
        return kind.compute(model, processor, image, wanted)


def takes_videos(model: Any) -> bool:
    """Whether a model takes videos in the place of images."""
    return "video" in getattr(model, "input_modalities", ())


def _inputs(model: Any, processor: Any, image: Any, texts: Any, **options: Any) -> dict[str, Any]:
    """Inputs of the model for an image (or a video) and texts, on its device."""
    from modeling_lavis.evaluation.prediction import move

    if type(model).__name__.endswith("ForImagesAndTextClassification"):
        media: Any = {"images": [[image, image]]}
        texts = [texts]
    else:
        media = {"videos" if takes_videos(model) else "images": image}
    formats = {"text_format": "encoder"} if "prompt" in getattr(processor, "text_formats", ()) else {}
    moved: dict[str, Any] = move(
        dict(processor(**media, text=texts, return_tensors="pt", **formats, **options)), model.device
    )
    return _in_dtype(moved, model)


def _in_dtype(inputs: dict[str, Any], model: Any) -> dict[str, Any]:
    """Pixels in the dtype of the model's weights."""
    for name in ("pixel_values", "pixel_values_videos"):
        if name in inputs:
            inputs[name] = inputs[name].to(model.dtype)
    return inputs


def _caption(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    from modeling_lavis.evaluation.captioning import evaluate_captioning

    rows = [{"image": image, "image_id": 0}]
    found = evaluate_captioning(model, processor, rows, prompt=wanted.prompt, return_predictions=True)
    return {"caption": found.predictions[0]["caption"].strip()}


def _caption_loss(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    from modeling_lavis.evaluation.prediction import move

    inputs = {**processor.image_processor([image], return_tensors="pt"), **processor.caption_labels([wanted.text])}
    output = model(**_in_dtype(move(inputs, model.device), model))
    values = {"loss": output.loss.item()}
    if getattr(output, "image_embeds", None) is not None:
        values["image_embeds"] = output.image_embeds.float().mean().item()
    return values


def _answer(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    from modeling_lavis.evaluation.prediction import move
    from modeling_lavis.evaluation.question_answering import evaluate_question_answering

    if not wanted.choices:
        rows = [{"image": image, "question": wanted.text, "question_id": 0}]
        found = evaluate_question_answering(model, processor, rows, return_predictions=True)
        return {"answer": found.predictions[0]["answer"].strip()}
    candidates = move(dict(processor.answer_candidates(list(wanted.choices))), model.device)
    if getattr(model, "answers_prompts", False):
        pixels = processor.image_processor([image], return_tensors="pt")
        inputs = _in_dtype(move({**pixels, **processor.question_inputs([wanted.text])}, model.device), model)
    else:
        inputs = _inputs(model, processor, image, wanted.text, cleaning="question")
    ranked = model.rank_answers(**inputs, **candidates)
    return {"answer": wanted.choices[int(ranked.best[0])], "score": ranked.scores[0, 0].item()}


def _match(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    output = model(**_inputs(model, processor, image, wanted.text), match_head="both")
    similarity = output.logits_per_video if takes_videos(model) else output.logits_per_image
    return {
        "probability": output.logits.float().softmax(dim=-1)[0, 1].item(),
        "cosine": (similarity[0, 0].float() * model.temp.float()).item(),
    }


def _similarities(model: Any, processor: Any, image: Any, texts: Any) -> torch.Tensor:
    """Cosines of an image (or a video) with texts, as a vector."""
    inputs = _inputs(model, processor, image, texts)
    media = {name: value for name, value in inputs.items() if name.startswith("pixel_values")}
    encode = model.get_video_features if takes_videos(model) else model.get_image_features
    tokens = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    text_features = model.get_text_features(**tokens).pooler_output
    return model.compare_features(encode(**media).pooler_output.float(), text_features.float())[0]


def _similarity(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    return {"cosine": _similarities(model, processor, image, [wanted.text])[0].item()}


def _zero_shot(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    cosines = _similarities(model, processor, image, list(wanted.choices))
    shares = (cosines / model.temp.float()).softmax(dim=0).tolist()
    return dict(zip(wanted.choices, shares, strict=True))


def _features(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    output = model(**_inputs(model, processor, image, wanted.text))
    return {
        name: value.float().mean().item()
        for name, value in output.items()
        if isinstance(value, torch.Tensor) and name.endswith(("_embeds", "_features"))
    }


def _classes(model: Any, processor: Any, image: Any, wanted: ExpectedOutput) -> dict[str, Value]:
    shares = model(**_inputs(model, processor, image, wanted.text)).logits.float().softmax(dim=-1)[0]
    best = shares.topk(min(5, len(shares)))
    names = [str(model.config.id2label.get(index, index)) for index in best.indices.tolist()]
    return dict(zip(names, best.values.tolist(), strict=True))


def _is_head(*endings: str) -> Callable[[Any], bool]:
    return lambda model: type(model).__name__.endswith(endings)


def _compares(model: Any) -> bool:
    has_images = hasattr(model, "get_image_features") or hasattr(model, "get_video_features")
    return has_images and hasattr(model, "get_text_features") and hasattr(model, "temp")


def _matches(model: Any) -> bool:
    return "match_head" in inspect.signature(type(model).forward).parameters


def _captions(model: Any) -> bool:
    return model.can_generate() and _is_head("ForConditionalGeneration", "ForPreTraining")(model)


def _answers(model: Any) -> bool:
    return hasattr(model, "rank_answers") or getattr(model, "answers_prompts", False)


#: What can be computed, by name.
KINDS: dict[str, Kind] = {
    "caption": Kind("caption", (), _caption, _captions),
    "caption_loss": Kind("captioning loss", ("text",), _caption_loss, _is_head("ForConditionalGeneration")),
    "answer": Kind("answer", ("text",), _answer, _answers, "to"),
    "match": Kind("match", ("text",), _match, _matches, "with"),
    "similarity": Kind("similarity", ("text",), _similarity, _compares, "with"),
    "zero_shot": Kind("zero-shot class", ("choices",), _zero_shot, _compares),
    "features": Kind("means of features", ("text",), _features, _is_head("Model"), "with"),
    "classes": Kind(
        "class",
        ("text",),
        _classes,
        _is_head("ForImageAndTextClassification", "ForImagesAndTextClassification", "ForVideoQuestionAnswering"),
    ),
}


__all__ = [
    "KINDS",
    "ExpectedOutput",
    "Kind",
    "check_name",
    "compute_output",
    "load",
    "published_images",
    "published_outputs",
    "takes_videos",
]
