"""The BLIP processor in `generate`, in transformers' pipelines, and in `Trainer` with the collators."""

from pathlib import Path

import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments, pipeline

from modeling_lavis import (
    LavisBlipConfig,
    LavisBlipForConditionalGeneration,
    LavisBlipForImageAndTextClassification,
    LavisBlipForImagesAndTextClassification,
    LavisBlipForImageTextRetrieval,
    LavisBlipForPreTraining,
    LavisBlipForQuestionAnswering,
)
from modeling_lavis.data.collators import (
    CaptioningCollator,
    ClassificationCollator,
    ImagePairCollator,
    ImageTextCollator,
    QuestionAnsweringCollator,
)
from modeling_lavis.data.transforms import blip_image_train
from modeling_lavis.models.image_processing_lavis import LavisImageProcessor
from modeling_lavis.models.processing_lavis_blip import LavisBlipProcessor
from modeling_lavis.models.tokenization_lavis import blip_tokenizer
from modeling_lavis.models.transformers_compat import major_minor

SIZE = 32


def config(**options) -> LavisBlipConfig:
    return LavisBlipConfig(
        vision_config={
            "image_size": SIZE,
            "patch_size": 16,
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        text_config={
            "vocab_size": 602,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
            **options.pop("text", {}),
        },
        projection_dim=8,
        queue_size=8,
        pad_token_id=0,
        cls_token_id=2,
        eos_token_id=3,
        bos_token_id=600,
        enc_token_id=601,
        **options,
    )


def processor(goldens: Path, **options) -> LavisBlipProcessor:
    return LavisBlipProcessor(LavisImageProcessor(size=SIZE), blip_tokenizer(goldens / "tokenizer"), **options)


@pytest.fixture
def captioner(goldens: Path):
    torch.manual_seed(0)
    model = LavisBlipForConditionalGeneration(config()).eval()
    return model, processor(goldens, prompt="a picture of ")


def test_generation_of_padded_prompts_equals_single_prompts(captioner, photos) -> None:
    model, made = captioner
    images, prompts = [photos["coffee"], photos["rocket"]], ["a photo of the big dog", "a cat"]
    for options in ({}, {"num_beams": 3}):
        together = model.generate(
            **made(images=images, text=prompts, return_tensors="pt"), max_new_tokens=6, min_new_tokens=6, **options
        )
        for number in range(2):
            inputs = made(images=images[number], text=prompts[number], return_tensors="pt")
            alone = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, **options)
            assert together[number, -6:].tolist() == alone[0, -6:].tolist()


def test_image_text_to_text_pipeline(captioner, photos, tmp_path: Path) -> None:
    model, made = captioner
    model.save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    run = pipeline("image-text-to-text", model=str(tmp_path), max_new_tokens=5, device="cpu")
    path = str(photos["coffee"])
    # older versions of transformers ignore the length that the pipeline is made with
    length = {"max_new_tokens": 5} if major_minor(transformers.__version__) < (5, 23) else {}
    (single,) = run(images=path, text="a photo of", **length)
    ids = model.generate(**made(images=path, text="a photo of", return_tensors="pt"), max_new_tokens=5)
    assert single["generated_text"].startswith("a photo of")
    (rest,) = made.post_process_captions(ids, prompt="a photo of")
    assert single["generated_text"].removeprefix("a photo of").strip() == rest
    batch = run(images=[path, str(photos["rocket"])], text=["a photo of", "a cat"], **length)
    assert batch[0] == single and batch[1]["generated_text"].startswith("a cat")


def test_zero_shot_image_classification_pipeline(goldens: Path, photos, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = LavisBlipForImageTextRetrieval(config()).eval()
    made = processor(goldens)
    model.save_pretrained(tmp_path)
    made.save_pretrained(tmp_path)
    run = pipeline("zero-shot-image-classification", model=str(tmp_path), device="cpu")
    found = run(str(photos["coffee"]), candidate_labels=["cup", "rocket", "dog"])
    assert {entry["label"] for entry in found} == {"cup", "rocket", "dog"}
    assert sum(entry["score"] for entry in found) == pytest.approx(1)


TASKS = {
    "captioning": (LavisBlipForConditionalGeneration, CaptioningCollator, {}),
    "retrieval": (LavisBlipForImageTextRetrieval, ImageTextCollator, {}),
    "pretraining": (LavisBlipForPreTraining, ImageTextCollator, {}),
    "answering": (LavisBlipForQuestionAnswering, QuestionAnsweringCollator, {}),
    "pairs": (LavisBlipForImagesAndTextClassification, ImagePairCollator, {"text": {"num_image_streams": 2}}),
    "classification": (LavisBlipForImageAndTextClassification, ClassificationCollator, {"num_labels": 3}),
}


@pytest.mark.parametrize("task", TASKS)
def test_trainer_with_collators(task: str, goldens: Path, photos, tmp_path: Path) -> None:
    model_class, collator_class, options = TASKS[task]
    torch.manual_seed(0)
    model = model_class(config(**{**options, **({"text": dict(options["text"])} if "text" in options else {})}))
    made = processor(goldens, prompt="a picture of " if task == "captioning" else "")
    names = ["coffee", "rocket", "chelsea", "astronaut"]
    rows = [
        {
            "image": str(photos[name]),
            "images": [str(photos[name]), str(photos["coffee"])],
            "caption": f"a {name}",
            "image_id": number,
            "question": "what is it?",
            "answer": [name] * 6 + ["thing"] * 4,
            "sentence": f"the left one is a {name}",
            "label": number % 2,
        }
        for number, name in enumerate(names)
    ]
    options = {"swap": True} if task == "pairs" else {}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=4,
            remove_unused_columns=False,
            label_names=["image_ids"] if collator_class is ImageTextCollator else None,
            report_to="none",
            use_cpu=True,
            save_steps=2,
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collator_class(made, transform=blip_image_train(SIZE), **options),
        processing_class=made,
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    assert 0 < trainer.train().training_loss < 50
    trained = model_class.from_pretrained(tmp_path / "checkpoint-2").state_dict()
    moved = {name for name, value in before.items() if not torch.equal(trained.get(name, value), value)}
    still = {name.partition(".")[0] for name in before} - {name.partition(".")[0] for name in moved}
    assert all(name.endswith("_m") for name in still), still
    again = LavisBlipProcessor.from_pretrained(tmp_path / "checkpoint-2")
    assert again.to_dict() == made.to_dict()
    trainer.args.prediction_loss_only = True
    assert 0 < trainer.evaluate()["eval_loss"] < 50
