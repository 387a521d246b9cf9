"""Processors for transformers' common tests, with the tokenizers of the golden sets."""

import unittest
from types import ModuleType
from typing import Any

from PIL import Image
from transformers import AutoTokenizer

from modeling_lavis import (
    AlbefProcessor,
    AlproProcessor,
    LavisBlip2Processor,
    LavisBlipProcessor,
    LavisImageProcessor,
    LavisImageProcessorTorchvision,
    LavisVideoProcessor,
)
from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer
from tests.conversion.golden_sets import GOLDENS, TOKENIZER

SIZE = 20
PHOTO = GOLDENS / "processors" / "images" / "coffee.png"


def _processor_tests(mixin: Any) -> dict[str, type]:
    """One class per processor; BLIP-2's once per kind of language model."""
    folder = str(TOKENIZER)
    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "AlbefProcessor": (AlbefProcessor, lambda: bert_tokenizer(folder), {}),
        "AlproProcessor": (AlproProcessor, lambda: bert_tokenizer(folder), {}),
        "LavisBlipProcessor": (LavisBlipProcessor, lambda: blip_tokenizer(folder), {}),
        "LavisBlip2Processor": (LavisBlip2Processor, lambda: qformer_tokenizer(folder), {}),
        "LavisBlip2Processor_causal": (
            LavisBlip2Processor,
            lambda: AutoTokenizer.from_pretrained(GOLDENS / "blip2_opt" / "llm"),
            {"language_model": "causal"},
        ),
        "LavisBlip2Processor_seq2seq": (
            LavisBlip2Processor,
            lambda: AutoTokenizer.from_pretrained(GOLDENS / "blip2_t5" / "llm"),
            {"language_model": "seq2seq"},
        ),
    }
    return {
        name: type(
            name,
            (mixin, unittest.TestCase),
            {
                "processor_class": processor,
                "prepare_processor_dict": staticmethod(lambda options=options: dict(options)),
                "_setup_tokenizer": classmethod(lambda cls, made=tokenizer: made()),
                "_setup_image_processor": classmethod(lambda cls: LavisImageProcessor(size=SIZE)),
                "_setup_video_processor": classmethod(lambda cls: LavisVideoProcessor(size=SIZE, num_frames=8)),
            },
        )
        for name, (processor, tokenizer, options) in kinds.items()
    }


def _image_processor_tests(module: ModuleType) -> dict[str, type]:
    """Both image processors in one class: they are the two backends of the same operations."""

    class Tester(module.ImageProcessingTester):  # type: ignore[name-defined]
        def __init__(self, parent: Any, **options: Any) -> None:
            size = {"height": SIZE, "width": SIZE}
            super().__init__(parent, **{"size": size, "do_resize": True, "do_normalize": True, **options})

        def _get_image_processing_classes(self) -> dict[str, Any]:
            return {"pil": LavisImageProcessor, "torchvision": LavisImageProcessorTorchvision}

    module.load_test_image = lambda url: Image.open(PHOTO)  # type: ignore[attr-defined]  # nothing is downloaded
    members = {"image_processor_tester_class": Tester}
    return {"LavisImageProcessor": type("X", (module.ImageProcessingTestMixin, unittest.TestCase), members)}


class VideoTester:
    """What the common tests ask about a video processor."""

    batch_size, num_frames, num_channels = 5, 8, 3
    min_resolution, max_resolution = 30, 80

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def prepare_video_processor_dict(self) -> dict[str, Any]:
        """Options of the video processor."""
        return {"size": {"height": SIZE, "width": SIZE}, "num_frames": self.num_frames, "do_normalize": True}

    def expected_output_video_shape(self, videos: Any) -> list[int]:
        """Shape of one processed video."""
        return [self.num_frames, self.num_channels, SIZE, SIZE]

    def prepare_video_inputs(self, equal_resolution: bool = False, return_tensors: str = "pil") -> Any:
        """Random videos."""
        return self.module.prepare_video_inputs(
            batch_size=self.batch_size,
            num_frames=self.num_frames,
            num_channels=self.num_channels,
            min_resolution=self.min_resolution,
            max_resolution=self.max_resolution,
            equal_resolution=equal_resolution,
            return_tensors=return_tensors,
        )


def _video_processor_tests(module: ModuleType) -> dict[str, type]:
    def set_up(self: Any) -> None:
        module.VideoProcessingTestMixin.setUp(self)
        self.video_processor_tester = VideoTester(module)

    members = {
        "fast_video_processing_class": LavisVideoProcessor,
        "setUp": set_up,
        "video_processor_dict": property(lambda self: self.video_processor_tester.prepare_video_processor_dict()),
    }
    return {"LavisVideoProcessor": type("X", (module.VideoProcessingTestMixin, unittest.TestCase), members)}


def test_classes(common: dict[str, ModuleType]) -> dict[str, type]:
    """The test classes of all processors by name."""
    classes = {
        **_processor_tests(common["test_processing_common"].ProcessorTesterMixin),
        **_image_processor_tests(common["test_image_processing_common"]),
        **_video_processor_tests(common["test_video_processing_common"]),
    }
    for name, made in classes.items():
        made.__name__ = made.__qualname__ = name
        made.__module__ = "tests.common.collected"
    return classes


test_classes.__test__ = False  # type: ignore[attr-defined]  # no test, in spite of its name

__all__ = ["test_classes"]
