# SPDX-License-Identifier: Apache-2.0
"""Train the small BLIP that travels with the package: contrast, matching and captioning on emoji, from scratch.

No accelerator is needed; an epoch takes about half a minute of one core::

    python examples/build_emoji_dataset.py --output emoji_set
    python examples/train_embedded_model.py --data emoji_set --output embedded_model

The carried model was then trained on twice by `--start-from`; its card lists the commands.

It is a plain `transformers.Trainer`: the data set gives pictures and captions, the collator bends each picture a
little and lets the processor make the inputs, and `LavisBlipForPreTraining` returns the sum of its three losses.
Pictures are never mirrored (some captions say "facing right") and their colours are left alone (skin tones, flags).

By default the model contrasts within the batch, which saves the passes of the momentum twins; `--momentum` trains with
twins and queue. Either way the saved model has none.

Letters: B batch.
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
from modeling_lavis.evaluation.retrieval import recall, similarity_matrices
from modeling_lavis.models.image_conversion import parse_background, to_rgb
from modeling_lavis.models.tokenization_lavis import clean_caption

IMAGE_SIZE, PATCH_SIZE = 72, 12
VOCABULARY = 1000
LONGEST_TEXT = 40
BACKGROUND = "white"
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def _layout(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.BertNormalizer(lowercase=True), normalizers.Replace(":", " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[,“”]"), "isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def train_tokenizer(captions: list[str], vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Learn lower-case word pieces from captions.

    Unlike BERT's, words are cut at spaces and commas only, so that "medium-light" stays one word and a decoded caption
    is spelt like the one that was learnt. A colon counts as a space, with or without the processor's cleaning.

    Args:
        captions (`list[str]`): texts of the train part.
        vocabulary (`int`): number of pieces, the special tokens included.
    """
    texts = [clean_caption(caption) for caption in captions]
    # listed first and in order, because the trainer would number what continues a word in another order in every run
    continuing = sorted({f"##{character}" for text in texts for character in text.lower() if not character.isspace()})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary - 2, special_tokens=SPECIAL_TOKENS + continuing, show_progress=False, min_frequency=1
    )
    draft = _layout(Tokenizer(models.WordPiece(unk_token="[UNK]")))
    draft.train_from_iterator(texts, trainer)
    tokenizer = _layout(Tokenizer(models.WordPiece(draft.get_vocab(), unk_token="[UNK]")))
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
        model_max_length=LONGEST_TEXT,
        clean_up_tokenization_spaces=True,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LavisBlipProcessor:
    """Processor of the small model: images of 72 x 72 pixels on white, texts of at most 40 pieces."""
    # emoji files are transparent, and the model is trained on a white background
    image_processor = LavisImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, background=BACKGROUND)
    return LavisBlipProcessor(image_processor, tokenizer, max_text_length=LONGEST_TEXT)


