# SPDX-License-Identifier: Apache-2.0
"""Train the small BLIP that is embedded in the package, from scratch on emoji, with BLIP's pre-training losses.

It needs no accelerator; an epoch takes about half a minute on one core::

    python examples/build_emoji_dataset.py --output emoji_set
    python examples/train_embedded_model.py --data emoji_set --output embedded_model

The embedded model was trained further with `--start-from` twice; its model card lists the commands.

The script uses `transformers.Trainer`: the dataset returns images and captions, the collator applies a random affine
transform to each image and runs the processor, and `LavisBlipForPreTraining` returns the sum of its three losses.
Images are never mirrored (some captions say "facing right"), and their colors do not change (skin tones, flags).

By default, the contrastive loss uses in-batch negatives, which saves the forward passes of momentum encoders;
`--momentum` trains with momentum encoders and queue. The saved model has neither.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path
from string import Template
from typing import Any

import torch
from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import Dataset
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from modeling_lavis import LavisBlipConfig, LavisBlipForPreTraining, LavisBlipProcessor, LavisImageProcessor
from modeling_lavis.evaluation.metrics import recall_at_k
from modeling_lavis.evaluation.retrieval import similarity_matrices
from modeling_lavis.models.image_conversion import open_image, parse_background, to_rgb
from modeling_lavis.models.tokenization_lavis import clean_caption

IMAGE_SIZE, PATCH_SIZE = 72, 12
VOCABULARY = 1000
MAX_TEXT_LENGTH = 40
BACKGROUND = "white"
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _configure(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.BertNormalizer(lowercase=True), normalizers.Replace(":", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[,“”]"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def train_tokenizer(captions: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Train a lower-case WordPiece tokenizer on captions.

    Unlike BERT's, it splits words at spaces and commas only, so that "medium-light" stays one word and decoded captions
    equal the original ones. A colon counts as a space, with or without the processor's cleaning.

    Args:
        captions (`list[str]`): captions of the train split.
        vocabulary (`int`, *optional*, defaults to 1000): vocabulary size, including special tokens.
    """
    texts = [clean_caption(caption) for caption in captions]
    # listed in order, because the trainer would number continuing characters in another order in every run
    continuations = sorted(
        {f"##{character}" for text in texts for character in text.lower() if not character.isspace()}
    )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary - 2, special_tokens=SPECIAL_TOKENS + continuations, show_progress=False, min_frequency=1
    )
    draft = _configure(Tokenizer(models.WordPiece(unk_token="[UNK]")))
    draft.train_from_iterator(texts, trainer)
    tokenizer = _configure(Tokenizer(models.WordPiece(draft.get_vocab(), unk_token="[UNK]")))
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, "[DEC]", "[ENC]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        bos_token="[DEC]",
        extra_special_tokens=["[ENC]"],
        model_max_length=MAX_TEXT_LENGTH,
        clean_up_tokenization_spaces=True,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LavisBlipProcessor:
    """Processor of the small model: images of 72 x 72 pixels on white, texts of at most 40 tokens."""
    # emoji files are transparent, and the model is trained on a white background
    image_processor = LavisImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, background=BACKGROUND)
    return LavisBlipProcessor(image_processor, tokenizer, max_text_length=MAX_TEXT_LENGTH)


def make_config(
    tokenizer: PreTrainedTokenizerFast, use_momentum: bool = False, dropout: float = 0.1, drop_path: float = 0.0
) -> LavisBlipConfig:
    """Configuration of the small model: two million parameters without momentum encoders."""
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _SPECIAL_TOKENS.items()}
    return LavisBlipConfig(
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "drop_path_rate": drop_path,
            # small hidden sizes need a larger standard deviation than the 0.02 of hidden size 768
            "initializer_range": 0.08,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": MAX_TEXT_LENGTH,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": 0.0,
            "initializer_range": 0.08,
        },
        projection_dim=96,
        initializer_range=0.08,
        queue_size=960,
        momentum=0.99,
        use_momentum=use_momentum,
        **ids,
    )


