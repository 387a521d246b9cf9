# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the published checkpoints: files with exactly their keys, shapes and dtypes, and random values.

The keys are those that the original builds from its own configurations (`tests/goldens/full_size_keys`). BLIP-2's
frozen parts are separate files, as published; these also have the blocks that the original does not use.
"""

import hashlib
import json
import re
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from modeling_lavis.hub.downloads import file_name
from modeling_lavis.hub.families import family_of
from modeling_lavis.hub.zoo import ZooEntry

GOLDENS = Path(__file__).resolve().parent.parent / "tests" / "goldens"
KEYS = GOLDENS / "full_size_keys"
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "int64")}
#: sizes of the published language models that the defaults of their configurations do not have
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "opt2.7b": {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240},
    "opt6.7b": {"hidden_size": 4096, "word_embed_proj_dim": 4096, "ffn_dim": 16384},
    "flant5xl": {"d_model": 2048, "d_ff": 5120, "num_heads": 32},
    "flant5xxl": {"d_model": 4096, "d_ff": 10240, "num_heads": 64},
}
#: number of blocks in the published files of the image encoders, of which the last ones are not used
_BLOCKS = {"blocks.": 40, "transformer.resblocks.": 24}
_VISION = "visual_encoder."
_LANGUAGE = {"blip2_opt": "opt_model.", "blip2_t5": "t5_model."}
#: settings that neither the zoo nor the shapes have: LAVIS builds this architecture for training only
CONFIGS: dict[str, dict[str, Any]] = {"blip_classification__base": {"num_classes": 2}}
_BERT_TOKENS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
_BERT_WORDS = 30522

Kind = tuple[tuple[int, ...], torch.dtype]


def keys_of(entry: ZooEntry, folder: Path = KEYS) -> dict[str, Kind]:
    """Shape and dtype of all weights of a checkpoint, frozen parts included, by the original's keys."""
    found = json.loads((folder / f"{entry.name}.json").read_text(encoding="utf-8"))
    return {name: (tuple(shape), DTYPES[dtype]) for name, (shape, dtype) in found.items()}


def _about(entry: ZooEntry, folder: Path) -> dict[str, Any]:
    return json.loads((folder / "_index.json").read_text(encoding="utf-8"))["models"][entry.name]


def saved_keys(entry: ZooEntry, folder: Path = KEYS) -> dict[str, Kind]:
    """
    The keys that the checkpoint file itself has.

    Files of BLIP-2 lack what was not trained. Those of the other families are taken to be complete, momentum encoders
    included.
    """
    keys = keys_of(entry, folder)
    if not family_of(entry.architecture).separate_parts:
        return keys
    for prefix, rule in _about(entry, folder)["dropped_when_saved"].items():
        below = prefix.removesuffix("*") if prefix.endswith("*") else f"{prefix}."
        keys = {name: kind for name, kind in keys.items() if not name.startswith(below) or name in rule["kept"]}
    return keys


def language_model_config(entry: ZooEntry) -> Any:
    """The configuration of the language model of a BLIP-2 checkpoint, as published."""
    from transformers import AutoConfig

    sizes = LANGUAGE_MODELS[next(part for part in entry.model_type.split("_") if part in LANGUAGE_MODELS)]
    if entry.architecture == "blip2_opt":
        return AutoConfig.for_model("opt", num_hidden_layers=32, num_attention_heads=32, **sizes)
    options = {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_layers": 24,
        "d_kv": 64,
        "decoder_start_token_id": 0,
    }
    return AutoConfig.for_model("t5", **options, **sizes)


def tied_weights(entry: ZooEntry, folder: Path = KEYS) -> dict[str, str]:
    """The first name of each tied weight, by all its names."""
    about = _about(entry, folder)
    leaders = {name: group[0] for group in about["tied"] for name in group}
    if about["tied_groups"] > len(about["tied"]):
        # The list is cut off. Only BLIP's pretraining has that many groups: its text decoder shares everything with the
        # text encoder but self-attention and the bias of its head, which has two names.
        keys = keys_of(entry, folder)
        for name in keys:
            shared = name.replace("text_decoder.bert.", "text_encoder.")
            if shared != name and shared in keys and ".attention." not in name and not name.endswith("position_ids"):
                leaders.update({name: leaders.get(shared, shared), shared: leaders.get(shared, shared)})
        bias = "text_decoder.cls.predictions.bias"
        leaders |= {bias: bias, "text_decoder.cls.predictions.decoder.bias": bias}
    return leaders


