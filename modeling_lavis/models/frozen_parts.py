# SPDX-License-Identifier: Apache-2.0
"""Frozen parts: kept frozen through loading, `train()` and saving, and stored in other repositories on request."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig
from transformers.modeling_utils import load_state_dict
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

from .modeling_base import HUB_OPTIONS, LavisPreTrainedModel


class FrozenPartsMixin(LavisPreTrainedModel):
    """
    Freezes `vision_model` and `language_model` according to `freeze_vision` and `freeze_language_model` of the
    configuration, and lets a repository leave them out and reference other repositories instead.
    """

    #: parameters that a repository has to contain, besides those of frozen modules
    needed_parameters: tuple[str, ...] = ()

    def frozen_names(self) -> list[str]:
        """Names of the frozen modules."""
        names = {"vision_model": self.config.freeze_vision, "language_model": self.config.freeze_language_model}
        return [name for name, frozen in names.items() if frozen and hasattr(self, name)]

    def frozen_modules(self) -> list[nn.Module]:
        """The frozen modules."""
        return [getattr(self, name) for name in self.frozen_names()]

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie shared weights and freeze modules; called after construction and after loading."""
        super().tie_weights(*args, **kwargs)
        # Loading replaces parameters, so that freezing in the constructor would be lost.
        for module in self.frozen_modules():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenPartsMixin":
        """Set training mode; a frozen image encoder stays in evaluation mode, as in the original."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_model.eval()
        return self

    def save_pretrained(
        self, save_directory: Any, *args: Any, frozen_parts: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        r"""
        Save the model completely, or without parts that other repositories contain.

        Args:
            save_directory (`str` or `os.PathLike`): folder.
            frozen_parts (`dict`, *optional*): folders or Hub ids of the parts to leave out, by module name:
                `{"vision_model": ..., "language_model": ...}`. They are stored in `config.json`, and `from_pretrained`
                loads the parts from there. For the image encoder it is a folder written by
                `model.vision_model.save_pretrained`, for the language model any repository of that model.
            kwargs: further options of transformers' `save_pretrained`.
        """
        if frozen_parts is None:
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        if getattr(self, "hf_quantizer", None) is not None:
            raise ValueError(
                "A quantized model cannot leave out its frozen parts, which other repositories store unquantized. Save "
                "it completely, without frozen_parts, or save adapters with peft."
            )
        for name in frozen_parts:
            if getattr(self, name, None) not in self.frozen_modules():
                raise ValueError(
                    f"{name} cannot be left out: it is not a module of this model, or it is not frozen (freeze_vision, "
                    "freeze_language_model). Name only frozen parts."
                )
        state = kwargs.pop("state_dict", None) or self.state_dict()
        kept = {name: value for name, value in state.items() if name.partition(".")[0] not in frozen_parts}
        before = self.config.frozen_parts
        self.config.frozen_parts = {name: os.fspath(source) for name, source in frozen_parts.items()}
        try:
            super().save_pretrained(save_directory, *args, state_dict=kept, **kwargs)
        finally:
            self.config.frozen_parts = before

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Load a model; parts that its repository leaves out are loaded from where `config.json` says.

        Raises:
            OSError: a part is not found.
            ValueError: weights have other shapes than the configuration says, or a frozen module or one of
                `needed_parameters` is missing.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = cls._load(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if pretrained_model_name_or_path is not None:
            model._check_complete(pretrained_model_name_or_path, set(info["missing_keys"]))
        return (model, info) if wants_info else model

    def _check_complete(self, source: Any, missing: set[str]) -> None:
        lacking = [name for name in self.needed_parameters if name in missing]
        for name in self.frozen_names():
            own = {f"{name}.{key}" for key, _ in getattr(self, name).named_parameters()}
            if own and own <= missing:
                lacking.append(name)
        if lacking:
            raise ValueError(
                f"{source} has no weights for {' and '.join(lacking)}, which would be randomly initialized. Give a "
                "complete repository, or reference the image encoder and the language model as frozen_parts in its "
                'config.json, {"vision_model": ..., "language_model": ...}.'
            )

    @classmethod
    def _load(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Model and loading info, before the check for missing weights."""
        config = kwargs.get("config")
        if pretrained_model_name_or_path is None or kwargs.get("state_dict") is not None:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        access = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        if not isinstance(config, PreTrainedConfig):
            stored, _ = PreTrainedConfig.get_config_dict(config or pretrained_model_name_or_path, **access)
            parts = stored.get("frozen_parts")
        else:
            parts = config.frozen_parts
        if not parts:
            try:
                return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            except RuntimeError as error:
                if "mismatched" not in str(error):
                    raise
                raise ValueError(
                    f"{pretrained_model_name_or_path} does not fit its configuration: weights have other shapes than "
                    "config.json says (see the report above). Correct the configuration, or give the repository that "
                    "the weights belong to."
                ) from error
        if not isinstance(config, PreTrainedConfig):
            fields = {name: kwargs.pop(name) for name in list(kwargs) if name in cls.config_class.__annotations__}
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **access, **fields)
            kwargs["config"] = config
        state = _read_weights(pretrained_model_name_or_path, access)
        for name, source in parts.items():
            state.update(_read_part(name, source, config, access))
        config.frozen_parts = None  # the loaded model is complete
        for name in HUB_OPTIONS:
            kwargs.pop(name, None)
        try:
            model = super().from_pretrained(None, *args, state_dict=state, **kwargs)
        except RuntimeError as error:
            if "mismatched" not in str(error):
                raise
            raise _does_not_fit(parts) from error
        model[0].config._name_or_path = str(pretrained_model_name_or_path)
        return model


def _read_weights(source: Any, access: dict[str, Any]) -> dict[str, Tensor]:
    """All tensors of a repository, memory-mapped from its files."""
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **access)
    if index is None:
        return load_state_dict(cached_file(source, SAFE_WEIGHTS_NAME, **access))
    files, _ = get_checkpoint_shard_files(source, index, **access)
    return {name: tensor for file in files for name, tensor in load_state_dict(file).items()}


def _does_not_fit(parts: Mapping[str, str]) -> ValueError:
    """The error for weights with other shapes than the configuration says."""
    named = " or ".join(f"{name} at {source!r}" for name, source in parts.items())
    return ValueError(
        f"The {named} does not fit this repository: its weights have other shapes than config.json says (see the "
        "report above). Give the part that the model was trained with."
    )


def _read_part(name: str, source: str, config: PreTrainedConfig, access: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a frozen part, by their names in the complete model."""
    access = {key: value for key, value in access.items() if key not in ("revision", "subfolder")}
    try:
        if name == "language_model":
            auto_class = AutoModelForSeq2SeqLM if config.text_config.is_encoder_decoder else AutoModelForCausalLM
            part = auto_class.from_pretrained(source, config=config.text_config, dtype="auto", **access).state_dict()
        else:
            part = _read_weights(source, access)
    except OSError as error:
        raise OSError(
            f"This repository leaves out its {name} and references {source!r}, which cannot be loaded: "
            f"{str(error).splitlines()[0]} Put it there, or set another location: "
            f'config.frozen_parts = {{"{name}": ...}}.'
        ) from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise _does_not_fit({name: source}) from error
    return {f"{name}.{key}": value for key, value in part.items() if torch.is_tensor(value)}


__all__ = ["FrozenPartsMixin"]