_SPECIAL_TOKENS = {
    "pad_token_id": "[PAD]",
    "cls_token_id": "[CLS]",
    "eos_token_id": "[SEP]",
    "bos_token_id": "[DEC]",
    "enc_token_id": "[ENC]",
}


class EmojiPairs(Dataset):
    """Images and captions of a split, with all images in memory as RGB.

    Args:
        folder (`Path`): output of `build_emoji_dataset.py`.
        split (`str`): `"train"` or `"val"`.
        limit (`int`, *optional*): maximal number of pairs.
    """

    def __init__(self, folder: Path, split: str, limit: int | None = None) -> None:
        listing = folder / f"{split}.json"
        if not listing.is_file():
            raise OSError(f"There is no {str(listing)!r}. Run examples/build_emoji_dataset.py first.")
        entries = json.loads(listing.read_text(encoding="utf-8"))[:limit]
        self.captions = [entry["caption"] for entry in entries]
        white = parse_background(BACKGROUND)
        self.images = [to_rgb(open_image(folder / entry["image"]), white) for entry in entries]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "caption": self.captions[index]}


def random_affine(
    image: Image.Image, draw: random.Random, turn: float = 6.0, zoom: float = 0.1, shift: float = 0.05
) -> Any:
    """Rotate, scale, stretch and shift an image randomly, with white pixels beyond its edges.

    Args:
        image (`PIL.Image.Image`): RGB image.
        draw (`random.Random`): source of random numbers.
        turn (`float`, *optional*, defaults to 6.0): maximal angle in degrees.
        zoom (`float`, *optional*, defaults to 0.1): maximal logarithm of the scale, twice that of the aspect ratio.
        shift (`float`, *optional*, defaults to 0.05): maximal shift as a share of width and height.
    """
    width, height = image.size
    angle = math.radians(draw.uniform(-turn, turn))
    scale, aspect = math.exp(draw.uniform(-zoom, zoom)), math.exp(draw.uniform(-zoom / 2, zoom / 2))
    shift_x, shift_y = draw.uniform(-shift, shift) * width, draw.uniform(-shift, shift) * height
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b = cosine / (scale * aspect), sine / (scale * aspect)
    c, d = -sine * aspect / scale, cosine * aspect / scale
    x, y = width / 2, height / 2
    # PIL expects the transform from output to input coordinates
    matrix = (a, b, x - a * (x + shift_x) - b * (y + shift_y), c, d, y - c * (x + shift_x) - d * (y + shift_y))
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=BACKGROUND)


class PretrainingCollator:
    """Collates rows into a batch for which the model returns its training losses.

    Args:
        processor ([`LavisBlipProcessor`]): returns `pixel_values` of shape `(batch_size, 3, 72, 72)`, `input_ids` and
            `attention_mask`.
        seed (`int`, *optional*): seed of [`random_affine`]; by default, images are not augmented.
        strength (`float`, *optional*, defaults to 1.0): factor of all maxima of [`random_affine`].
    """

    def __init__(self, processor: LavisBlipProcessor, seed: int | None = None, strength: float = 1.0) -> None:
        self.processor = processor
        self.limits = {"turn": 6.0 * strength, "zoom": 0.1 * strength, "shift": 0.05 * strength}
        self.draw = None if seed is None else random.Random(seed)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        images = [
            row["image"] if self.draw is None else random_affine(row["image"], self.draw, **self.limits) for row in rows
        ]
        batch = self.processor(images=images, text=[row["caption"] for row in rows], return_tensors="pt")
        # the model computes its own labels, but the Trainer warns in every step if a custom loss gets none
        return {**batch, "labels": batch["input_ids"], "return_loss": True}