class RandomWeights:
    """
    Random values for the keys of a checkpoint; tied weights get the same ones.

    Args:
        entry: the checkpoint.
        folder: folder with the lists of keys.
        zeros: whether all values are zero, so that files can be sparse.
    """

    #: values that are drawn; larger weights repeat them, since drawing billions of them takes minutes
    POOL = 1 << 24

    def __init__(self, entry: ZooEntry, folder: Path = KEYS, zeros: bool = False) -> None:
        self.leaders = tied_weights(entry, folder)
        self._zeros = zeros
        self._pool = 0.02 * torch.randn(self.POOL, generator=torch.Generator().manual_seed(0))

    def value(self, name: str, kind: Kind) -> Tensor:
        """The value of a key."""
        shape, dtype = kind
        if name.endswith("position_ids"):
            return torch.arange(shape[-1], dtype=dtype).expand(shape).clone()
        if self._zeros or not dtype.is_floating_point:
            return torch.zeros(shape, dtype=dtype)
        digest = hashlib.sha256(self.leaders.get(name, name).encode()).digest()
        start, filled = int.from_bytes(digest[:4], "little") % self.POOL, 0
        values = torch.empty(torch.Size(shape).numel(), dtype=dtype)
        while filled < len(values):
            part = self._pool[start : start + len(values) - filled]
            values[filled : filled + len(part)] = part
            filled, start = filled + len(part), 0
        return values.reshape(shape)

    def state_dict(self, kinds: Mapping[str, Kind]) -> dict[str, Tensor]:
        """The values of some keys; tied weights share memory, as in a model."""
        made: dict[str, Tensor] = {}
        found = {}
        for name, kind in kinds.items():
            leader = self.leaders.get(name, name)
            if leader not in made:
                made[leader] = self.value(name, kind)
            found[name] = made[leader]
        return found


def mirror_files(entry: ZooEntry, keys: Path = KEYS) -> dict[str, dict[str, Kind]]:
    """
    The weight files that the conversion of a checkpoint reads, by their names in a mirror, with their keys.

    Second names of tied weights are not in the file of a language model, as `save_pretrained` leaves them out.
    """
    kinds, published = keys_of(entry, keys), family_of(entry.architecture).published_parts
    parts = {} if published is None else published(entry.settings)
    files = {file_name(entry.source): saved_keys(entry, keys)}
    if "vision_checkpoint" in parts:
        vision = {name.removeprefix(_VISION): kind for name, kind in kinds.items() if name.startswith(_VISION)}
        files[file_name(parts["vision_checkpoint"])] = _with_unused_blocks(vision)
    if "language_model" in parts:
        prefix = _LANGUAGE[entry.architecture]
        second_names = {name for group in _about(entry, keys)["tied"] for name in group[1:]}
        files[f"{parts['language_model']}/model.safetensors"] = {
            name.removeprefix(prefix): kind
            for name, kind in kinds.items()
            if name.startswith(prefix) and name not in second_names
        }
    return files


