"""Tiny tokenizers of language models, one of each kind, and BLIP-2 models that use them."""

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlip2Processor, LavisImageProcessor
from tests.models.lavis_blip_2_cases import LANGUAGE_MODELS, SIZE, blip_2_config

TEXTS = ["a red dog on a mat", "a photo of two cats", "Question: what is this? Short answer: no"]

ALL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
#: type of the language model, special tokens of the tokenizer, and the template by which it adds them
KINDS: dict[str, tuple[str, dict[str, str], str | None]] = {
    "adds BOS (Llama)": ("llama", ALL, "<s> $A"),
    "adds BOS, which is EOS (OPT)": ("opt", {**ALL, "bos_token": "</s>"}, "</s> $A"),
    "adds BOS and EOS": ("llama", ALL, "<s> $A </s>"),
    "has BOS (GPT-2)": ("gpt2", {"bos_token": "</s>", "eos_token": "</s>"}, None),
    "has BOS and padding": ("gpt2", ALL, None),
    "has no BOS (Qwen)": ("qwen2", {"eos_token": "</s>", "pad_token": "<pad>"}, None),
    "adds EOS (T5)": ("t5", {"eos_token": "</s>", "pad_token": "<pad>"}, "$A </s>"),
    "adds both (BART)": ("bart", ALL, "<s> $A </s>"),
}
CAUSAL = [kind for kind, (model_type, _, _) in KINDS.items() if model_type not in ("t5", "bart")]

_SIZES: dict[str, dict[str, Any]] = {
    **LANGUAGE_MODELS,
    "qwen2": {
        "model_type": "qwen2",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
}


def tiny_tokenizer(kind: str, with_newline: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind: of bytes, or of words that are separated by any whitespace."""
    _, special, template = KINDS[kind]
    tokens = list(dict.fromkeys(special.values()))
    if with_newline:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer: Any = trainers.BpeTrainer(
            vocab_size=320, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False
        )
    else:
        backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=[*tokens, "<unk>"], show_progress=False)
    backend.train_from_iterator(TEXTS, trainer)
    if template is not None:
        ids = [(token, backend.token_to_id(token)) for token in tokens]
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    backend.add_special_tokens([AddedToken(token, special=True) for token in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **special)


def tiny_processor(kind: str, with_newline: bool = True, **options: Any) -> LavisBlip2Processor:
    """BLIP-2's processor with a tokenizer of a kind."""
    language_model = "causal" if kind in CAUSAL else "seq2seq"
    images = LavisImageProcessor(size=SIZE)
    return LavisBlip2Processor(images, tiny_tokenizer(kind, with_newline), language_model=language_model, **options)


def tiny_model(kind: str, processor: LavisBlip2Processor) -> LavisBlip2ForConditionalGeneration:
    """A new model, all of whose parameters can be trained, for the tokenizer of a processor."""
    model_type, _, _ = KINDS[kind]
    tokenizer = processor.tokenizer
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    if model_type in ("t5", "bart"):
        ids["decoder_start_token_id"] = ids["pad_token_id"] if model_type == "t5" else ids["eos_token_id"]
    text = {**_SIZES[model_type], "vocab_size": len(tokenizer), **ids}
    if model_type == "qwen2":
        del text["bos_token_id"]
    torch.manual_seed(0)
    config = blip_2_config(language_model="opt", freeze_vision=False, freeze_language_model=False)
    config.text_config = None
    values = {**config.to_dict(), "text_config": text}
    return LavisBlip2ForConditionalGeneration(type(config).from_dict(values))
