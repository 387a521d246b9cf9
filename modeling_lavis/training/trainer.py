# SPDX-License-Identifier: Apache-2.0
"""transformers' Trainer with what the heads of this package, and the recipes of their papers, need around it."""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import IterableDatasetShard, find_batch_size
from transformers.trainer_utils import EvalLoopOutput

from modeling_lavis.files import whole_file
from modeling_lavis.import_utils import is_available, require
from modeling_lavis.training import checkpoints, peft_state
from modeling_lavis.training.curves import draw_curves
from modeling_lavis.training.distillation import DistillationRamp, distilled_heads
from modeling_lavis.training.loss_log import LossAverages
from modeling_lavis.training.optimization import SCHEDULES, parameter_groups
from modeling_lavis.training.reproducible_data import (
    Epoch,
    ReproducibleCollator,
    reproducible_order,
    reproducible_rows,
    seeded,
)
from modeling_lavis.training.run_card import run_card

Evaluation = Callable[[Any, Any, Any], Mapping[str, float]]


class LavisTrainer(Trainer):
    """
    transformers' [`~transformers.Trainer`] for the heads of this package. What it adds:

    - Every `loss_*` of an output is logged apart, in training and in evaluation.
    - Parameter groups and schedules of LAVIS's runs, and layer decay, on request.
    - The weight of the momentum encoders' soft targets is raised at the beginning of training.
    - Evaluation by any function: generation, ranking, two-stage retrieval. Its metrics can choose the best model.
    - A run that is stopped at any step and resumed ends with the weights of a run without stop, on a CPU bit for bit,
      and a checkpoint is whole or not there, whenever the process is killed.
    - Curves as a picture, and a model card with the results, settings and versions of the run.

    Data sets have raw rows, and `data_collator` is one of the collators of [`modeling_lavis.data`], so
    `remove_unused_columns` of the arguments is set to `False`. Random draws of data sets and collators that use the
    global generators of torch, NumPy or Python are seeded for each batch, by the seed of the run, the epoch and the
    rows; evaluation has draws of its own, too, so that it does not change the training.

    Args:
        args, kwargs: as for [`~transformers.Trainer`].
        groups (`str` or `Callable`, *optional*):
            parameter groups of the optimizer: `"lavis"` or `"timm"`, a rule of
            [`~modeling_lavis.training.optimization.parameter_groups`], or a function from the model to groups. Defaults
            to those of transformers.
        layer_decay (`float`, *optional*):
            decay of learning rates with depth in the image encoder; `groups` is `"lavis"` by default then.
        recipe_schedule (`str` or `Callable`, *optional*):
            schedule of the learning rate, instead of `lr_scheduler_type`: a name of
            [`~modeling_lavis.training.optimization.SCHEDULES`], or a function like them. It is called with the
            optimizer, `lr` (the `learning_rate` of the arguments), `epochs` and `steps_per_epoch`.
        schedule_options (`Mapping[str, Any]`, *optional*):
            further arguments of the schedule, such as `min_lr`, `warmup_steps` and `warmup_lr`.
        ramp_epochs (`float`, *optional*, defaults to 2):
            epochs over which the weight of the soft targets rises to the configuration's `alpha`, for heads with
            momentum distillation; `None` keeps it at `alpha`. See
            [`~modeling_lavis.training.distillation.DistillationRamp`].
        freeze (`Sequence[str]`, *optional*, defaults to `()`):
            names of modules, such as `"vision_model"`, that are not trained and stay in evaluation mode.
        evaluation (`Callable`, *optional*):
            function from the model, its processor (`processing_class`) and the rows of the evaluation set to metrics by
            name. It replaces the loop over batches in `evaluate` and `predict`; the model is unwrapped, in evaluation
            mode and without gradients. Its metrics get the prefix `eval_`, and so can be `metric_for_best_model`.
        evaluate_loss (`bool`, *optional*, defaults to `False`): with `evaluation`, compute the losses on the evaluation
            set as well.
        shared_evaluation (`bool`, *optional*, defaults to `False`):
            call `evaluation` in every process, because it divides the work by itself. By default it runs in the first
            process, and the others wait for its metrics. Models that are sharded (FSDP) need every process.
        curves (`bool`, *optional*):
            write `curves.png` with losses, learning rate and metrics into the output folder when training ends.
            Defaults to whether matplotlib is installed.

    Raises:
        ImportError: `curves=True`, and matplotlib is not installed.
        ValueError: an argument has an unknown value, or a module to freeze does not exist.
    """

    # attributes of transformers' class, which a type checker does not see
    data_collator: Any
    lr_scheduler: Any
    optimizer_cls_and_kwargs: Any

    def __init__(
        self,
        *args: Any,
        groups: str | Callable[[nn.Module], list[dict[str, Any]]] | None = None,
        layer_decay: float | None = None,
        recipe_schedule: str | Callable[..., LRScheduler] | None = None,
        schedule_options: Mapping[str, Any] | None = None,
        ramp_epochs: float | None = 2.0,
        freeze: Sequence[str] = (),
        evaluation: Evaluation | None = None,
        evaluate_loss: bool = False,
        shared_evaluation: bool = False,
        curves: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(recipe_schedule, str) and recipe_schedule not in SCHEDULES:
            raise ValueError(
                f"recipe_schedule is {recipe_schedule!r}; expected one of {', '.join(SCHEDULES)}, or a function."
            )
        if recipe_schedule is None and schedule_options:
            raise ValueError("schedule_options are for recipe_schedule, which is not given; name a schedule.")
        if groups is not None and not callable(groups) and not isinstance(groups, str):
            raise ValueError(f"groups is {groups!r}; expected 'lavis', 'timm' or a function.")
        if callable(groups) and layer_decay is not None:
            raise ValueError("layer_decay is for groups='lavis' or 'timm'; a function has to apply it by itself.")
        if curves:
            require("matplotlib", extra="train", purpose="the curves of a run")
        self.groups = "lavis" if groups is None and layer_decay is not None else groups
        self.layer_decay = layer_decay
        self.recipe_schedule = SCHEDULES[recipe_schedule] if isinstance(recipe_schedule, str) else recipe_schedule
        self.schedule_options = dict(schedule_options or {})
        self.evaluation = evaluation
        self.evaluate_loss = evaluate_loss
        self.shared_evaluation = shared_evaluation
        self.curves = is_available("matplotlib") if curves is None else curves
        self._freeze = (freeze,) if isinstance(freeze, str) else tuple(freeze)
        self._epoch = Epoch()
        self._progress: dict[str, int] = {}
        self._training_losses, self._evaluation_losses = LossAverages(), LossAverages()
        self._staged_for: str | None = None
        self._to_push: str | None = None
        super().__init__(*args, **kwargs)
        self.args.remove_unused_columns = False
        if self.model_init is None:
            freeze_modules(self.model, self._freeze)
        self.add_callback(_EpochCounter(self._epoch))
        self._add_distillation_ramp(ramp_epochs)

    def _add_distillation_ramp(self, ramp_epochs: float | None) -> None:
        """Add the callback for heads that use soft targets, unless it is there already."""
        is_there = any(isinstance(callback, DistillationRamp) for callback in self.callback_handler.callbacks)
        distils = any(head.has_momentum_encoders and head.config.use_distill for head in distilled_heads(self.model))
        if distils and ramp_epochs is not None and not is_there:
            self.add_callback(DistillationRamp(ramp_epochs))

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A new model by `model_init`, with its frozen modules."""
        return freeze_modules(super().call_model_init(trial), self._freeze)

    # ---- optimizer and schedule ----

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer of the arguments, with the parameter groups of the run."""
        if self.optimizer is not None or self.groups is None:
            return super().create_optimizer(model)
        target = self.model if model is None else model
        if callable(self.groups):
            groups = self.groups(target)
        else:
            groups = parameter_groups(target, self.args.weight_decay, self.layer_decay, rule=self.groups)
        for group in groups:
            if "lr_scale" in group:
                group.setdefault("lr", self.args.learning_rate * group["lr_scale"])
        given = self.optimizer_cls_and_kwargs
        kind, options = given or self.get_optimizer_cls_and_kwargs(self.args, target)
        self.optimizer_cls_and_kwargs = kind, {**options, "params": groups}
        try:
            return super().create_optimizer(model)
        finally:
            self.optimizer_cls_and_kwargs = given

    def set_initial_training_values(self, args: TrainingArguments, dataloader: DataLoader) -> Any:
        """Count steps and epochs, as transformers does, and keep them for the schedule."""
        values = super().set_initial_training_values(args, dataloader)
        epochs, steps_per_epoch = values[:2]
        # a stream without a length counts as one epoch of as many steps as there are
        self._progress = {"epochs": epochs if epochs < 2**31 else 1, "steps_per_epoch": steps_per_epoch}
        return values

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create the schedule of the recipe, or that of the arguments."""
        if self.lr_scheduler is None and self.recipe_schedule is not None:
            progress = self._progress or {"epochs": 1, "steps_per_epoch": num_training_steps}
            options = {"lr": self.args.learning_rate, **progress, **self.schedule_options}
            self.lr_scheduler = self.recipe_schedule(optimizer or self.optimizer, **options)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """The norm of the gradients for the log; without clipping, only in steps that are logged."""
        args = self.args
        is_plain = not (self.is_deepspeed_enabled or self.is_fsdp_enabled or args.fp16)
        if grad_norm is not None or not is_plain or args.logging_strategy != "steps":
            return super()._get_grad_norm(model, grad_norm)
        step = self.state.global_step + 1
        is_logged = step % max(self.state.logging_steps, 1) == 0 or (args.logging_first_step and step == 1)
        gradients = [value.grad for value in model.parameters() if value.grad is not None] if is_logged else []
        # transformers clips to infinity, which multiplies all gradients by one
        return get_total_norm(gradients) if gradients else None

    # ---- losses ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch; the parts that it is the sum of are kept for the log."""
        rows = None if model.training else find_batch_size(inputs)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training:
            self._training_losses.add(outputs, 1 / getattr(self, "current_gradient_accumulation_steps", 1))
        else:
            self._evaluation_losses.add(outputs, float(rows or 1))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log values, and with the training loss its parts since the last time."""
        if "loss" in logs and "learning_rate" in logs:  # all processes log, of training
            parts = self._training_losses.pop()
            logs = {"loss": logs["loss"], **parts, **{name: value for name, value in logs.items() if name != "loss"}}
        super().log(logs, start_time)

    # ---- data ----

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Any] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader:
        """The loader of transformers; that of the training has batches with draws of their own."""
        if not is_training:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, dataloader_key)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        rows = reproducible_rows(dataset, seed, self._epoch, self.args.process_index)
        sampler_of_rows = None if sampler_fn is None else lambda _: reproducible_order(sampler_fn(dataset), rows)
        collator, self.data_collator = self.data_collator, ReproducibleCollator(self.data_collator)
        try:
            with torch.random.fork_rng([]):
                torch.default_generator.manual_seed(seed)  # accelerate's sampler takes this seed
                loader: Any = super()._get_dataloader(
                    rows, description, batch_size, sampler_of_rows, is_training, dataloader_key
                )
        finally:
            self.data_collator = collator
        # A loader draws a seed for its workers whenever it makes them, which a resumed run does at other steps.
        getattr(loader, "base_dataloader", loader).generator = torch.Generator().manual_seed(seed)
        return loader

    # ---- evaluation ----

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The loop over batches, or the evaluation function, or both."""
        with self._own_draws():
            if self.evaluation is None or self.evaluate_loss:
                output = super().evaluation_loop(
                    dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
                )
                for name, value in self._evaluation_losses.pop().items():
                    output.metrics[f"{metric_key_prefix}_{name}"] = value
            else:
                output = EvalLoopOutput(None, None, {}, self.num_examples(dataloader))
            if self.evaluation is not None:
                for name, value in self._evaluate_rows(_rows_of(dataloader)).items():
                    output.metrics[f"{metric_key_prefix}_{name}"] = value
        return output

    @contextlib.contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Draws of an evaluation that do not depend on the step, nor change those of the training."""
        device = self.args.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices), seeded(self.args.seed):
            yield

    def _evaluate_rows(self, rows: Any) -> dict[str, float]:
        """Metrics of the evaluation function, the same in all processes."""
        in_every_process = self.shared_evaluation or self.is_fsdp_enabled or self.is_deepspeed_enabled
        if self.args.world_size == 1 or in_every_process:
            return self._call_evaluation(rows)
        # An error has to end all processes, not leave the others waiting.
        result: list[Any] = [None, None]
        if self.is_world_process_zero():
            try:
                result[0] = self._call_evaluation(rows)
            except Exception as error:
                result[1] = error
        if self.is_world_process_zero() and result[1] is not None:
            broadcast_object_list([None, f"{type(result[1]).__name__}: {result[1]}"])
            raise result[1]
        result = broadcast_object_list(result)
        if result[1] is not None:
            raise RuntimeError(f"The evaluation failed in the first process: {result[1]}")
        return result[0]

    def _call_evaluation(self, rows: Any) -> dict[str, float]:
        """Call the evaluation function with the model as it expects it."""
        model = self._plain_model()
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                metrics = self.evaluation(model, self.processing_class, rows)  # type: ignore[misc]
        finally:
            for module, mode in modes:
                module.training = mode
        return _checked_metrics(metrics)

    def _plain_model(self) -> Any:
        """The model without wrappers; adapters stay active in it."""
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        return model.get_base_model() if hasattr(model, "peft_config") else model

    # ---- checkpoints ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Train, and write the curves of the run.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                checkpoint to resume from; `True` for the last whole one in the output folder.
            args, kwargs: as for transformers' `train`.

        Returns:
            `TrainOutput`: steps, mean loss and metrics of the training.

        Raises:
            ValueError: with `resume_from_checkpoint=True`, there is no whole checkpoint.
        """
        folder = self.args.output_dir
        if self.args.should_save:
            checkpoints.recover(folder)
        self.accelerator.wait_for_everyone()
        if resume_from_checkpoint is True:
            resume_from_checkpoint = checkpoints.last_checkpoint(folder)
            if resume_from_checkpoint is None:
                raise ValueError(
                    f"There is no whole checkpoint in {folder}; train without resume_from_checkpoint, or name a folder."
                )
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        if self.curves and self.args.should_save:
            draw_curves(self.state.log_history, Path(folder) / "curves.png")
        return result

    def _get_output_dir(self, trial: Any) -> str:
        """Folder of the run, or while a checkpoint is written, the folder beside it."""
        return super()._get_output_dir(trial) if self._staged_for is None else self._staged_for

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint under another name, and rename it when all processes are done."""
        folder, step = self._get_output_dir(trial), self.state.global_step
        staging = checkpoints.partial_folder(folder, step)
        name = f"checkpoint-{step}"
        # transformers deletes surplus checkpoints where it writes: here there is one
        self._staged_for = str(staging)
        try:
            super()._save_checkpoint(model, trial)
            if self.args.should_save:
                peft_state.save(self.model, staging / name)
                self._name_best_checkpoint(staging, folder)
                self.state.save_to_json(str(staging / name / "trainer_state.json"))
        finally:
            self._staged_for = None
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.publish(staging / name, Path(folder) / name)
        self.accelerator.wait_for_everyone()
        if self.is_local_process_zero():
            # what the processes of another node wrote on a disk of their own
            checkpoints.publish(staging / name, Path(folder) / name)
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        self._name_best_checkpoint(staging, folder)
        if self._to_push is not None:
            self._to_push = None
            self._push_from_checkpoint(str(Path(folder) / name))
        if self.args.should_save:
            checkpoints.rotate(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _name_best_checkpoint(self, staging: Path, folder: str) -> None:
        """Let the state name the final place of the best checkpoint."""
        best = self.state.best_model_checkpoint
        if best is not None and Path(best).parent == staging:
            self.state.best_model_checkpoint = str(Path(folder) / Path(best).name)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint, as transformers does, once it has its name."""
        if self._staged_for is not None:
            self._to_push = checkpoint_folder
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load the weights of a checkpoint, and what adapters do not include."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        peft_state.load(self.model if model is None else model, resume_from_checkpoint)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As in transformers, but of equal metrics the last is the best: a metric may be 0 for many epochs."""
        is_best = super()._determine_best_metric(metrics, trial)
        name = self.args.metric_for_best_model
        if is_best or name is None:
            return is_best
        if metrics[f"eval_{name.removeprefix('eval_')}"] != self.state.best_metric:
            return False
        if self.state.best_global_step:  # it is not set where no checkpoints are saved
            self.state.best_global_step = self.state.global_step
        return True

    def _load_best_model(self) -> None:
        """Load the best model, and what adapters do not include."""
        super()._load_best_model()
        peft_state.load(self.model, str(self.state.best_model_checkpoint))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save the model so that `from_pretrained` loads it. Every file is whole or not there.

        Args:
            output_dir (`str`, *optional*): folder; defaults to the output folder of the run.
        """
        if self._staged_for is not None:
            super().save_model(output_dir, _internal_call=True)
            self._save_config_of_adapters(Path(output_dir if output_dir is not None else self.args.output_dir))
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        staging = folder / checkpoints.PARTIAL_MODEL
        super().save_model(str(staging), _internal_call=True)
        self._save_config_of_adapters(staging)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.move_files(staging, folder)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_config_of_adapters(self, folder: Path) -> None:
        """Write the configuration, which peft does not save."""
        if self.args.should_save and hasattr(self.model, "peft_config"):
            peft_state.save_config(self._plain_model(), folder)

    def create_model_card(self, **facts: Any) -> None:
        """
        Write `README.md` into the output folder: results, settings, data, versions and licence of the run.

        Args:
            facts: `language`, `license`, `tags`, `model_name`, `finetuned_from`, `tasks`, `dataset` and
                `dataset_tags`, as for transformers. Defaults come from the run: the licence and the languages are those
                of the card of the start, where it is a folder or in the cache of the Hub.
        """
        if not self.is_world_process_zero():
            return
        path = Path(self.args.output_dir) / "README.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, prefix="_") as partial:  # an upload to the Hub leaves out names with an underscore
            partial.write_text(run_card(self, **facts), encoding="utf-8")


class _EpochCounter(TrainerCallback):
    """Tells the number of the epoch to the data set, and ends a training that would never make a step."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self._last_step = -1
        self._idle_epochs = 0

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the number of the epoch."""
        self.epoch.set(int(state.epoch or 0))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """
        Check that there are steps.

        transformers accumulates within an epoch, and repeats a stream that is shorter than one step for ever.

        Raises:
            ValueError: two epochs had no step (one can be what is left of an epoch after a checkpoint).
        """
        self._idle_epochs = self._idle_epochs + 1 if state.global_step == self._last_step else 0
        self._last_step = state.global_step
        if self._idle_epochs > 1 and not control.should_training_stop:
            raise ValueError(
                f"The data have less than {args.gradient_accumulation_steps} batches of"
                f" {args.per_device_train_batch_size} rows per device, so that no step of the optimizer is complete in"
                " an epoch. Lower gradient_accumulation_steps or per_device_train_batch_size, or load the data without"
                " streaming."
            )


def freeze_modules(model: Any, names: Sequence[str]) -> Any:
    """
    Freeze modules of a model: without gradients, and in evaluation mode whatever `train()` sets.

    Args:
        model (`nn.Module`): the model, possibly with wrappers.
        names (`Sequence[str]`): names of modules of the head, such as `"vision_model"`.

    Returns:
        The same model.

    Raises:
        ValueError: there is no module of that name.
    """
    for name in names:
        found = [module for path, module in model.named_modules() if path == name or path.endswith(f".{name}")]
        if not found:
            known = sorted(child for child, _ in model.named_children())
            raise ValueError(f"{type(model).__name__} has no module {name!r} to freeze; it has {', '.join(known)}.")
        for module in found:
            module.requires_grad_(False)
            module.register_forward_pre_hook(_stay_in_evaluation_mode)
    return model


def _stay_in_evaluation_mode(module: nn.Module, args: Any) -> None:
    """Hook of a frozen module: its dropout is off."""
    module.eval()


def _rows_of(dataloader: Any) -> Any:
    """The data set of a loader."""
    dataset = dataloader.dataset
    return dataset.dataset if isinstance(dataset, IterableDatasetShard) else dataset


def _checked_metrics(metrics: Any) -> dict[str, float]:
    """Metrics as numbers; `ValueError` if they are something else."""
    if not isinstance(metrics, Mapping):
        raise ValueError(f"The evaluation returned {type(metrics).__name__}; expected a dict of metrics by name.")
    try:
        return {str(name): float(value) for name, value in metrics.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"The evaluation returned {dict(metrics)!r}; expected a number for each metric.") from error


__all__ = ["LavisTrainer", "freeze_modules"]