def write_mirror(entry: ZooEntry, folder: Path, keys: Path = KEYS, sparse: bool = False) -> int:
    """
    Write everything that the conversion of a checkpoint reads, by the names that `--mirror` looks for.

    Args:
        entry: the checkpoint.
        folder: folder to write to.
        keys: folder with the lists of keys.
        sparse: whether to write the language model as a sparse file of zeros.

    Returns:
        Size of the files in bytes, as `ls` shows it.
    """
    write_texts(entry, folder)
    prefix = _LANGUAGE.get(entry.architecture, "-")
    random, zeros = RandomWeights(entry, keys), RandomWeights(entry, keys, zeros=True)
    for name, kinds in mirror_files(entry, keys).items():
        if name.endswith(".safetensors"):  # the language model
            if sparse:
                write_sparse(folder / name, kinds)
            else:
                values = ((key, random.value(prefix + key, kind)) for key, kind in kinds.items())
                _write_sharded((folder / name).parent, values, kinds)
        elif name == file_name(entry.source):
            # a checkpoint has second names of weights of the language model, with the same values
            copies = {key: kind for key, kind in kinds.items() if key.startswith(prefix)}
            state = random.state_dict({key: kind for key, kind in kinds.items() if key not in copies})
            state |= (zeros if sparse else random).state_dict(copies)
            torch.save({"model": state}, folder / name)
        else:
            torch.save(random.state_dict(kinds), folder / name)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def write_texts(entry: ZooEntry, folder: Path) -> None:
    """
    Write tokenizer and configurations: a vocabulary of the size of bert-base-uncased with its special tokens at their
    ids, and the configuration of the language model with the tokenizer of a tiny one.
    """
    bert = folder / "bert-base-uncased"
    bert.mkdir(parents=True, exist_ok=True)
    words = [f"word{number}" for number in range(_BERT_WORDS)]
    for token, number in _BERT_TOKENS.items():
        words[number] = token
    (bert / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    if not entry.settings.get("language_model"):
        return
    target = folder / entry.settings["language_model"]
    target.mkdir(parents=True, exist_ok=True)
    for path in (GOLDENS / entry.architecture / "llm").iterdir():
        if path.name not in ("config.json", "pytorch_model.bin"):
            shutil.copy(path, target)
    language_model_config(entry).save_pretrained(target)


def _with_unused_blocks(vision: dict[str, Kind]) -> dict[str, Kind]:
    """The weights of an image encoder's own file, whose last blocks the original does not use."""
    found = dict(vision)
    for prefix, total in _BLOCKS.items():
        first = {name: kind for name, kind in vision.items() if name.startswith(f"{prefix}0.")}
        for number in range(total if first else 0):
            for name, kind in first.items():
                found.setdefault(name.replace(f"{prefix}0.", f"{prefix}{number}."), kind)
    return found


def _write_sharded(folder: Path, values: Iterator[tuple[str, Tensor]], kinds: Mapping[str, Kind]) -> None:
    """Safetensors files of about 2 GB, so that a language model is never in memory as a whole."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, (shape, dtype) in kinds.items():
        size += torch.Size(shape).numel() * dtype.itemsize
        if size > 2e9 and shards[-1]:
            shards.append([])
            size = torch.Size(shape).numel() * dtype.itemsize
        shards[-1].append(name)
    where = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        save_file(dict(next(values) for _ in names), folder / file, {"format": "pt"})
        where.update(dict.fromkeys(names, file))
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def write_sparse(path: Path, kinds: Mapping[str, Kind], tensors: Mapping[str, Tensor] | None = None) -> None:
    """
    Write a safetensors file in which weights of zeros take no space on the disk.

    Args:
        path: the file.
        kinds: shape and dtype of all weights.
        tensors: weights with other values than zero.
    """
    names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, dtype) in kinds.items():
        start, end = end, end + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
        for name, tensor in (tensors or {}).items():
            if tensor.any():
                file.seek(8 + len(text) + header[name]["data_offsets"][0])
                file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def save_sparsely(tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """`safetensors.torch.save_file` that leaves holes for weights of zeros."""
    write_sparse(Path(path), {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()}, tensors)


def unexplained(entry: ZooEntry, report: Any, keys: Path = KEYS) -> list[str]:
    """
    Weights of a checkpoint whose fate does not follow from what is known about the published files; [] if all does.

    Everything of the original is used, but for constants, second names of tied weights, a queue pointer that the
    original resets, and heads that its classes have and do not use. Nothing is initialized but that pointer and a
    temperature that the original's matching model lacks.
    """
    used, problems = set(report.used.values()), []
    for name in keys_of(entry, keys):
        reason = report.dropped.get(name)
        if name not in used and reason is None:
            problems.append(f"{name} is neither used nor dropped")
        elif reason is not None and not _is_expected(entry, name, reason):
            problems.append(f"{name} is dropped ({reason})")
    for name, how in report.initialised.items():
        if name not in ("queue_ptr", *(("temp",) if entry.architecture == "blip_image_text_matching" else ())):
            problems.append(f"{name} is initialized ({how})")
    return problems


def _is_expected(entry: ZooEntry, name: str, reason: str) -> bool:
    if name.endswith("position_ids") or name == "queue_ptr" or "tied weight" in reason:
        return True
    if reason.startswith("copy of a frozen weight of the language model"):
        return name.startswith(_LANGUAGE.get(entry.architecture, "-"))
    if entry.architecture == "albef_feature_extractor":
        return "MLM head" in reason
    heads = r"Qformer\.cls\.|itm_head\." if entry.architecture == "blip2_feature_extractor" else r"Qformer\.cls\."
    return entry.architecture.startswith("blip2_") and bool(re.match(heads, name))
