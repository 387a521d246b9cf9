# SPDX-License-Identifier: Apache-2.0
"""Base class of all models, and the input checks and small modules that they share.

Shapes: B batch size, T text tokens, D hidden size, P projection dimension.
"""

import contextlib
import glob
import itertools
import logging
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.integrations.deepspeed import deepspeed_config
from transformers.integrations.fsdp import is_fsdp_enabled

from .configuration_base import UNFINISHED
from .distributed import LayersKeptWhole, refuse_zero_stage_3
from .head_loading import (
    HUB_OPTIONS,
    HeadStart,
    check_generation_config,
    check_local_files,
    check_new_weights,
    check_shapes,
    load_config,
    load_saved_modules,
    read_adapter,
    read_generation_config,
    read_head,
    with_truncated_mlp,
)
from .losses import at_least_float32
from .outputs import IGNORE_INDEX
from .transformers_compat import (
    CACHE_NAMES,
    check_offloading,
    execution_device,
    keep_offloaded_parameters_in_float32,
    keep_special_tokens,
    offload_in_shape,
    torchao_metadata_of_modules_only,
    with_pinned_revision,
    without_remembered_renaming,
)

logger = logging.getLogger(__name__)


class LavisPreTrainedModel(PreTrainedModel):
    """
    Base of all models: attention through transformers' interface, parts that stay in float32, files with this package's
    key names, losses that are means over the batch.
    """

    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    supports_gradient_checkpointing = True
    _no_split_modules: Any = LayersKeptWhole()
    _skip_keys_device_placement = list(CACHE_NAMES)
    # Losses are means over the batch, and a contrastive loss cannot be split into terms per row: the Trainer has to
    # divide by the number of accumulation steps itself.
    accepts_loss_kwargs = False

    #: whether this model has warned that parameters in half precision are trained
    has_reported_half_precision = False
    #: options of `forward` that are not among its arguments and are passed on to a part of the model, or ignored
    passed_on_options: tuple[str, ...] = ()

    #: whether `finish_step` has to be called after the next step of the optimizer, and whether it ever was
    update_is_due = False
    was_updated = False
    #: whether the step has been made, but has to be finished later, and whether hooks for that are registered
    update_is_late = False
    has_late_updates = False
    #: whether the constructor is done
    is_complete = False

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        refuse_zero_stage_3(type(self).__name__)
        keep_special_tokens(type(config))
        super().__init__(config, *args, **kwargs)

    @classmethod
    def is_custom_code(cls) -> bool:
        """`False`: weights are initialized by transformers' functions, which leave loaded weights alone."""
        # transformers protects loaded weights of other code by skipping modules without tensors of their own, whose
        # rules (those of T5's attention, or of momentum encoders) would be lost.
        return False

    def post_init(self) -> None:
        """Initialize weights, and make parts that stay in float32 hold in models built in half precision, too."""
        self._keep_in_fp32_modules_strict = self.float32_modules()
        super().post_init()
        if hasattr(self, "temp"):
            self.register_state_dict_post_hook(_store_scalar_temperature)
        for name, value in itertools.chain(self.named_parameters(), self.named_buffers()):
            if value.dtype in (torch.float16, torch.bfloat16) and names_any(self._keep_in_fp32_modules_strict, name):
                value.data = value.data.float()
        self.is_complete = True

    def float32_modules(self) -> list[str]:
        """Patterns of the class's modules and parameters that stay in float32, without those that a model lacks."""
        names = [name for name, _ in itertools.chain(self.named_parameters(), self.named_buffers())]
        patterns: Any = getattr(type(self), "_keep_in_fp32_modules_strict", None)
        return [pattern for pattern in patterns or () if any(names_any([pattern], name) for name in names)]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that was asked for: that of the first parameter that does not have to stay in float32."""
        # transformers saves it in config.json and loads with it
        for name, value in self.named_parameters():
            if value.is_floating_point() and not names_any(self._keep_in_fp32_modules_strict or (), name):
                return value.dtype
        return super().dtype

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation mode; parameters in half precision that will be trained are reported once."""
        if mode:
            refuse_zero_stage_3(type(self).__name__, self)
        if mode and not self.has_reported_half_precision:
            self._report_half_precision()
        return super().train(mode)

    def _report_half_precision(self) -> None:
        """Log a warning if parameters in half precision will be trained."""
        # DeepSpeed keeps a copy in float32 in its optimizer.
        dtypes = {value.dtype for value in self.parameters() if value.requires_grad}
        half = sorted(str(dtype) for dtype in dtypes & {torch.float16, torch.bfloat16})
        if not half or deepspeed_config() is not None:
            return
        for module in self.modules():  # parts are models, too
            if isinstance(module, LavisPreTrainedModel):
                module.has_reported_half_precision = True
        logger.warning(
            f"{type(self).__name__} is to be trained with parameters in {' and '.join(half)}: small updates are rounded"
            " away, and AdamW turns float16 into NaN within a few steps. Load the model with dtype=torch.float32, or"
            " call model.float() before the optimizer is created. To save time and memory, set bf16=True (or fp16=True)"
            " in TrainingArguments, or use torch.autocast."
        )

    @property
    def device(self) -> torch.device:
        """The device of inputs: that of the first parameter, or where the model runs if its weights are offloaded."""
        # transformers' `generate` creates token ids there
        device = next(itertools.chain(self.parameters(), self.buffers())).device
        return (execution_device(self) or device) if device.type == "meta" else device

    def finish_step(self) -> None:
        """Update what follows the weights after a step of the optimizer; heads with such parts override it."""

    #: how the head starts from checkpoints of other heads, by the name of their class
    head_starts: ClassVar[dict[str, HeadStart]] = {}

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, allow_new_weights: bool = False, **kwargs: Any
    ) -> Any:
        """
        transformers' `from_pretrained`, also for checkpoints of other heads of the family, whose shared weights are
        taken over.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): folder or Hub id; of an adapter of peft, too, which
                is loaded into the model that it names.
            allow_new_weights (`bool`, *optional*, defaults to `False`): initialize weights that the checkpoint lacks,
                as a start for training; the load report lists them. Momentum encoders, feature queues and temperature
                never need it: they start from the online weights, with random features and from the configuration.
            args, kwargs: as for transformers' `from_pretrained`. With `output_loading_info=True` missing weights raise
                no error; they are in the returned information.

        Raises:
            OSError: there is no such repository, or a file cannot be read.
            ValueError: the checkpoint lacks weights, or they have other shapes than the configuration says.
        """
        source, wants_info = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        if source is None:
            model, info = cls._load_weights(None, *args, **kwargs)
        else:
            kwargs = with_pinned_revision(source, kwargs)
            place, access = source, {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
            adapter = read_adapter(source, access)
            if adapter is not None:
                # revision and subfolder of the adapter say nothing about those of the model
                kwargs = {name: value for name, value in kwargs.items() if name not in ("revision", "subfolder")}
                source = adapter.base
                kwargs = with_pinned_revision(source, {**kwargs, "revision": adapter.revision})
            saved = read_head(source, kwargs)
            if not allow_new_weights:
                check_local_files(cls, source, kwargs)
            is_own = saved in (None, *(base.__name__ for base in cls.__mro__))
            start = HeadStart()
            if not is_own:
                config = load_config(cls, source, kwargs)
                config.architectures = [saved]
                allows_copies = allow_new_weights or adapter is not None
                config = kwargs["config"] = cls.adapt_config(config, source, str(saved), allows_copies)
                start = cls.start_from(str(saved), config)
                if adapter is not None:
                    start = replace(start, copies_are_complete=True)  # the adapter was trained on these copies
            if start.key_mapping:
                kwargs["key_mapping"] = {**start.key_mapping, **(kwargs.get("key_mapping") or {})}
            ignore = kwargs.pop("ignore_mismatched_sizes", False)
            model, info = cls._load_and_check(source, *args, **kwargs)
            if any(".mlp.fc" in name for name, *_ in info["mismatched_keys"]):
                earlier = with_truncated_mlp(cls, source, kwargs)
                if earlier is not None:
                    kwargs["config"] = earlier
                    model, info = cls._load_and_check(source, *args, **kwargs)
            if adapter is not None:
                info["missing_keys"] = {name for name in info["missing_keys"] if not adapter.has(name)}
                info["mismatched_keys"] = {entry for entry in info["mismatched_keys"] if not adapter.has(entry[0])}
            if not ignore:
                check_shapes(model.config, source, info["mismatched_keys"])
            model.check_loaded(source, info)
            if not allow_new_weights and not wants_info:
                check_new_weights(model, source, saved, info["missing_keys"], start)
            if adapter is not None:
                model.load_adapter(place, kwargs.get("adapter_name"), adapter_kwargs=access)
                if adapter.modules_to_save:
                    load_saved_modules(model, place, access)
        check_offloading(model)
        keep_offloaded_parameters_in_float32(model)
        return (model, info) if wants_info else model

    @classmethod
    def _load_and_check(cls, source: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Model and loading info; errors name the repository, and the wrong entry of `generation_config.json`."""
        try:
            model, info = cls._load_weights(source, *args, ignore_mismatched_sizes=True, **kwargs)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            if cls.can_generate():
                check_generation_config(read_generation_config(source, kwargs), source)
            if type(error) is ValueError and str(source) not in str(error):
                raise ValueError(f"{source} cannot be loaded: {error}") from error
            raise
        except Exception as error:
            if type(error).__name__ != "SafetensorError":  # a class of its own, which has no base for files
                raise
            raise OSError(f"The weights of {source} cannot be read: {error}. Save or download them again.") from error
        if model.can_generate():
            check_generation_config(model.generation_config, source)
        return model, info

    @classmethod
    def _load_weights(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Model and loading info by transformers' `from_pretrained`."""
        return super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)

    @classmethod
    def adapt_config(cls, config: Any, source: Any, saved: str, allow_new_weights: bool) -> Any:
        """
        The configuration of this head for the checkpoint of another one.

        Args:
            config (`PreTrainedConfig`): configuration of the checkpoint.
            source (`str` or `os.PathLike`): folder or Hub id.
            saved (`str`): class that the checkpoint was saved from.
            allow_new_weights (`bool`): whether weights may be initialized.

        Raises:
            ValueError: the head cannot start from that class.
        """
        return config

    @classmethod
    def start_from(cls, saved: str, config: Any) -> HeadStart:
        """How the head starts from a checkpoint of the class `saved`, with the configuration of [`adapt_config`]."""
        return cls.head_starts.get(saved, HeadStart())

    def check_loaded(self, source: Any, info: dict[str, Any]) -> None:
        """Raise `ValueError` if a checkpoint lacks what no start for training can be without."""

    def copied_weights(self) -> dict[str, str]:
        """Parameters that start as copies of others if a checkpoint lacks them, with the names of those."""
        return {}

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        """transformers' `resize_token_embeddings`; modules with tied weights have the new size, too."""
        embeddings: nn.Embedding = super().resize_token_embeddings(*args, **kwargs)
        update_feature_counts(self)
        return embeddings

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks for the attention interface in the source file of the model; here it is in attention.py.
        return True

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """
        Save with this package's key names, also when the weights were loaded from another format.

        A process that is killed meanwhile leaves the folder as it was, complete, or without a `config.json`; not so
        with `push_to_hub=True` and with distributed checkpoints.

        Args:
            save_directory (`str` or `os.PathLike`): folder.
            save_original_format (`bool`, *optional*, defaults to `False`): write the key names of transformers' own
                class of the same family (BLIP, BLIP-2) instead, to be loaded by that class. `config.json` stays this
                package's, so that class needs its own configuration by `config=`.
            args, kwargs: as for transformers' `save_pretrained`.
        """
        # With transformers' default, files get the key names of the file that was loaded, which a resumed Trainer
        # cannot read.
        original = kwargs.setdefault("save_original_format", False)
        if kwargs.get("state_dict") is not None and "temp" in kwargs["state_dict"]:
            kwargs["state_dict"] = {**kwargs["state_dict"], "temp": kwargs["state_dict"]["temp"].reshape(())}
        quantizer = getattr(self, "hf_quantizer", None)
        is_direct = args or kwargs.get("push_to_hub") or kwargs.get("distributed_checkpoint")
        is_direct = is_direct or not kwargs.get("is_main_process", True)
        place = contextlib.nullcontext(save_directory) if is_direct else saved_together(save_directory)
        with without_remembered_renaming(self, enabled=original), torchao_metadata_of_modules_only(quantizer):
            with place as folder:
                super().save_pretrained(folder, *args, **kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_hf_hook" and "temp" in self._parameters:
            offload_in_shape(value, "temp", self.temp.shape)
        super().__setattr__(name, value)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        name = f"{prefix}temp"
        if hasattr(self, "temp") and name in state_dict and state_dict[name].ndim == 0:
            state_dict[name] = state_dict[name].reshape(1)
        super()._load_from_state_dict(state_dict, prefix, *args)


def names_any(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns matches whole parts of a parameter's name, as transformers does it."""
    return any(re.search(rf"(?:^|\.){pattern}(?:\.|$)", name) for pattern in patterns)


# ---- saving ----

# Files without which nothing loads. Of the files that are saved together, these are the first to go and the last to
# come, so that a folder never loads with old and new files.
_FIRST_READ = frozenset(
    {
        "config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "tokenizer.json",
        "model.safetensors.index.json",
    }
)
_WEIGHTS_OF_A_SAVE = re.compile(r"(.+?)(-\d{5}-of-\d{5})?\.(?:safetensors|bin)(?:\.index\.json)?")


@contextlib.contextmanager
def unfinished_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """
    Context manager that yields a new folder in `parent`, whose name starts with `prefix`. What is left of it is
    removed, also after the process was killed: by the next call with the same prefix.

    Args:
        parent (`Path`): folder that exists.
        prefix (`str`): start of the name.
    """
    remove_abandoned(parent, prefix)
    while True:
        folder = parent / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir()
        try:
            lock = _locked(folder)
        except OSError:  # another process takes it for an abandoned one
            continue
        break
    try:
        yield folder
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Remove folders of [`unfinished_folder`] that no process holds any more."""
    for folder in list(parent.glob(f"{glob.escape(prefix)}*")):
        with contextlib.suppress(OSError):
            lock = _locked(folder)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)


def _locked(folder: Path) -> int | None:
    """
    A descriptor of a folder that locks it until it is closed, or until the process ends; `None` where folders cannot be
    locked.

    Raises:
        OSError: another process has it, or it is gone.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, (BlockingIOError, FileNotFoundError)):
            raise
        return None  # some file systems of networks
    return descriptor


@contextlib.contextmanager
def saved_together(folder: Any) -> Iterator[Path]:
    """
    Context manager that yields a folder for files that belong together, and moves them to `folder` if the block
    succeeds. If the process is killed, `folder` has all of its old files, all of the new ones, or does not load.

    Args:
        folder (`str` or `os.PathLike`): where the files belong. A folder that does not exist appears complete, by one
            rename. Other files of an existing one are kept.
    """
    folder = Path(os.path.abspath(folder))
    if folder.exists() and not folder.is_dir():
        yield folder  # transformers says what is wrong
        return
    is_new = not folder.exists()
    if is_new:
        folder.parent.mkdir(parents=True, exist_ok=True)
    parent, prefix = (folder.parent, f".{folder.name}{UNFINISHED}") if is_new else (folder, UNFINISHED)
    with unfinished_folder(parent, prefix) as work:
        yield work
        if is_new:
            try:
                os.rename(work, folder)
                return
            except OSError:  # another process has made it meanwhile
                folder.mkdir(exist_ok=True)
        _move_files(work, folder)


def _move_files(work: Path, folder: Path) -> None:
    names = sorted(path.relative_to(work) for path in work.rglob("*") if path.is_file())
    kinds = {match[1] for name in names if (match := _WEIGHTS_OF_A_SAVE.fullmatch(str(name)))}
    earlier = [  # loading would prefer a single file to shards
        Path(path.name)
        for path in folder.iterdir()
        if (match := _WEIGHTS_OF_A_SAVE.fullmatch(path.name)) and match[1] in kinds and Path(path.name) not in names
    ]
    first = sorted((name for name in names if name.name in _FIRST_READ), key=lambda name: name.name)
    rest = [name for name in names if name not in first]
    leave = [*(name for name in [*first, *rest] if (folder / name).exists()), *earlier]
    aside = work / ".earlier"
    for name in (*names, *leave):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
    # Nothing loads from here to the end, so this is nothing but renames: to delete or to replace a file takes longer.
    done: list[tuple[Path, Path]] = []
    moves = [(folder / name, aside / name) for name in leave]
    moves += [(work / name, folder / name) for name in [*rest, *reversed(first)]]
    try:
        for source, target in moves:
            os.rename(source, target)
            done.append((source, target))
    except BaseException:
        for source, target in reversed(done):
            os.rename(target, source)
        raise


# ---- the temperature ----


def temperature_parameter(value: float) -> nn.Parameter:
    """
    The temperature of the contrastive loss as a parameter of shape `(1,)`.

    FSDP does not shard scalars. State dicts and files have a scalar, as the original; both shapes load.
    """
    return nn.Parameter(torch.full((1,), float(value)))


def _store_scalar_temperature(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    """Hook of `state_dict`. Sharded models keep the shape, also on the way to their shards."""
    name = f"{prefix}temp"
    value = state.get(name)
    if not is_fsdp_enabled():
        if value is not None and type(value) in (Tensor, nn.Parameter):
            state[name] = value.reshape(())
    elif value is not None and hasattr(value, "device_mesh") and value.is_meta:
        # accelerate asks a model without weights what to send to the other processes, and expects parameters only
        buffers = [key for key, entry in state.items() if not hasattr(entry, "device_mesh")]
        if buffers:
            raise ValueError(
                f"cpu_ram_efficient_loading sends parameters to the other processes, but not buffers, which "
                f"{type(module).__name__} has: {', '.join(buffers)}. Set cpu_ram_efficient_loading to False in "
                "fsdp_config, and load the model in every process."
            )


# ---- input checks ----


def require_image_and_text(pixel_values: Tensor | None, input_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return both inputs; `ValueError` names the one that is missing."""
    if pixel_values is None or input_ids is None:
        missing = "pixel_values" if pixel_values is None else "input_ids"
        raise ValueError(
            f"{missing} is missing; this head needs an image and a text. The processor makes both from images and "
            "texts."
        )
    check_input_ids(input_ids)
    return pixel_values, input_ids


def check_input_ids(input_ids: Tensor, attention_mask: Tensor | None = None, vocab_size: int | None = None) -> None:
    """
    Raise `ValueError` unless `input_ids` are integers of shape `(B, T)` and the mask is 4-D or has the same shape.

    With `vocab_size`, ids on a CPU have to be below it as well. Elsewhere values are not read: an accelerator would
    have to synchronize, and a compiled graph would break.
    """
    if not isinstance(input_ids, Tensor):
        raise ValueError(f"Got input_ids of type {type(input_ids).__name__}; pass a tensor (return_tensors='pt').")
    if input_ids.ndim != 2 or input_ids.dtype not in (torch.int64, torch.int32) or 0 in input_ids.shape:
        raise ValueError(
            f"Got input_ids of shape {tuple(input_ids.shape)} and dtype {input_ids.dtype}, expected (batch, tokens), "
            "at least one of each, of int64 (torch.long). The processor makes them from texts."
        )
    if attention_mask is not None and attention_mask.ndim != 4 and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"Got an attention_mask of shape {tuple(attention_mask.shape)} for input_ids of shape "
            f"{tuple(input_ids.shape)}; both have to be (batch, tokens). The processor makes them together."
        )
    if vocab_size is None or torch.compiler.is_compiling() or type(input_ids) is not Tensor:
        return
    if input_ids.device.type == "cpu" and input_ids.numel():
        smallest, largest = (int(bound) for bound in input_ids.aminmax())
        if smallest < 0 or largest >= vocab_size:
            raise ValueError(
                f"Got the token id {smallest if smallest < 0 else largest} in input_ids, but the vocabulary of the "
                f"model has ids from 0 to {vocab_size - 1}. Use the processor or tokenizer of this model, or "
                "resize_token_embeddings."
            )


def check_text_length(length: int, limit: int) -> None:
    """Raise `ValueError` for a text of more tokens than there are position embeddings."""
    if length > limit:
        raise ValueError(
            f"The text has {length} tokens, but the model has {limit} position embeddings. Shorten it, for instance "
            "with truncation=True in the processor."
        )


def check_labels(labels: Tensor, num_classes: int) -> Tensor:
    """
    Return labels of any shape as int64; `ValueError` unless they are integers and, on a CPU, classes (or token ids)
    from 0 to `num_classes - 1`, or -100, which the loss ignores.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"Got labels of {labels.dtype}, expected int64 (torch.long): a class or a token id each.")
    if labels.device.type == "cpu" and type(labels) is Tensor and not torch.compiler.is_compiling():
        wrong = labels[((labels < 0) & (labels != IGNORE_INDEX)) | (labels >= num_classes)]
        if wrong.numel():
            raise ValueError(
                f"Got the label {int(wrong[0])}, but there are the classes or token ids 0 to {num_classes - 1}, and "
                f"{IGNORE_INDEX} for what the loss ignores."
            )
    return labels.long()


# ---- shared tensor operations and modules ----


def mask_padding(input_ids: Tensor, attention_mask: Tensor | None, pad_token_id: int | None) -> Tensor:
    """
    The padding mask of texts `(B, T)`: the one that is given, else 0 for pad tokens and 1 for others.

    All heads take `attention_mask=None` in this sense.
    """
    if attention_mask is not None:
        return attention_mask
    check_input_ids(input_ids)
    return torch.ones_like(input_ids) if pad_token_id is None else (input_ids != pad_token_id).long()


def set_first_token(input_ids: Tensor, token_id: int | None) -> Tensor:
    """A copy of the ids `(B, T)` with `token_id` in slot 0; the same tensor if `token_id` is `None`."""
    check_input_ids(input_ids)
    if token_id is None:
        return input_ids
    first = torch.full_like(input_ids[:, :1], token_id)
    return torch.cat([first, input_ids[:, 1:]], dim=1)


def start_after_padding(
    input_ids: Tensor, attention_mask: Tensor, token_id: int, position_ids: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """
    Ids `(B, T)` whose first token that is not padding is `token_id`, and positions `(B, T)` that count from there:
    those that are given, if any, and `None` for a mask of four dimensions, whose texts start in slot 0.
    """
    check_input_ids(input_ids, attention_mask)
    if attention_mask.ndim != 2:
        return set_first_token(input_ids, token_id), position_ids
    columns = torch.arange(input_ids.shape[1], device=input_ids.device)
    places = columns - attention_mask.bool().int().argmax(dim=1, keepdim=True)
    ids = input_ids.masked_fill(places == 0, token_id)
    return ids, places.clamp(min=0) if position_ids is None else position_ids


def project_features(hidden_states: Tensor, projection: nn.Module) -> Tensor:
    """
    Project into the embedding space shared by images and texts, and normalize: `(..., D)` to `(..., P)`, at least in
    float32.

    In half precision norms would differ from 1 by up to 0.001, and cosines exceed 1.
    """
    return F.normalize(at_least_float32(projection(hidden_states)), dim=-1)


def update_feature_counts(model: nn.Module) -> None:
    """Let embeddings and linear layers state the sizes of their weights, which resizing and tying may have replaced."""
    for module in model.modules():
        if type(module) is nn.Embedding:
            module.num_embeddings = module.weight.shape[0]
        elif isinstance(module, nn.Linear) and module.weight.shape == (module.weight.shape[0], module.in_features):
            module.out_features = module.weight.shape[0]


def classification_head(hidden_size: int, num_labels: int, inner_size: int | None = None) -> nn.Sequential:
    """Two linear layers with a ReLU between, the classification head of all families: `(..., D)` to logits."""
    inner_size = inner_size or hidden_size
    return nn.Sequential(nn.Linear(hidden_size, inner_size), nn.ReLU(), nn.Linear(inner_size, num_labels))


__all__ = [
    "HUB_OPTIONS",
    "HeadStart",
    "LavisPreTrainedModel",
    "check_input_ids",
    "check_labels",
    "check_text_length",
    "classification_head",
    "mask_padding",
    "names_any",
    "project_features",
    "remove_abandoned",
    "require_image_and_text",
    "saved_together",
    "set_first_token",
    "start_after_padding",
    "temperature_parameter",
    "unfinished_folder",
    "update_feature_counts",
]
