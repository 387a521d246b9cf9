# SPDX-License-Identifier: Apache-2.0
"""Parameter groups and learning rate schedules of the published training runs, for any optimizer of torch.

```python
optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.05), lr=1e-5)
schedule = linear_warmup_cosine_lr(optimizer, lr=1e-5, epochs=5, steps_per_epoch=len(rows) // 32)
Trainer(model, arguments, optimizers=(optimizer, schedule), ...)
```
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from modeling_lavis.import_utils import require

# ---- parameter groups ----

# The originals test their own parameter names. With the names of this package the result is the same for every
# parameter: a test compares both for all published architectures.
_NO_DECAY_PARTS = ("bias", "ln", "bn")


def _is_exempt_in_lavis(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or any(part in name for part in _NO_DECAY_PARTS)


def _is_exempt_in_timm(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim < 2 or name.endswith(".bias")


# Whether a parameter is exempt from weight decay, by the name of the rule.
_RULES: dict[str, Callable[[str, nn.Parameter], bool]] = {"lavis": _is_exempt_in_lavis, "timm": _is_exempt_in_timm}

# Depth of the parameters of image and video encoders, in the form that timm's models describe theirs in: embeddings
# first, then the blocks, with the last norm in the layer of the last block. Everything else in a model counts as one
# layer above.
_VISION = r"(?:.*\.)?vision_model\."
_VISION_LAYERS = {
    "stem": rf"{_VISION}(?:cls_token|pos_embed|time_embed|patch_embed|ln_pre)",
    "blocks": [(rf"{_VISION}blocks\.(\d+)\.", None), (rf"{_VISION}norm\.", (99999,))],
}


def parameter_groups(
    model: nn.Module, weight_decay: float = 0.05, layer_decay: float | None = None, rule: str = "lavis"
) -> list[dict[str, Any]]:
    """
    Parameter groups for an optimizer: with and without weight decay and, with `layer_decay`, by depth in the image or
    video encoder.

    Frozen parameters are left out, and a parameter that modules share is in one group. Adapters of peft count as
    parameters of the layer that they adapt.

    Args:
        model (`nn.Module`): a head of this package, possibly wrapped by peft; for `layer_decay=None` any module.
        weight_decay (`float`, *optional*, defaults to 0.05): decay of the first group.
        layer_decay (`float`, *optional*): decay of learning rates with depth in the image encoder (BEiT,
            https://arxiv.org/abs/2106.08254), by timm's `param_groups_layer_decay`: `lr_scale` is 1 for all that comes
            after the encoder, `layer_decay` for its last block, and so on down to the embeddings. The schedules of this
            module multiply learning rates by `lr_scale`; those of torch and transformers do not know it. (BLIP-2's
            COCO retrieval states 0.95, but LAVIS never applies it.)
        rule (`str`, *optional*, defaults to `"lavis"`): which parameters have no decay. `"lavis"`: those with fewer
            than two dimensions, and those with `bias`, `ln` or `bn` in their name, as in LAVIS's runs. `"timm"`: those
            with fewer than two dimensions, and biases. In both, embeddings, class token and query tokens decay.

    Returns:
        `list[dict]`: groups with `params` and `weight_decay`, and `lr_scale` if `layer_decay` is given; those with
        decay first. Without `layer_decay` there are two groups, even if one is empty.

    Raises:
        ValueError: a value is out of range, or `layer_decay` has nothing to act on.
        ImportError: `layer_decay` is given and timm is not installed.
    """
    if not 0.0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay is {weight_decay!r}; expected a number of at least 0.")
    if rule not in _RULES:
        raise ValueError(f"rule is {rule!r}; expected one of {', '.join(map(repr, _RULES))}.")
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    exempt = {name for name, parameter in trained.items() if _RULES[rule](name, parameter)}
    if layer_decay is None:
        decayed = [parameter for name, parameter in trained.items() if name not in exempt]
        others = [parameter for name, parameter in trained.items() if name in exempt]
        return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    if not 0.0 < layer_decay <= 1.0:
        raise ValueError(f"layer_decay is {layer_decay!r}; expected a number above 0, and 1 at most.")
    if not any("vision_model." in name for name in trained):
        raise ValueError(
            f"layer_decay={layer_decay} is for the image encoder, but {type(model).__name__} has no trainable "
            "parameters in one. Train it (freeze_vision=False for BLIP-2), or leave layer_decay out."
        )
    timm_optim: Any = require("timm.optim", extra="train", purpose="layer decay")
    groups: list[dict[str, Any]] = timm_optim.param_groups_layer_decay(
        _DescribedForTimm(model), weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
    )
    return sorted(groups, key=lambda group: group["weight_decay"] == 0.0)


class _DescribedForTimm:
    """A head as timm's helper expects its own models: parameters, and their depth."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return _VISION_LAYERS


# ---- schedules ----


class EpochSchedule(LRScheduler):
    """
    A learning rate that depends on the epoch and on the step within it, as LAVIS's schedules do.

    One call of `step` is one step of the optimizer, whatever batches it accumulates. The value is written into every
    group as it is, times the group's `lr_scale` where it has one. `state_dict` holds the progress and not the values,
    as for torch's `LambdaLR`: a run that is resumed with other settings follows these.

    Args:
        optimizer (`torch.optim.Optimizer`): the optimizer.
        value (`Callable[[int, int], float]`): learning rate for the epoch and the step within it, both from 0.
        epochs (`int`): number of epochs; later steps have the rate that `value` gives for epoch number `epochs`.
        steps_per_epoch (`int`): steps of the optimizer per epoch.

    Raises:
        ValueError: `epochs` or `steps_per_epoch` is not a positive integer.
    """

    def __init__(
        self, optimizer: Optimizer, value: Callable[[int, int], float], *, epochs: int, steps_per_epoch: int
    ) -> None:
        for name, count in {"epochs": epochs, "steps_per_epoch": steps_per_epoch}.items():
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ValueError(f"{name} is {count!r}; expected a positive integer.")
        self.value, self.epochs, self.steps_per_epoch = value, epochs, steps_per_epoch
        super().__init__(optimizer)

    def get_lr(self) -> list[Any]:
        """The learning rate of each group for the next step."""
        epoch, step = divmod(self.last_epoch, self.steps_per_epoch)
        rate = self.value(min(epoch, self.epochs), step)
        return [rate * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """The progress."""
        return {name: vars(self)[name] for name in ("last_epoch", "_step_count", "_last_lr")}


def linear_warmup_cosine_lr(
    optimizer: Optimizer,
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    min_lr: float = 0.0,
    warmup_steps: int = 0,
    warmup_lr: float | None = None,
) -> EpochSchedule:
    """
    LAVIS's `linear_warmup_cosine_lr`: linear warm-up within the first epoch, then a cosine from `lr` to `min_lr` that
    is constant within an epoch.

    parity: the warm-up is by steps and the cosine by epochs, so a warm-up that is longer than the first epoch is cut
    off there, and the second epoch starts below `lr`.

    Args:
        optimizer (`torch.optim.Optimizer`): the optimizer; its own learning rates are replaced.
        lr (`float`): highest learning rate.
        epochs (`int`): number of epochs.
        steps_per_epoch (`int`): steps of the optimizer per epoch.
        min_lr (`float`, *optional*, defaults to 0): learning rate after the last epoch.
        warmup_steps (`int`, *optional*, defaults to 0): steps from `warmup_lr` to `lr`.
        warmup_lr (`float`, *optional*): learning rate of the first step; defaults to `lr`, which means no warm-up.

    Returns:
        `EpochSchedule`: to be stepped after every step of the optimizer, as `Trainer(optimizers=...)` does.

    Raises:
        ValueError: a value is out of range.
    """
    _check_rates(lr=lr, min_lr=min_lr, warmup_lr=warmup_lr, warmup_steps=warmup_steps)
    value = partial(_cosine, lr, min_lr, epochs, _warm_up(lr, warmup_steps, warmup_lr))
    return EpochSchedule(optimizer, value, epochs=epochs, steps_per_epoch=steps_per_epoch)


def linear_warmup_step_lr(
    optimizer: Optimizer,
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    decay_rate: float,
    min_lr: float = 0.0,
    warmup_steps: int = 0,
    warmup_lr: float | None = None,
) -> EpochSchedule:
    """
    LAVIS's `linear_warmup_step_lr`: linear warm-up within the first epoch, then `lr * decay_rate**epoch`, at least
    `min_lr`.

    Args:
        decay_rate (`float`): factor from one epoch to the next, above 0 and 1 at most.
        optimizer, lr, epochs, steps_per_epoch, min_lr, warmup_steps, warmup_lr: as in [`linear_warmup_cosine_lr`].

    Returns:
        `EpochSchedule`: to be stepped after every step of the optimizer.

    Raises:
        ValueError: a value is out of range.
    """
    _check_rates(lr=lr, min_lr=min_lr, warmup_lr=warmup_lr, warmup_steps=warmup_steps)
    if not 0.0 < decay_rate <= 1.0:
        raise ValueError(f"decay_rate is {decay_rate!r}; expected a number above 0, and 1 at most.")
    value = partial(_steps, lr, min_lr, decay_rate, _warm_up(lr, warmup_steps, warmup_lr))
    return EpochSchedule(optimizer, value, epochs=epochs, steps_per_epoch=steps_per_epoch)


def constant_lr(
    optimizer: Optimizer,
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_steps: int = 0,
    warmup_lr: float | None = None,
) -> EpochSchedule:
    """
    LAVIS's `constant_lr`: linear warm-up within the first epoch, then `lr`.

    Args:
        optimizer, lr, epochs, steps_per_epoch, warmup_steps, warmup_lr: as in [`linear_warmup_cosine_lr`].

    Returns:
        `EpochSchedule`: to be stepped after every step of the optimizer.

    Raises:
        ValueError: a value is out of range.
    """
    _check_rates(lr=lr, warmup_lr=warmup_lr, warmup_steps=warmup_steps)
    value = partial(_constant, lr, _warm_up(lr, warmup_steps, warmup_lr))
    return EpochSchedule(optimizer, value, epochs=epochs, steps_per_epoch=steps_per_epoch)


#: The schedules, by LAVIS's names.
SCHEDULES: dict[str, Callable[..., EpochSchedule]] = {
    "linear_warmup_cosine_lr": linear_warmup_cosine_lr,
    "linear_warmup_step_lr": linear_warmup_step_lr,
    "constant_lr": constant_lr,
}


# parity: learning rates equal recorded ones to the last bit, which depends on the order of operations.
WarmUp = Callable[[int], float]


def _warm_up(lr: float, warmup_steps: int, warmup_lr: float | None) -> WarmUp:
    start = lr if warmup_lr is None else warmup_lr
    return partial(_ramp, start, lr, max(warmup_steps, 1))


def _ramp(start: float, lr: float, steps: int, step: int) -> float:
    return min(lr, start + (lr - start) * step / steps)


def _cosine(lr: float, min_lr: float, epochs: int, warm_up: WarmUp, epoch: int, step: int) -> float:
    if epoch == 0:
        return warm_up(step)
    return (lr - min_lr) * 0.5 * (1.0 + math.cos(math.pi * epoch / epochs)) + min_lr


def _steps(lr: float, min_lr: float, decay_rate: float, warm_up: WarmUp, epoch: int, step: int) -> float:
    return warm_up(step) if epoch == 0 else max(min_lr, lr * decay_rate**epoch)


def _constant(lr: float, warm_up: WarmUp, epoch: int, step: int) -> float:
    return warm_up(step) if epoch == 0 else lr


def _check_rates(lr: float, warmup_steps: int, warmup_lr: float | None, min_lr: float = 0.0) -> None:
    for name, rate in {"lr": lr, "min_lr": min_lr, "warmup_lr": warmup_lr}.items():
        if rate is not None and not 0.0 <= rate < math.inf:
            raise ValueError(f"{name} is {rate!r}; expected a number of at least 0.")
    if min_lr > lr:
        raise ValueError(f"min_lr is {min_lr}, above lr, which is {lr}; expected the lower one as min_lr.")
    if not isinstance(warmup_steps, int) or isinstance(warmup_steps, bool) or warmup_steps < 0:
        raise ValueError(f"warmup_steps is {warmup_steps!r}; expected an integer of at least 0.")


__all__ = [
    "SCHEDULES",
    "EpochSchedule",
    "constant_lr",
    "linear_warmup_cosine_lr",
    "linear_warmup_step_lr",
    "parameter_groups",
]