def make_config(
    tokenizer: PreTrainedTokenizerFast, use_momentum: bool = False, dropout: float = 0.1, drop_path: float = 0.0
) -> LavisBlipConfig:
    """Configuration of the small model; two million parameters without twins."""
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in _TOKEN_OF.items()}
    return LavisBlipConfig(
        vision_config={
            "image_size": IMAGE_SIZE,
            "patch_size": PATCH_SIZE,
            "hidden_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "drop_path_rate": drop_path,
            # narrow layers need larger first weights than the 0.02 of a width of 768
            "initializer_range": 0.08,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": LONGEST_TEXT,
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


_TOKEN_OF = {
    "pad_token_id": "[PAD]",
    "cls_token_id": "[CLS]",
    "eos_token_id": "[SEP]",
    "bos_token_id": "[DEC]",
    "enc_token_id": "[ENC]",
}


class EmojiPairs(Dataset):
    """Pictures and captions of one part, pictures held in memory as RGB.

    Args:
        folder (Path): what `build_emoji_dataset.py` has written.
        part (str): "train" or "val".
        limit (int, *optional*): only so many pairs.
    """

    def __init__(self, folder: Path, part: str, limit: int | None = None) -> None:
        listing = folder / f"{part}.json"
        if not listing.is_file():
            raise OSError(f"There is no {str(listing)!r}. Make it with examples/build_emoji_dataset.py first.")
        entries = json.loads(listing.read_text(encoding="utf-8"))[:limit]
        self.captions = [entry["caption"] for entry in entries]
        white = parse_background(BACKGROUND)
        self.pictures = [to_rgb(Image.open(folder / entry["image"]), white) for entry in entries]

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.pictures[index], "caption": self.captions[index]}


def bend(picture: Image.Image, draw: random.Random, turn: float = 6.0, zoom: float = 0.1, shift: float = 0.05) -> Any:
    """Turn, zoom, stretch and shift a picture a little; what opens at the edges is white.

    Args:
        picture (`PIL.Image.Image`): RGB.
        draw (`random.Random`): source of the random numbers.
        turn (`float`): largest angle in degrees.
        zoom (`float`): largest logarithm of the scale, half of it for the aspect ratio.
        shift (`float`): largest shift as a share of the width.
    """
    width, height = picture.size
    angle = math.radians(draw.uniform(-turn, turn))
    scale, aspect = math.exp(draw.uniform(-zoom, zoom)), math.exp(draw.uniform(-zoom / 2, zoom / 2))
    across, down = draw.uniform(-shift, shift) * width, draw.uniform(-shift, shift) * height
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b = cosine / (scale * aspect), sine / (scale * aspect)
    c, d = -sine * aspect / scale, cosine * aspect / scale
    x, y = width / 2, height / 2
    # PIL wants the map from the new picture to the old one
    matrix = (a, b, x - a * (x + across) - b * (y + down), c, d, y - c * (x + across) - d * (y + down))
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=BACKGROUND
    )


class PretrainingCollator:
    """Turns rows into a batch that makes the model return its training losses.

    Args:
        processor ([`LavisBlipProcessor`]): makes `pixel_values` (B, 3, 72, 72), `input_ids` and `attention_mask`.
        seed (`int`, *optional*): bend the pictures at random from this seed; not given, they are left as they are.
        strength (`float`, *optional*, defaults to 1.0): factor for all limits of [`bend`].
    """

    def __init__(self, processor: LavisBlipProcessor, seed: int | None = None, strength: float = 1.0) -> None:
        self.processor = processor
        self.limits = {"turn": 6.0 * strength, "zoom": 0.1 * strength, "shift": 0.05 * strength}
        self.draw = None if seed is None else random.Random(seed)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        pictures = [row["image"] if self.draw is None else bend(row["image"], self.draw, **self.limits) for row in rows]
        batch = self.processor(images=pictures, text=[row["caption"] for row in rows], return_tensors="pt")
        # the model makes its own labels; the Trainer warns at every step of a weighted loss that comes without any
        return {**batch, "labels": batch["input_ids"], "return_loss": True}


