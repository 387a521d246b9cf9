"""Tiny models of every head that can be explained, with their processors, pictures and texts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modeling_lavis import (
    AlbefProcessor,
    AlproProcessor,
    LavisBlip2Processor,
    LavisBlipProcessor,
    LavisImageProcessor,
    LavisVideoProcessor,
)
from modeling_lavis.models.processing_lavis_blip import blip_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer
from tests.models import albef_cases, alpro_cases, lavis_blip_2_cases, lavis_blip_cases
from tests.models.alpro_cases import FRAMES
from tests.models.contract import Case, perturb
from tests.models.lavis_blip_cases import SIZE
from tests.models.tiny_tokenizers import tiny_model, tiny_processor

PIECES, DEC, ENC = 602, 600, 601
TEXT = "two people are riding bicycles"
#: size of the pictures, in pixels: another shape than that of the model's input
WIDTH, HEIGHT = 50, 40


@dataclass
class Head:
    """A head with what `explain` needs: pictures, a text that it reads or its prompt, and a target."""

    model: Any
    processor: Any
    picture: Any
    text: str | None
    target: Any
    words: str

    @property
    def arguments(self) -> dict[str, Any]:
        return {"image": self.picture, "text": self.text, "target": self.target}


def picture(seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _model(case: Case, **options: Any) -> Any:
    layers = 5 if case is albef_cases.IMAGE_PAIRS else 4  # its fusion layers come in pairs, after one text layer
    return case.model(text={"vocab_size": PIECES, "num_hidden_layers": layers}, **options)


HEADS: dict[str, tuple[Case, Any, str | None, Any]] = {
    "albef retrieval": (albef_cases.RETRIEVAL, "one", TEXT, None),
    "albef pretraining": (albef_cases.PRETRAINING, "one", TEXT, "mismatch"),
    "albef answering": (albef_cases.ANSWERING, "one", TEXT, "a red ball"),
    "albef entailment": (albef_cases.CLASSIFICATION, "one", TEXT, None),
    "blip retrieval": (lavis_blip_cases.RETRIEVAL, "one", TEXT, "match"),
    "blip answering": (lavis_blip_cases.ANSWERING, "one", TEXT, "a red ball"),
    "blip captioning": (lavis_blip_cases.CAPTIONING, "one", None, TEXT),
    "blip pretraining, captions": (lavis_blip_cases.PRETRAINING, "one", None, TEXT),
    "blip nlvr": (lavis_blip_cases.IMAGE_PAIRS, "two", TEXT, 1),
    "albef nlvr": (albef_cases.IMAGE_PAIRS, "two", TEXT, 0),
    "blip-2 retrieval": (lavis_blip_2_cases.RETRIEVAL, "one", TEXT, None),
    "blip-2 captions": (lavis_blip_2_cases.PRETRAINING, "one", None, TEXT),
    "alpro retrieval": (alpro_cases.RETRIEVAL, "video", TEXT, None),
    "albef features": (albef_cases.FEATURES, "one", TEXT, None),
    "blip similarity": (lavis_blip_cases.RETRIEVAL, "one", TEXT, "similarity"),
    "blip-2 features": (lavis_blip_2_cases.FEATURES, "one", TEXT, None),
    "alpro similarity": (alpro_cases.RETRIEVAL, "video", TEXT, "similarity"),
    "alpro answering": (alpro_cases.ANSWERING, "video", TEXT, 3),
}
LANGUAGE_MODELS = ("opt", "t5")
NAMES = (*HEADS, *LANGUAGE_MODELS)


def make_head(name: str, tokenizer: Path) -> Head:
    """A head by its name, with random weights; `tokenizer` is the folder of a vocabulary of BERT."""
    if name in LANGUAGE_MODELS:
        kind = {"opt": "adds BOS, which is EOS (OPT)", "t5": "adds EOS (T5)"}[name]
        processor = tiny_processor(kind)
        model = tiny_model(kind, processor).eval()
        perturb(model)
        return Head(model, processor, picture(), "a photo of", "two cats", "two cats")
    case, pictures, text, target = HEADS[name]
    images = LavisImageProcessor(size=SIZE)
    family = case.model_class.__name__.removeprefix("Lavis")[:5]
    ids: dict[str, Any] = {}
    if family == "Albef":
        processor: Any = AlbefProcessor(images, bert_tokenizer(str(tokenizer)))
    elif family == "Alpro":
        processor = AlproProcessor(LavisVideoProcessor(size=SIZE, num_frames=FRAMES), bert_tokenizer(str(tokenizer)))
    elif family == "Blip2":
        processor = LavisBlip2Processor(images, bert_tokenizer(str(tokenizer)))
        ids = {"bos_token_id": DEC}
    else:
        processor = LavisBlipProcessor(images, blip_tokenizer(str(tokenizer)))
        ids = {"bos_token_id": DEC, "enc_token_id": ENC}
    shown: Any = {
        "one": lambda: picture(),
        "two": lambda: [picture(0), picture(1)],
        "video": lambda: [picture(seed) for seed in range(FRAMES)],
    }[pictures]()
    return Head(_model(case, **ids), processor, shown, text, target, TEXT)