@torch.no_grad()
def measure(
    model: LavisBlipForPreTraining, processor: LavisBlipProcessor, pairs: EmojiPairs, k: int = 16, num_beams: int = 1
) -> dict[str, Any]:
    """Retrieval and captioning metrics on held-out pairs.

    Args:
        model ([`LavisBlipForPreTraining`]): set to evaluation mode during the call.
        pairs ([`EmojiPairs`]): pairs in which each image matches its own caption only.
        k (`int`, *optional*, defaults to 16): candidates that the ITM head re-ranks.
        num_beams (`int`, *optional*, defaults to 1): beams of the captions; 1 is greedy search.

    Returns:
        `dict`: R@1 in percent in both directions, by cosine similarity (`itc_i2t`, `itc_t2i`) and re-ranked by the ITM
        head (`itm_i2t`, `itm_t2i`); `exact`, the percentage of captions equal to the cleaned original; `captions`.
    """
    was_training = model.training
    model.eval()
    texts = processor(text=pairs.captions, return_tensors="pt")
    batches = [
        processor(images=pairs.images[first : first + 64], return_tensors="pt")["pixel_values"]
        for first in range(0, len(pairs), 64)
    ]
    scores = similarity_matrices(model, batches, texts, k=k)
    targets = [[row] for row in range(len(pairs))]
    captions: list[str] = []
    for batch in batches:
        output = model.generate(pixel_values=batch, num_beams=num_beams, max_length=24, do_sample=False)
        captions += processor.post_process_captions(output)
    model.train(was_training)
    exact = [caption == clean_caption(expected) for caption, expected in zip(captions, pairs.captions)]
    return {
        "itc_i2t": recall_at_k(scores.cosine, targets)["R@1"],
        "itc_t2i": recall_at_k(scores.cosine.T, targets)["R@1"],
        "itm_i2t": recall_at_k(scores.i2t, targets)["R@1"],
        "itm_t2i": recall_at_k(scores.t2i, targets)["R@1"],
        "exact": 100.0 * sum(exact) / len(exact),
        "captions": captions,
    }


def format_metrics(figures: dict[str, Any]) -> str:
    """The metrics of [`measure`] in one line."""
    return (
        f"R@1 cosine {figures['itc_i2t']:.1f} / {figures['itc_t2i']:.1f}, "
        f"re-ranked {figures['itm_i2t']:.1f} / {figures['itm_t2i']:.1f} (image to text / text to image), "
        f"exact captions {figures['exact']:.1f} %"
    )


