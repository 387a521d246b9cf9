# SPDX-License-Identifier: Apache-2.0
"""What every model of the package has in common with respect to saving, loading and the Trainer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .cache_names import CACHE_NAMES

#: options of `from_pretrained` that say how files are found, and that reading a configuration takes as well
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def image_and_text(pixel_values: Tensor | None, input_ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both inputs, for heads that cannot do without; `ValueError` names what is missing."""
    if pixel_values is None or input_ids is None:
        missing = "pixel_values" if pixel_values is None else "input_ids"
        raise ValueError(
            f"{missing} is missing; this head reads an image and a text. The processor makes both from pictures and "
            "texts."
        )
    check_text(input_ids)
    return pixel_values, input_ids


def check_text(input_ids: Tensor, attention_mask: Tensor | None = None, num_words: int | None = None) -> None:
    """
    Raise `ValueError` unless ids are whole numbers of shape (R, T) and the mask is 4D or has that shape.

    With `num_words`, ids in main memory must be words of such a vocabulary, too. Elsewhere nothing is read: an
    accelerator would have to wait for it, and a compiler could not go on.
    """
    if not isinstance(input_ids, Tensor):
        raise ValueError(f"Got input_ids as {type(input_ids).__name__}; give a tensor, with return_tensors='pt'.")
    if input_ids.ndim != 2 or input_ids.dtype not in (torch.int64, torch.int32) or 0 in input_ids.shape:
        raise ValueError(
            f"Got input_ids of shape {tuple(input_ids.shape)} and dtype {input_ids.dtype}, expected (texts, tokens), "
            "at least one of each, of int64 (torch.long). The processor makes them from texts."
        )
    if attention_mask is not None and attention_mask.ndim != 4 and attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"Got an attention_mask of shape {tuple(attention_mask.shape)} for input_ids of shape "
            f"{tuple(input_ids.shape)}; both have to be (texts, tokens). The processor makes them together."
        )
    if num_words is None or torch.compiler.is_compiling() or type(input_ids) is not Tensor:
        return
    if input_ids.device.type == "cpu" and input_ids.numel():
        smallest, largest = (int(bound) for bound in input_ids.aminmax())
        if smallest < 0 or largest >= num_words:
            raise ValueError(
                f"Got input_ids with the number {smallest if smallest < 0 else largest}, but the model knows the words "
                f"0 to {num_words - 1}. Use the processor or tokenizer of this model, or resize_token_embeddings."
            )


def check_labels(labels: Tensor, num_classes: int) -> Tensor:
    """
    Labels of any shape as int64; `ValueError` unless they are whole numbers, and, in main memory, classes (or words) 0
    to `num_classes - 1`, or -100 for what is not to be learned.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(
            f"Got labels of {labels.dtype}, expected int64 (torch.long): the number of each class or word."
        )
    if labels.device.type == "cpu" and type(labels) is Tensor and not torch.compiler.is_compiling():
        wrong = labels[((labels < 0) & (labels != -100)) | (labels >= num_classes)]
        if wrong.numel():
            raise ValueError(
                f"Got the label {int(wrong[0])}, but there are the classes or words 0 to {num_classes - 1}, and -100 "
                "for what is not to be learned."
            )
    return labels.long()


class LavisPreTrainedModel(PreTrainedModel):
    """
    Base of all models: attention through transformers' interface, files in our own key names, losses that are means
    over a batch.
    """

    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = list(CACHE_NAMES)
    # Our losses are means over the batch, contrastive ones cannot even be split: the Trainer must divide by the
    # number of accumulation steps itself.
    accepts_loss_kwargs = False

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        # For classes outside transformers, a module that lacks no tensor of its own would be passed over; but heads
        # fill their twins from there, which are tensors of submodules.
        super()._initialize_weights(module)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers' `from_pretrained`; what stays in float32 does so on the disk, too."""
        loaded = super().from_pretrained(*args, **kwargs)
        _keep_offloaded_exact(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks for the interface in the text of the model's file; ours is in a file that all share.
        return True

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """
        Save under our own key names, also when the weights were read from another format.

        Args:
            save_original_format (`bool`, *optional*, defaults to `False`): write the key names of transformers' own
                class of the same family instead (BLIP, BLIP-2), for that class to load; `config.json` stays ours, so
                that class needs its own by `config=`.
            args, kwargs: as for transformers' `save_pretrained`.
        """
        # transformers would write the names of the file that was loaded; a resumed Trainer could not read those.
        original = kwargs.setdefault("save_original_format", False)
        # It would also undo only the renamings that loading made use of, which after our own files are none.
        used = self.__dict__.pop("_weight_conversions", None) if original else None
        try:
            with _readable_by_torchao(getattr(self, "hf_quantizer", None)):
                super().save_pretrained(*args, **kwargs)
        finally:
            if used is not None:
                self._weight_conversions = used


def _keep_offloaded_exact(model: nn.Module) -> None:
    """
    Let weights that are read from the disk when they are needed have the precision that they would have in memory.

    transformers notes their dtype before it knows which modules are kept in float32.
    """
    exact = {part.strip("^$") for part in getattr(model, "_keep_in_fp32_modules_strict", None) or ()}
    indices: dict[int, dict[str, dict[str, Any]]] = {}
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for part in getattr(hook, "hooks", [hook]):
            index = getattr(getattr(getattr(part, "weights_map", None), "dataset", None), "index", None)
            if index:
                indices[id(index)] = index
    if not indices:
        return
    for name, value in model.named_parameters():
        if value.dtype in (torch.float16, torch.bfloat16) and value.is_meta and exact & set(name.split(".")):
            value.data = value.data.float()
            for index in indices.values():
                if name in index:
                    index[name]["dtype"] = "float32"


@contextmanager
def _readable_by_torchao(quantizer: Any) -> Iterator[None]:
    """
    Leave tensors that belong to no module (queries, temperatures) out of the table that torchao writes beside its own.

    Its reader takes every name in that table apart at a dot; tensors without an entry are read as any other.
    """
    flatten = getattr(quantizer, "get_state_dict_and_metadata", None)
    if flatten is None:
        yield
        return

    def flatten_and_leave_out(model: Any) -> tuple[Any, dict[str, str]]:
        state, table = flatten(model)
        if "tensor_names" in table:
            names = [name for name in json.loads(table["tensor_names"]) if "." in name]
            table = {name: value for name, value in table.items() if "." in name or name == "tensor_names"}
            table["tensor_names"] = json.dumps(names)
        return state, table

    quantizer.get_state_dict_and_metadata = flatten_and_leave_out
    try:
        yield
    finally:
        del quantizer.get_state_dict_and_metadata


__all__ = ["HUB_OPTIONS", "LavisPreTrainedModel", "check_labels", "check_text", "image_and_text"]
