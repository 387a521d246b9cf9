# SPDX-License-Identifier: Apache-2.0
"""Frozen parts: kept frozen through loading, `train()` and saving, and stored in other repositories on request."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedConfig

from .configuration_base import FrozenPart
from .head_loading import HUB_OPTIONS, load_config, read_weights
from .modeling_base import LavisPreTrainedModel


class FrozenPartsMixin(LavisPreTrainedModel):
    """
    Freezes `vision_model` and `language_model` according to `freeze_vision` and `freeze_language_model` of the
    configuration, and lets a repository leave them out and reference other repositories instead.
    """

    #: parameters that a repository has to contain, apart from those of frozen modules
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
        self, save_directory: Any, *args: Any, frozen_parts: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        r"""
        Save the model completely, or without parts that other repositories contain.

        Args:
            save_directory (`str` or `os.PathLike`): folder.
            frozen_parts (`dict`, *optional*): folders or Hub ids of the parts to leave out, by module name:
                `{"vision_model": ..., "language_model": ...}`. They are stored in `config.json`, and `from_pretrained`
                loads the parts from there. For the image encoder it is a folder written by
                `model.vision_model.save_pretrained`, for the language model any repository of that model.
                `"org/name@revision"` names a branch, tag or commit of a Hub repository, as does a dictionary with
                `source`, `revision` and `subfolder`.
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
            FrozenPart.read(name, frozen_parts[name])
        state = kwargs.pop("state_dict", None) or self.state_dict()
        kept = {name: value for name, value in state.items() if name.partition(".")[0] not in frozen_parts}
        before = self.config.frozen_parts
        self.config.frozen_parts = {
            name: os.fspath(place) if isinstance(place, os.PathLike) else place for name, place in frozen_parts.items()
        }
        try:
            super().save_pretrained(save_directory, *args, state_dict=kept, **kwargs)
        finally:
            self.config.frozen_parts = before

    def check_loaded(self, source: Any, info: dict[str, Any]) -> None:
        """Raise `ValueError` if a frozen module or one of `needed_parameters` is missing."""
        missing = set(info["missing_keys"])
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
    def _load_weights(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Model and loading info; parts that the repository leaves out are loaded from where `frozen_parts` says."""
        source, config = pretrained_model_name_or_path, kwargs.get("config")
        if source is None or kwargs.get("state_dict") is not None:
            return super()._load_weights(source, *args, **kwargs)
        access = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        if "frozen_parts" in kwargs:
            parts = kwargs["frozen_parts"]
        elif isinstance(config, PreTrainedConfig):
            parts = config.frozen_parts
        else:
            stored, _ = PreTrainedConfig.get_config_dict(config or source, **access)
            parts = stored.get("frozen_parts")
        if not parts:
            return super()._load_weights(source, *args, **kwargs)
        config = kwargs["config"] = load_config(cls, source, kwargs)
        state = read_weights(source, access)
        for name, place in parts.items():
            state.update(_read_part(name, FrozenPart.read(name, place), config, access))
        config.frozen_parts = None  # the loaded model is complete
        for name in HUB_OPTIONS:
            kwargs.pop(name, None)
        model, info = super()._load_weights(None, *args, state_dict=state, **kwargs)
        wrong = {name.partition(".")[0] for name, *_ in info["mismatched_keys"]} & parts.keys()
        if wrong:
            raise _does_not_fit({name: parts[name] for name in sorted(wrong)})
        model.config._name_or_path = str(source)
        _load_generation_config(model, source, access)
        return model, info


def _load_generation_config(model: Any, source: Any, access: dict[str, Any]) -> None:
    """Weights that are given as tensors leave transformers without the place of `generation_config.json`."""
    if model.can_generate():
        try:
            model.generation_config = GenerationConfig.from_pretrained(source, **access)
        except OSError:  # there is none
            return


def _does_not_fit(parts: Mapping[str, Any]) -> ValueError:
    """The error for weights with other shapes than the configuration says."""
    named = " or ".join(f"{name} at {str(FrozenPart.read(name, place))!r}" for name, place in parts.items())
    return ValueError(
        f"The {named} does not fit this repository: its weights have other shapes than config.json says (see the "
        "report above). Give the part that the model was trained with."
    )


def _read_part(name: str, part: FrozenPart, config: PreTrainedConfig, access: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a frozen part, by their names in the complete model."""
    # revision and subfolder of the repository itself say nothing about those of a part
    access = {key: value for key, value in access.items() if key not in ("revision", "subfolder")}
    access |= {key: value for key, value in (("revision", part.revision), ("subfolder", part.subfolder)) if value}
    try:
        if name == "language_model":
            auto_class = AutoModelForSeq2SeqLM if config.text_config.is_encoder_decoder else AutoModelForCausalLM
            model = auto_class.from_pretrained(part.source, config=config.text_config, dtype="auto", **access)
            weights = model.state_dict()
        else:
            weights = read_weights(part.source, access)
    except OSError as error:
        reason = (str(error).splitlines() or ["it cannot be read."])[0]
        raise OSError(
            f"This repository leaves out its {name} and references {str(part)!r}, which cannot be loaded: {reason} Put "
            f'it there, or set another location: config.frozen_parts = {{"{name}": ...}}.'
        ) from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise _does_not_fit({name: part._asdict()}) from error
    return {f"{name}.{key}": value for key, value in weights.items() if torch.is_tensor(value)}


__all__ = ["FrozenPartsMixin"]