class MeasureEvery(TrainerCallback):
    """Prints the metrics on the val split every few epochs."""

    def __init__(self, processor: LavisBlipProcessor, pairs: EmojiPairs, epochs: int) -> None:
        self.processor, self.pairs, self.epochs = processor, pairs, epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure if the number of finished epochs is a multiple of `epochs`."""
        if round(state.epoch) % self.epochs == 0:
            print(
                f"epoch {state.epoch:.0f}: {format_metrics(measure(kwargs['model'], self.processor, self.pairs))}",
                flush=True,
            )


class RampDistillation(TrainerCallback):
    """Ramps the weight of the soft targets from 0 to the configuration's `alpha` over the first epochs."""

    def __init__(self, epochs: float = 2.0) -> None:
        self.epochs = epochs

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the weight for the next step."""
        model = kwargs["model"]
        model.distill_alpha = model.config.alpha * min(1.0, (state.epoch or 0.0) / self.epochs)


def without_momentum_encoders(model: LavisBlipForPreTraining) -> LavisBlipForPreTraining:
    """A copy of the model without momentum encoders and queues."""
    config = LavisBlipConfig.from_dict({**model.config.to_dict(), "use_momentum": False})
    bare = LavisBlipForPreTraining(config)
    names = bare.state_dict().keys()
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if name in names})
    return bare.eval()


def save_model(model: LavisBlipForPreTraining, processor: LavisBlipProcessor, folder: Path, card: str = "") -> None:
    """Save model, processor, generation configuration and card in float32; replaces the folder atomically.

    Half precision would be half as large, but could not be fine-tuned: a step of AdamW turns float16 weights into NaN.
    """
    bare = without_momentum_encoders(model).float()
    bare.generation_config = GenerationConfig(
        max_length=24,
        num_beams=3,
        bos_token_id=bare.config.bos_token_id,
        eos_token_id=bare.config.eos_token_id,
        pad_token_id=bare.config.pad_token_id,
        decoder_start_token_id=bare.config.bos_token_id,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        bare.save_pretrained(scratch)
        processor.save_pretrained(scratch)
        (scratch / "README.md").write_text(card, encoding="utf-8")
        scratch.chmod(0o755)
        for file in scratch.iterdir():  # safetensors writes files that only the owner can read
            file.chmod(0o644)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.replace(folder, old / "folder")
            os.replace(scratch, folder)
            shutil.rmtree(old)
        else:
            os.replace(scratch, folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


@torch.no_grad()
def average_weights(model: LavisBlipForPreTraining, folder: Path, share: float) -> None:
    """Average the weights with those of an earlier model of the same training, in-place.

    Args:
        model ([`LavisBlipForPreTraining`]): model that was trained from the earlier one.
        folder (`Path`): the earlier model.
        share (`float`): weight of the earlier model, between 0 and 1.
    """
    earlier = LavisBlipForPreTraining.from_pretrained(folder, config=model.config, dtype=torch.float32)
    for parameter, old in zip(model.parameters(), earlier.parameters(), strict=True):
        parameter.lerp_(old.to(parameter.device), share)


def card_of(
    model: LavisBlipForPreTraining, figures: dict[str, Any], options: argparse.Namespace, sizes: list[int]
) -> str:
    """The model card, from the template in this folder.

    Args:
        model ([`LavisBlipForPreTraining`]): the trained model.
        figures (`dict`): output of [`measure`].
        options (`argparse.Namespace`): options of the command line.
        sizes (`list[int]`): number of pairs in the train and val splits.
    """
    config = model.config
    values = {name: f"{value:.1f}" for name, value in figures.items() if isinstance(value, float)}
    values |= {
        "parameters": f"{without_momentum_encoders(model).num_parameters() / 1e6:.1f} million",
        "vision_layers": config.vision_config.num_hidden_layers,
        "vision_width": config.vision_config.hidden_size,
        "image_size": config.vision_config.image_size,
        "patch_size": config.vision_config.patch_size,
        "text_layers": config.text_config.num_hidden_layers,
        "text_width": config.text_config.hidden_size,
        "vocabulary": config.text_config.vocab_size,
        "train_pairs": sizes[0],
        "val_pairs": sizes[1],
        "chance": f"{100 / sizes[1]:.2f}",
        "batch_size": options.batch_size,
        "command": "\n".join(_commands(options)),
    }
    template = Path(__file__).with_name("embedded_model_card.md").read_text(encoding="utf-8")
    return Template(template).substitute(values)


def _commands(options: argparse.Namespace) -> list[str]:
    """Commands that reproduce the model; those before `--start-from` come from the card of that folder."""
    commands = ["python examples/build_emoji_dataset.py --output emoji_set"]
    start = ""
    if options.start_from is not None:
        card = Path(options.start_from, "README.md")
        earlier = re.search(r"^```\n(python .*?)^```", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        commands = earlier.group(1).splitlines() if earlier is not None else commands
        start = "--start-from embedded_model "
    given = [f"--{name.replace('_', '-')} {getattr(options, name):g}" for name in _HYPERPARAMETERS]
    given += ["--momentum"] if options.momentum else []
    script = "python examples/train_embedded_model.py --data emoji_set"
    return [*commands, f"{script} {start}--output embedded_model {' '.join(given)}"]


_HYPERPARAMETERS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "warmup_steps",
    "dropout",
    "drop_path",
    "caption_weight",
    "bend",
    "blend",
    "seed",
)


class WeightedLoss:
    """Sum of the three losses with a weight for captioning, which converges last.

    Args:
        caption_weight (`float`): weight of the captioning loss; the others have weight 1.
    """

    def __init__(self, caption_weight: float) -> None:
        self.caption_weight = caption_weight

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs["loss"] + (self.caption_weight - 1.0) * outputs["loss_lm"]


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train, save and measure; see the module's docstring.

    Returns:
        `dict`: metrics of [`measure`] of the saved model.
    """
    set_seed(options.seed)
    train_pairs, val_pairs = (
        EmojiPairs(options.data, "train", options.limit),
        EmojiPairs(options.data, "val", options.limit),
    )
    if options.start_from is None:
        processor = make_processor(train_tokenizer(train_pairs.captions))
        model = LavisBlipForPreTraining(
            make_config(processor.tokenizer, options.momentum, options.dropout, options.drop_path)
        )
        # the embeddings are tied to the output projection, whose logits should be small at the beginning
        torch.nn.init.normal_(model.get_input_embeddings().weight.data, std=0.02)
    else:
        processor = LavisBlipProcessor.from_pretrained(options.start_from)
        config = LavisBlipConfig.from_pretrained(options.start_from, use_momentum=options.momentum)
        config.text_config.hidden_dropout_prob = options.dropout
        config.vision_config.drop_path_rate = options.drop_path
        model = LavisBlipForPreTraining.from_pretrained(options.start_from, config=config, dtype=torch.float32)
    print(f"{model.num_parameters(only_trainable=True):,} parameters, {len(train_pairs)} pairs", flush=True)
    arguments = TrainingArguments(
        output_dir=str(options.work or f"{options.output}-checkpoints"),
        num_train_epochs=options.epochs,
        max_steps=options.max_steps,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup_steps,
        weight_decay=0.05,
        adam_beta2=0.98,
        max_grad_norm=3.0,
        logging_steps=options.logging_steps,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=1,
        dataloader_drop_last=len(train_pairs) >= options.batch_size,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
        use_cpu=options.cpu,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=train_pairs,
        data_collator=PretrainingCollator(processor, seed=options.seed, strength=options.bend),
        compute_loss_func=WeightedLoss(options.caption_weight),
        callbacks=[MeasureEvery(processor, val_pairs, options.measure_every), RampDistillation()],
    )
    trainer.train(resume_from_checkpoint=options.resume)
    if options.start_from is not None and options.blend > 0:
        average_weights(model, options.start_from, options.blend)
    figures = measure(without_momentum_encoders(model.cpu()), processor, val_pairs, num_beams=3)
    card = card_of(model, figures, options, [len(train_pairs), len(val_pairs)])
    save_model(model, processor, options.output, card)
    print(f"saved {options.output}: {format_metrics(figures)}", flush=True)
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Train the small BLIP that is embedded in the package.")
    parser.add_argument("--data", type=Path, required=True, help="output folder of build_emoji_dataset.py")
    parser.add_argument(
        "--output", type=Path, required=True, help="folder for the model, replaced atomically at the end"
    )
    parser.add_argument("--work", type=Path, help="folder for checkpoints (default: OUTPUT-checkpoints)")
    parser.add_argument("--start-from", type=Path, help="start from the weights and the tokenizer of an earlier output")
    parser.add_argument("--epochs", type=float, default=60)
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after this number of steps instead")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--warmup-steps", type=int, default=150)
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout of the text layers")
    parser.add_argument("--blend", type=float, default=0.0, help="weight of --start-from in the average that is saved")
    parser.add_argument("--drop-path", type=float, default=0.0, help="stochastic depth of the image encoder")
    parser.add_argument("--bend", type=float, default=1.0, help="strength of the random affine transforms")
    parser.add_argument("--caption-weight", type=float, default=1.0, help="weight of the captioning loss in the sum")
    parser.add_argument("--momentum", action="store_true", help="train with momentum encoders and queue")
    parser.add_argument("--limit", type=int, help="maximal number of pairs per split")
    parser.add_argument("--measure-every", type=int, default=10, help="epochs between measurements")
    parser.add_argument("--logging-steps", type=int, default=46)
    parser.add_argument("--save-steps", type=int, default=230)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="do not use an accelerator")
    parser.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    options = parser.parse_args(arguments)
    try:
        train(options)
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
