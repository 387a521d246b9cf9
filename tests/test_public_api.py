"""Exported names: changing them must be intended."""

import importlib
import importlib.resources

import modeling_lavis

EXPECTED = {
    "AlbefConfig",
    "AlbefForImageAndTextClassification",
    "AlbefForImageTextRetrieval",
    "AlbefForImagesAndTextClassification",
    "AlbefForPreTraining",
    "AlbefForQuestionAnswering",
    "AlbefModel",
    "AlbefProcessor",
    "AlproConfig",
    "AlproForVideoQuestionAnswering",
    "AlproForVideoTextRetrieval",
    "AlproModel",
    "AlproProcessor",
    "AutoModelForImageAndTextClassification",
    "AutoModelForImageTextRetrieval",
    "AutoModelForImagesAndTextClassification",
    "AutoModelForVideoQuestionAnswering",
    "AutoModelForVideoTextRetrieval",
    "LavisBertConfig",
    "LavisBlip2Config",
    "LavisBlip2ForConditionalGeneration",
    "LavisBlip2ForImageTextRetrieval",
    "LavisBlip2ForPreTraining",
    "LavisBlip2Model",
    "LavisBlip2Processor",
    "LavisBlipConfig",
    "LavisBlipForConditionalGeneration",
    "LavisBlipForImageAndTextClassification",
    "LavisBlipForImageTextRetrieval",
    "LavisBlipForImagesAndTextClassification",
    "LavisBlipForPreTraining",
    "LavisBlipForQuestionAnswering",
    "LavisBlipModel",
    "LavisBlipProcessor",
    "LavisClipVisionConfig",
    "LavisClipVisionModel",
    "LavisEvaConfig",
    "LavisEvaModel",
    "LavisImageProcessor",
    "LavisImageProcessorTorchvision",
    "LavisQFormerConfig",
    "LavisQFormerModel",
    "LavisTimesformerConfig",
    "LavisTimesformerModel",
    "LavisViTConfig",
    "LavisViTModel",
    "LavisVideoProcessor",
    "__version__",
    "LORA_TARGET_MODULES",
    "LavisTrainer",
    "RetrievalEngine",
    "check_data",
    "evaluate",
    "evaluate_retrieval",
    "explain",
    "export_model",
    "from_pretrained_parts",
    "list_recipes",
    "load_model",
    "load_model_and_preprocess",
    "load_recipe",
    "train",
    "load_data",
    "load_exported",
    "load_label2id",
    "make_collator",
    "mix",
    "lora_target_modules",
}


def test_exported_names() -> None:
    assert set(modeling_lavis.__all__) == EXPECTED
    assert len(modeling_lavis.__all__) == len(EXPECTED)


def test_names_resolve_to_classes_of_that_name() -> None:
    for name in EXPECTED - {"__version__", "LORA_TARGET_MODULES"}:
        assert getattr(modeling_lavis, name).__name__ == name


def test_public_names_have_docstrings() -> None:
    undocumented = [name for name in EXPECTED - {"__version__"} if not getattr(modeling_lavis, name).__doc__]
    assert undocumented == []


def test_dir() -> None:
    assert set(dir(modeling_lavis)) >= EXPECTED


def test_unknown_name_raises() -> None:
    try:
        modeling_lavis.LavisBlop  # noqa: B018
    except AttributeError as error:
        assert "LavisBlop" in str(error)
    else:
        raise AssertionError("an unknown name is accepted")


def test_names_differ_from_those_of_transformers() -> None:
    transformers = importlib.import_module("transformers")
    assert [name for name in EXPECTED - {"__version__"} if hasattr(transformers, name)] == []


def test_py_typed() -> None:
    files = importlib.resources.files(modeling_lavis)
    assert (files / "py.typed").is_file()
