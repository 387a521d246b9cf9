"""Heads of unusual sizes: one layer, three attention heads, one query token, one frame, fusion in no layer or in all.

Graphs are not traced here, so that what is compared is the code around them; tracing does not depend on these sizes.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import modeling_lavis
from modeling_lavis.export import export_model, load_exported
from modeling_lavis.models.processing_lavis_blip import blip_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer
from tests.export.comparison import assert_close

pytestmark = pytest.mark.usefixtures("untraced")
SIZE, PATCH, LONGEST, VOCABULARY = 40, 8, 48, 600
IDS = {"cls_token_id": 2, "eos_token_id": 3}
WIDTH = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "initializer_range": 0.3}
TEXT = {**WIDTH, "vocab_size": VOCABULARY, "intermediate_size": 40, "max_position_embeddings": LONGEST}
GENERATION: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 5, "num_return_sequences": 5},
    {"num_beams": 4, "length_penalty": 2.0},
    {"num_beams": 3, "length_penalty": -1.0, "early_stopping": True},
    {"num_beams": 2, "early_stopping": "never", "return_dict_in_generate": True, "output_scores": True},
    {"num_beams": 1, "do_sample": True, "top_p": 0.9, "num_return_sequences": 3},
    {"num_beams": 1, "guidance_scale": 1.7},
    {"num_beams": 2, "use_cache": False},
    {"num_beams": 1, "max_new_tokens": 1},
]


class Pair(NamedTuple):
    """A head and its export."""

    model: Any
    exported: Any

    def assert_same(self, method: str, *arguments: Any, **options: Any) -> None:
        """Compare what a method returns, with the same random draws."""
        results = []
        for head in self:
            torch.manual_seed(0)
            with torch.no_grad():
                results.append(getattr(head, method)(*arguments, **options))
        assert_close(results[1], results[0])

    def assert_same_error(self, method: str, **options: Any) -> None:
        """Compare the messages of the `ValueError` of a method."""
        messages = []
        for head in self:
            with pytest.raises(ValueError) as error:
                getattr(head, method)(**options)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def export(folder: Path, tokenizer: Path, head: str, **options: Any) -> Pair:
    """A head by the name of its class, with options of its configuration."""
    family = next(name for name in ("LavisBlip2", "LavisBlip", "Albef", "Alpro") if head.startswith(name))
    vision = {**WIDTH, "image_size": SIZE, "patch_size": PATCH, **options.pop("vision", {})}
    text = {**TEXT, **options.pop("text", {})}
    if family == "LavisBlip":
        text["vocab_size"] += 2
        options |= {"bos_token_id": VOCABULARY, "enc_token_id": VOCABULARY + 1, "queue_size": 8}
    elif family == "LavisBlip2":
        text = {**text, "vocab_size": VOCABULARY + 1, "num_query_tokens": 1}
        options |= {"bos_token_id": VOCABULARY, "pad_token_id": 0}
    elif family == "Albef":
        options |= {"mask_token_id": 4, "pad_token_id": 0, "queue_size": 8}
    config = getattr(modeling_lavis, f"{family}Config")(
        vision_config=vision,
        **{"qformer_config" if family == "LavisBlip2" else "text_config": text},
        **{"projection_dim": 7, **IDS, **options},
    )
    torch.manual_seed(0)
    model = getattr(modeling_lavis, head)(config).eval()
    names: Any = (blip_tokenizer if family == "LavisBlip" else bert_tokenizer)(str(tokenizer))
    if family == "LavisBlip2":
        names.add_special_tokens({"bos_token": "[DEC]"})
    pixels: Any = modeling_lavis.LavisImageProcessor(size=SIZE)
    if family == "Alpro":
        pixels = modeling_lavis.LavisVideoProcessor(size=SIZE, num_frames=config.vision_config.num_frames)
    processor = getattr(modeling_lavis, f"{family}Processor")(pixels, names)
    export_model(model, folder / "exported", "torch", image_size="dynamic", processor=processor)
    return Pair(model, load_exported(folder / "exported"))


def images(count: int, *shape: int) -> torch.Tensor:
    return torch.randn(count, *(shape or (3, SIZE, SIZE)), generator=torch.Generator().manual_seed(count))


def texts(count: int, length: int) -> dict[str, torch.Tensor]:
    """Texts of random tokens, of which all but the first end in padding."""
    ids = torch.randint(5, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(length))
    mask = torch.arange(length) < (length - torch.arange(count)[:, None]).clamp_min(1)
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


BATCHES = [(1, 1), (7, 9), (2, LONGEST)]


@pytest.mark.slow
@pytest.mark.parametrize("head", ["LavisBlipForConditionalGeneration", "LavisBlip2ForPreTraining"])
def test_captions(tmp_path: Path, goldens: Path, head: str) -> None:
    pair = export(tmp_path, goldens / "tokenizer", head)
    for options in GENERATION:
        options = {"max_new_tokens": 6, "min_length": 0, **options}
        pair.assert_same("generate", pixel_values=images(3), **options)
    other_size = {"pixel_values": images(2, 3, PATCH, 3 * PATCH), "interpolate_pos_encoding": True}
    pair.assert_same("generate", **other_size, num_beams=2, max_new_tokens=4)
    with pytest.raises(ValueError, match="leave cache_implementation out"):
        pair.exported.generate(pixel_values=images(1), num_beams=1, cache_implementation="static", max_new_tokens=4)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["LavisBlipForQuestionAnswering", "AlbefForQuestionAnswering"])
def test_answers(tmp_path: Path, goldens: Path, head: str) -> None:
    text = {"num_hidden_layers": 2, "fusion_layer": 1} if head.startswith("Albef") else {}
    pair = export(tmp_path, goldens / "tokenizer", head, text=text)
    for options in GENERATION[1:4]:
        options = {"max_new_tokens": 6, "min_length": 0, **options}
        pair.assert_same("generate", pixel_values=images(3), **texts(3, 6), **options)
    for questions, count in ((1, 1), (3, 9)):
        answers = {f"answer_{name}": value for name, value in texts(count, 5).items()}
        for limit in ({}, {"num_candidates": 1}):
            pair.assert_same("rank_answers", images(questions), **texts(questions, 7), **answers, **limit)


@pytest.mark.parametrize(
    ("head", "text"),
    [
        ("AlbefForImageTextRetrieval", {"num_hidden_layers": 2, "fusion_layer": 0}),
        ("AlbefForImageTextRetrieval", {"num_hidden_layers": 2, "fusion_layer": 1}),
        ("LavisBlipForImageTextRetrieval", {}),
        ("LavisBlip2ForImageTextRetrieval", {"num_hidden_layers": 3, "cross_attention_frequency": 3}),
    ],
)
def test_matching(tmp_path: Path, goldens: Path, head: str, text: dict[str, int]) -> None:
    pair = export(tmp_path, goldens / "tokenizer", head, text=text)
    for count, length in BATCHES:
        rows = torch.cartesian_prod(torch.arange(count), torch.arange(count))
        pair.assert_same("forward", pixel_values=images(count), **texts(count, length), match_head="both")
        pair.assert_same("score_pairs", images(count), texts(count, length), rows)
    pair.assert_same_error("forward", pixel_values=images(2), **texts(2, LONGEST + 1))
    for token in (-1, VOCABULARY + 2):
        with pytest.raises(ValueError, match=f"Got the token id {token} in input_ids"):
            pair.exported(pixel_values=images(1), input_ids=torch.tensor([[2, token, 3]]))


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("AlbefModel", {"text": {"num_hidden_layers": 2, "fusion_layer": 2}}),
        ("AlbefForImagesAndTextClassification", {"text": {"num_hidden_layers": 3, "fusion_layer": 1}}),
        ("LavisBlipForImagesAndTextClassification", {"text": {"num_hidden_layers": 3, "merge_from_layer": 1}}),
        ("LavisBlipForImageAndTextClassification", {"num_labels": 1}),
    ],
)
def test_features_and_classes(tmp_path: Path, goldens: Path, head: str, options: dict[str, Any]) -> None:
    pair = export(tmp_path, goldens / "tokenizer", head, **options)
    shape = (2, 3, SIZE, SIZE) if "Images" in head else (3, SIZE, SIZE)
    for count, length in BATCHES:
        pair.assert_same("forward", pixel_values=images(count, *shape), **texts(count, length))


@pytest.mark.parametrize("frames", [1, 4])
def test_videos(tmp_path: Path, goldens: Path, frames: int) -> None:
    text = {"num_hidden_layers": 2, "fusion_layer": 1}
    pair = export(tmp_path, goldens / "tokenizer", "AlproModel", text=text, vision={"num_frames": frames})
    for count in (1, 2, 9):
        videos = {"pixel_values_videos": images(2, count, 3, SIZE, SIZE), "interpolate_pos_encoding": True}
        pair.assert_same("forward", **videos, **texts(2, 9))
