# SPDX-License-Identifier: Apache-2.0
"""Parts that are not trained: frozen through loading, `train()` and saving, and kept in repositories of their own."""

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
    Freezes `vision_model` and `language_model` as `freeze_vision` and `freeze_language_model` of the configuration say,
    and lets repositories leave them out and name where they are.
    """

    #: parameters that no model starts from anew when it is loaded, beside those of frozen modules
    needed_parameters: tuple[str, ...] = ()

    def frozen_names(self) -> list[str]:
        """Names of the modules that are not trained."""
        names = {"vision_model": self.config.freeze_vision, "language_model": self.config.freeze_language_model}
        return [name for name, frozen in names.items() if frozen and hasattr(self, name)]

    def frozen_modules(self) -> list[nn.Module]:
        """The modules that are not trained."""
        return [getattr(self, name) for name in self.frozen_names()]

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie shared weights and freeze what is frozen; called after construction and after loading."""
        super().tie_weights(*args, **kwargs)
        # Loading replaces parameters, so a freeze in the constructor would be lost.
        for module in self.frozen_modules():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenPartsMixin":
        """Switch to training; a frozen image tower stays in evaluation mode, as in the original."""
        super().train(mode)
        if self.config.freeze_vision:
            self.vision_model.eval()
        return self

    def save_pretrained(
        self, save_directory: Any, *args: Any, frozen_parts: Mapping[str, str] | None = None, **kwargs: Any
    ) -> None:
        r"""
        Save everything, or leave out parts that other repositories have.

        Args:
            save_directory (`str` or `os.PathLike`): folder.
            frozen_parts (`dict`, *optional*): folders or Hub ids, by the name of the module, of what is left out:
                `{"vision_model": ..., "language_model": ...}`. They are named in `config.json` and read from there by
                `from_pretrained`. The image tower's is what `model.vision_model.save_pretrained` wrote; the language
                model's is any repository of that model.
            kwargs: other options of transformers' `save_pretrained`.
        """
        if frozen_parts is None:
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        if getattr(self, "hf_quantizer", None) is not None:
            raise ValueError(
                "A quantised model cannot leave out its frozen parts: other repositories have them as they were. Save "
                "it whole, without frozen_parts, or adapters of it by peft."
            )
        for name in frozen_parts:
            if getattr(self, name, None) not in self.frozen_modules():
                raise ValueError(
                    f"{name} cannot be left out: it is no part of this model, or is trained (freeze_vision, "
                    "freeze_language_model). Name only parts that other repositories have."
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
        Load a model; parts that its repository leaves out are read from where `config.json` says.

        Raises:
            OSError: a part is not where it should be.
            ValueError: weights have other sizes than the configuration says, or what cannot start anew is missing:
                a frozen module or one of `needed_parameters`.
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
                f"{source} has no weights of {' and '.join(lacking)}, which would be random numbers. Give a complete "
                "repository; or name where image tower and language model are as frozen_parts in its config.json, "
                '{"vision_model": ..., "language_model": ...}.'
            )

    @classmethod
    def _load(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """[`from_pretrained`] with `output_loading_info`, before it is looked at."""
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
                    f"{pretrained_model_name_or_path} does not fit its configuration: weights have other sizes than "
                    "config.json says (see the report above). Correct the sizes there, or give the repository that "
                    "the weights belong to."
                ) from error
        if not isinstance(config, PreTrainedConfig):
            fields = {name: kwargs.pop(name) for name in list(kwargs) if name in cls.config_class.__annotations__}
            config = cls.config_class.from_pretrained(config or pretrained_model_name_or_path, **access, **fields)
            kwargs["config"] = config
        state = _read_weights(pretrained_model_name_or_path, access)
        for name, source in parts.items():
            state.update(_read_part(name, source, config, access))
        config.frozen_parts = None  # from here on the model has them
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
    """All tensors of a repository, mapped from its files."""
    index = cached_file(source, SAFE_WEIGHTS_INDEX_NAME, _raise_exceptions_for_missing_entries=False, **access)
    if index is None:
        return load_state_dict(cached_file(source, SAFE_WEIGHTS_NAME, **access))
    files, _ = get_checkpoint_shard_files(source, index, **access)
    return {name: tensor for file in files for name, tensor in load_state_dict(file).items()}


def _does_not_fit(parts: Mapping[str, str]) -> ValueError:
    """What is raised when weights have other sizes than the configuration says."""
    named = " or ".join(f"{name} at {source!r}" for name, source in parts.items())
    return ValueError(
        f"The {named} does not fit this repository: its weights have other sizes than config.json says (see the report "
        "above). Give the part that the model was trained with."
    )


def _read_part(name: str, source: str, config: PreTrainedConfig, access: dict[str, Any]) -> dict[str, Tensor]:
    """The weights of a frozen part, by their names in the whole model."""
    access = {key: value for key, value in access.items() if key not in ("revision", "subfolder")}
    try:
        if name == "language_model":
            auto_class = AutoModelForSeq2SeqLM if config.text_config.is_encoder_decoder else AutoModelForCausalLM
            part = auto_class.from_pretrained(source, config=config.text_config, dtype="auto", **access).state_dict()
        else:
            part = _read_weights(source, access)
    except OSError as error:
        raise OSError(
            f"This repository leaves out its {name}, which should be at {source!r}, but is not: "
            f"{str(error).splitlines()[0]} Put it there, or pass another place: "
            f'config.frozen_parts = {{"{name}": ...}}.'
        ) from error
    except RuntimeError as error:
        if "mismatched" not in str(error):
            raise
        raise _does_not_fit({name: source}) from error
    return {f"{name}.{key}": value for key, value in part.items() if torch.is_tensor(value)}


__all__ = ["FrozenPartsMixin"]