@torch.no_grad()
def measure(
    model: LavisBlipForPreTraining, processor: LavisBlipProcessor, pairs: EmojiPairs, k: int = 16, num_beams: int = 1
) -> dict[str, Any]:
    """Retrieval and captions on pairs that were not trained on.

    Args:
        model: switched to evaluation meanwhile.
        pairs ([`EmojiPairs`]): every picture is right for its own caption alone.
        k (`int`): candidates that the matching head re-ranks.
        num_beams (`int`): beams of the captions; 1 is greedy search.

    Returns:
        dict: R@1 in percent from image to text and back, by cosine (`itc_i2t`, `itc_t2i`) and re-ranked by the
        matching head (`itm_i2t`, `itm_t2i`); `exact`, percent of captions equal to the cleaned original; `captions`.
    """
    was_training = model.training
    model.eval()
    texts = processor(text=pairs.captions, return_tensors="pt")
    batches = [
        processor(images=pairs.pictures[first : first + 64], return_tensors="pt")["pixel_values"]
        for first in range(0, len(pairs), 64)
    ]
    scores = similarity_matrices(model, batches, texts, k=k)
    own = [[row] for row in range(len(pairs))]
    captions: list[str] = []
    for batch in batches:
        output = model.generate(pixel_values=batch, num_beams=num_beams, max_length=24, do_sample=False)
        captions += processor.post_process_captions(output)
    model.train(was_training)
    exact = [caption == clean_caption(wanted) for caption, wanted in zip(captions, pairs.captions)]
    return {
        "itc_i2t": recall(scores.cosine, own)["R@1"],
        "itc_t2i": recall(scores.cosine.T, own)["R@1"],
        "itm_i2t": recall(scores.i2t, own)["R@1"],
        "itm_t2i": recall(scores.t2i, own)["R@1"],
        "exact": 100.0 * sum(exact) / len(exact),
        "captions": captions,
    }


def in_words(figures: dict[str, Any]) -> str:
    """One line of the figures of [`measure`]."""
    return (
        f"R@1 cosine {figures['itc_i2t']:.1f} / {figures['itc_t2i']:.1f}, "
        f"re-ranked {figures['itm_i2t']:.1f} / {figures['itm_t2i']:.1f} (image to text / text to image), "
        f"exact captions {figures['exact']:.1f} %"
    )


class MeasureEvery(TrainerCallback):
    """Prints the figures on the val part every few epochs."""

    def __init__(self, processor: LavisBlipProcessor, pairs: EmojiPairs, epochs: int) -> None:
        self.processor, self.pairs, self.epochs = processor, pairs, epochs

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure when the number of finished epochs divides."""
        if round(state.epoch) % self.epochs == 0:
            print(
                f"epoch {state.epoch:.0f}: {in_words(measure(kwargs['model'], self.processor, self.pairs))}", flush=True
            )


class RampDistillation(TrainerCallback):
    """Raises the weight of the twins' soft targets from 0 to the configuration's `alpha` over the first epochs."""

    def __init__(self, epochs: float = 2.0) -> None:
        self.epochs = epochs

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the weight for the coming step."""
        model = kwargs["model"]
        model.distill_alpha = model.config.alpha * min(1.0, (state.epoch or 0.0) / self.epochs)


def without_twins(model: LavisBlipForPreTraining) -> LavisBlipForPreTraining:
    """A copy of the model that has no momentum twins and no queues."""
    config = LavisBlipConfig.from_dict({**model.config.to_dict(), "use_momentum": False})
    bare = LavisBlipForPreTraining(config)
    kept = bare.state_dict().keys()
    bare.load_state_dict({name: value for name, value in model.state_dict().items() if name in kept})
    return bare.eval()


def save(model: LavisBlipForPreTraining, processor: LavisBlipProcessor, folder: Path, card: str = "") -> None:
    """Write model, processor, generation settings and card in float32; the folder is replaced whole.

    Half precision would be half as large, but could not be fine-tuned: a step of AdamW turns float16 weights into NaN.
    """
    bare = without_twins(model).float()
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
        for file in scratch.iterdir():  # safetensors writes files that only their owner can read
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
def blend_in(model: LavisBlipForPreTraining, folder: Path, share: float) -> None:
    """Average the weights, in place, with those of an earlier model on the same path of training.

    Args:
        model: what was trained on from the earlier model.
        folder (Path): the earlier model.
        share (`float`): weight of the earlier model, between 0 and 1.
    """
    earlier = LavisBlipForPreTraining.from_pretrained(folder, config=model.config, dtype=torch.float32)
    for own, old in zip(model.parameters(), earlier.parameters(), strict=True):
        own.lerp_(old.to(own.device), share)


def card_of(
    model: LavisBlipForPreTraining, figures: dict[str, Any], options: argparse.Namespace, sizes: list[int]
) -> str:
    """The model card, from the template beside this file.

    Args:
        model: what was trained.
        figures: what [`measure`] returned.
        options: of the command line.
        sizes (`list[int]`): pairs of the train and of the val part.
    """
    config = model.config
    values = {name: f"{value:.1f}" for name, value in figures.items() if isinstance(value, float)}
    values |= {
        "parameters": f"{without_twins(model).num_parameters() / 1e6:.1f} million",
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
    """What to type to get here from nothing; what came before `--start-from` stands in the card of that folder."""
    commands = ["python examples/build_emoji_dataset.py --output emoji_set"]
    start = ""
    if options.start_from is not None:
        card = Path(options.start_from, "README.md")
        earlier = re.search(r"^```\n(python .*?)^```", card.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        commands = earlier.group(1).splitlines() if earlier is not None else commands
        start = "--start-from embedded_model "
    given = [f"--{name.replace('_', '-')} {getattr(options, name):g}" for name in _RECIPE]
    given += ["--momentum"] if options.momentum else []
    script = "python examples/train_embedded_model.py --data emoji_set"
    return [*commands, f"{script} {start}--output embedded_model {' '.join(given)}"]


_RECIPE = (
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
    """Sum of the three losses in which captioning counts more: it takes longest to learn.

    Args:
        caption_weight (`float`): weight of the captioning loss; the others count once.
    """

    def __init__(self, caption_weight: float) -> None:
        self.caption_weight = caption_weight

    def __call__(self, outputs: Any, labels: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        return outputs["loss"] + (self.caption_weight - 1.0) * outputs["loss_lm"]


def train(options: argparse.Namespace) -> dict[str, Any]:
    """Train, save and measure; see the module's docstring.

    Returns:
        dict: the figures of [`measure`] for what was saved.
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
        # the word embeddings are the map to the vocabulary too, which should not begin with strong opinions
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
        blend_in(model, options.start_from, options.blend)
    figures = measure(without_twins(model.cpu()), processor, val_pairs, num_beams=3)
    card = card_of(model, figures, options, [len(train_pairs), len(val_pairs)])
    save(model, processor, options.output, card)
    print(f"saved {options.output}: {in_words(figures)}", flush=True)
    return figures


def main(arguments: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Train the small BLIP that travels with the package.")
    parser.add_argument("--data", type=Path, required=True, help="folder written by build_emoji_dataset.py")
    parser.add_argument("--output", type=Path, required=True, help="folder for the model, replaced whole at the end")
    parser.add_argument("--work", type=Path, help="folder for checkpoints (default: OUTPUT-checkpoints)")
    parser.add_argument("--start-from", type=Path, help="go on from the weights and word pieces of an earlier output")
    parser.add_argument("--epochs", type=float, default=60)
    parser.add_argument("--max-steps", type=int, default=-1, help="stop after so many steps instead")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--warmup-steps", type=int, default=150)
    parser.add_argument("--dropout", type=float, default=0.1, help="of the text layers")
    parser.add_argument("--blend", type=float, default=0.0, help="share of --start-from in the weights that are saved")
    parser.add_argument("--drop-path", type=float, default=0.0, help="stochastic depth of the image tower")
    parser.add_argument("--bend", type=float, default=1.0, help="how strongly pictures are bent")
    parser.add_argument("--caption-weight", type=float, default=1.0, help="of the captioning loss in the sum")
    parser.add_argument("--momentum", action="store_true", help="train with momentum twins and queue")
    parser.add_argument("--limit", type=int, help="use only so many pairs of each part")
    parser.add_argument("--measure-every", type=int, default=10, help="epochs between figures")
    parser.add_argument("--logging-steps", type=int, default=46)
    parser.add_argument("--save-steps", type=int, default=230)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cpu", action="store_true", help="leave an accelerator alone")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options = parser.parse_args(arguments)
    try:
        train(options)
    except (ImportError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
