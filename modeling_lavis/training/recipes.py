# SPDX-License-Identifier: Apache-2.0
"""Training recipes as data: one JSON file for each published training run, and for small ones.

    recipe = load_recipe("blip-retrieval-coco")      # one that comes with the package
    recipe = load_recipe("my_recipe.json")           # a file of your own; "extends" names another recipe

A recipe is read strictly: an unknown field, a value of the wrong type and values that contradict each other are errors
that name file, field and what was expected.
"""

import json
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from modeling_lavis.files import whole_file
from modeling_lavis.training.recipe_options import (
    DISTILLED_HEADS,
    HEADS_OF_TASKS,
    VIDEO_TASKS,
    DataOptions,
    EvaluationOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    StartOptions,
    require_that,
)

RECIPE_FOLDER = Path(__file__).resolve().parent / "recipes"
_FAMILIES = {"Albef": "albef", "Alpro": "alpro", "LavisBlip2": "lavis_blip_2", "LavisBlip": "lavis_blip"}
_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", Mapping: "an object"}

Scaling = Literal["accumulate", "learning_rate", "none"]


class BatchPlan(NamedTuple):
    """
    How a user's devices do the work of the published run.

    Args:
        train_batch_size (`int`): rows per device in a forward pass.
        accumulation_steps (`int`): forward passes per step of the optimizer.
        global_batch_size (`int`): rows per step of the optimizer.
        learning_rate_factor (`float`): factor of all learning rates.
    """

    train_batch_size: int
    accumulation_steps: int
    global_batch_size: int
    learning_rate_factor: float


@dataclass(frozen=True)
class Recipe:
    """
    A training recipe.

    Args:
        name (`str`): name of the file without suffix.
        title (`str`): what is trained, in one line.
        task (`str`): a task of this package, for instance `"retrieval"`.
        head (`str`): name of the model class.
        model ([`ModelOptions`]): image size, configuration, frozen parts, LoRA.
        data ([`DataOptions`]): transform and options of processor and collator.
        optimizer ([`OptimizerOptions`]): learning rate, schedule, weight decay.
        run ([`RunOptions`]): length, batch sizes, precision.
        start ([`StartOptions`], *optional*): what training starts from.
        evaluation ([`EvaluationOptions`], *optional*): metric and options of the evaluation.
        source (`str`, *optional*): file of LAVIS with the same run.
        notes (`tuple[str, ...]`, *optional*, defaults to `()`): where the original deviates, and other remarks.

    Raises:
        ValueError: a value is wrong, or values contradict each other.
    """

    name: str
    title: str
    task: str
    head: str
    model: ModelOptions
    data: DataOptions
    optimizer: OptimizerOptions
    run: RunOptions
    start: StartOptions = StartOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    source: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_that(self.task in HEADS_OF_TASKS, "task", self.task, f"one of {', '.join(HEADS_OF_TASKS)}")
        heads = HEADS_OF_TASKS[self.task]
        require_that(self.head in heads, "head", self.head, f"a head of the task {self.task}: {', '.join(heads)}")
        is_video, frames = self.task in VIDEO_TASKS, self.model.num_frames
        require_that(
            (frames is not None) == is_video, "model.num_frames", frames, "an integer for videos, and null for images"
        )
        transform = self.data.transform
        require_that(
            transform is None or transform.endswith("video_train") == is_video,
            "data.transform",
            transform,
            f"a transform of {'videos' if is_video else 'images'} for the task {self.task}",
        )
        ramp, config = self.model.distillation_ramp_epochs, self.model.config
        distils = config.get("use_momentum", True) and config.get("use_distill", True)
        require_that(
            ramp is None or bool(self.head in DISTILLED_HEADS and distils),
            "model.distillation_ramp_epochs",
            ramp,
            "null for a model without momentum distillation",
        )
        ranks = self.evaluation.ranks_answers
        require_that(
            not ranks or self.task == "vqa", "evaluation.ranks_answers", ranks, f"false for the task {self.task}"
        )
        decay = self.optimizer.layer_decay
        require_that(
            decay is None or "vision_model" not in self.model.frozen,
            "optimizer.layer_decay",
            decay,
            "null for an image encoder that is not trained (model.frozen)",
        )

    @property
    def family(self) -> str:
        """Model type of the family, for instance `"lavis_blip"`."""
        return next(family for prefix, family in _FAMILIES.items() if self.head.startswith(prefix))

    @property
    def global_batch_size(self) -> int:
        """Rows per step of the optimizer in the published run."""
        return self.run.train_batch_size * self.run.num_devices

    def plan_batches(
        self, num_devices: int = 1, train_batch_size: int | None = None, scaling: Scaling = "accumulate"
    ) -> BatchPlan:
        """
        Plan the batches for another number of devices or another batch size per device.

        Args:
            num_devices (`int`, *optional*, defaults to 1): devices of the user.
            train_batch_size (`int`, *optional*): rows per device in a forward pass; that of the recipe by default.
            scaling (`str`, *optional*, defaults to `"accumulate"`): `"accumulate"` accumulates gradients up to the
                published number of rows per step, or the nearest that fits; `"learning_rate"` takes smaller steps, with
                learning rates in proportion to the rows; `"none"` changes neither. Contrastive losses and hard
                negatives see the rows of a forward pass, not those of the accumulated ones.

        Raises:
            ValueError: a number is not positive, or `scaling` is unknown.
        """
        size = self.run.train_batch_size if train_batch_size is None else train_batch_size
        require_that(num_devices > 0, "num_devices", num_devices, "an integer from 1")
        require_that(size > 0, "train_batch_size", size, "an integer from 1")
        kinds = typing.get_args(Scaling)
        require_that(scaling in kinds, "scaling", scaling, f"one of {', '.join(kinds)}")
        rows, factor, accumulation = size * num_devices, 1.0, 1
        if scaling == "accumulate":
            accumulation = max(1, round(self.global_batch_size / rows))
        elif scaling == "learning_rate":
            factor = rows / self.global_batch_size
        return BatchPlan(size, accumulation, rows * accumulation, factor)

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """
        A copy with other values.

        Args:
            values (`Mapping[str, Any]`): values by dotted name, for instance `{"optimizer.learning_rate": 1e-4,
                "model.config.queue_size": 4096}`.

        Raises:
            ValueError: there is no such field, or the value is wrong.
        """
        content = self.to_dict()
        for name, value in values.items():
            *path, last = name.split(".")
            section = content
            for part in path:
                section = section.setdefault(part, {})
                if not isinstance(section, dict):
                    raise ValueError(f"There is no field {name} in a recipe: {part} is not a section.")
            section[last] = value
        return read_recipe(content, self.name, f"The recipe {self.name} with {', '.join(values)}")

    def to_dict(self) -> dict[str, Any]:
        """The content of a file with this recipe: JSON types, without the name and without defaults."""
        content = _without_defaults(self)
        del content["name"]
        return content

    def save(self, path: str | os.PathLike) -> None:
        """
        Write the recipe to a JSON file, completely or not at all.

        Args:
            path (`str` or `os.PathLike`): the file; replaced if it exists.
        """
        with whole_file(path) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package, in alphabetical order."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.json"))


def load_recipe(name_or_file: str | os.PathLike) -> Recipe:
    """
    Load a recipe.

    Args:
        name_or_file (`str` or `os.PathLike`): name of a recipe of [`list_recipes`], or a JSON file. A file may have the
            field `extends` with the name of another recipe, or its path relative to the file: it then holds only what
            differs from that. Objects are merged field by field, other values replaced.

    Raises:
        OSError: there is no such recipe, or the file cannot be read.
        ValueError: the file is not a recipe; the message names file, field and what was expected.
    """
    path = _find(name_or_file, Path())
    return read_recipe(_content(path, ()), path.stem, str(path))


def read_recipe(content: Mapping[str, Any], name: str, origin: str) -> Recipe:
    """
    Make a recipe from the content of a file.

    Args:
        content (`Mapping[str, Any]`): fields of [`Recipe`] without `name`.
        name (`str`): name of the recipe.
        origin (`str`): where the content comes from, for errors.

    Raises:
        ValueError: the content is not a recipe; the message names origin, field and what was expected.
    """
    try:
        if "name" in content:
            raise ValueError("The field name is not allowed; a recipe has the name of its file.")
        recipe: Recipe = _read(Recipe, {**content, "name": name}, "")
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error
    return recipe


def _find(name_or_file: str | os.PathLike, folder: Path) -> Path:
    given = os.fspath(name_or_file)
    own, path = RECIPE_FOLDER / f"{given}.json", folder / Path(given).expanduser()
    if os.path.basename(given) == given and own.is_file():
        return own
    if path.is_file():
        return path
    if path.suffix == ".json" or os.path.basename(given) != given:
        raise OSError(f"There is no recipe file {path}. Check the path, or give one of {', '.join(list_recipes())}.")
    raise OSError(f"There is no recipe {given!r}. Give a JSON file, or one of {', '.join(list_recipes())}.")


def _content(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The content of a file, merged into what it extends."""
    if path.resolve() in seen:
        raise ValueError(f"{path}: extends leads back to {path.name}; expected a recipe that does not extend this one.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_repeats)
    except (json.JSONDecodeError, UnicodeDecodeError, _RepeatedKey) as error:
        raise ValueError(f"{path}: it is not valid JSON: {error}. Correct it.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: it contains a {type(content).__name__}; expected an object.")
    base = content.pop("extends", None)
    if base is None:
        return content
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends is {base!r:.80}; expected the name or the file of a recipe.")
    try:
        found = _find(base, path.parent)
    except OSError as error:
        raise ValueError(f"{path}: extends is {base!r}. {error}") from error
    return _merged(_content(found, (*seen, path.resolve())), content)


class _RepeatedKey(ValueError):
    """A field that a JSON object has twice."""


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKey(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return content


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        result[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
    return result


# ---- reading and writing dataclasses ----


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read(kind: Any, content: Any, prefix: str) -> Any:
    """An instance of a dataclass from JSON values; `ValueError` names the field."""
    require_that(isinstance(content, Mapping), prefix.rstrip("."), content, "an object")
    known = {entry.name: entry for entry in fields(kind)}
    for name in content:
        if name not in known:
            names = ", ".join(entry for entry in known if entry != "name")
            raise ValueError(f"{prefix}{name} is not a field of a recipe; expected one of {names}.")
    for name, entry in known.items():
        if name not in content and entry.default is MISSING and entry.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing; expected {_expectation(_hints(kind)[name])}.")
    values = {name: _value(_hints(kind)[name], value, f"{prefix}{name}") for name, value in content.items()}
    return kind(**values)


def _value(hint: Any, value: Any, name: str) -> Any:
    """A JSON value as the type of a field; `ValueError` names the field."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return (
            None if value is None else _value(next(kind for kind in arguments if kind is not type(None)), value, name)
        )
    if is_dataclass(hint):
        return _read(hint, value, f"{name}.")
    if origin is Literal:
        is_right = value in arguments
    elif origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is ... and isinstance(value, (list, tuple)) else arguments
        if isinstance(value, (list, tuple)) and len(value) == len(kinds):
            return tuple(
                _value(kind, entry, f"{name}[{index}]") for index, (kind, entry) in enumerate(zip(kinds, value))
            )
        is_right = False
    elif hint is float:
        is_right = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if is_right else value
    elif hint is int:
        is_right = isinstance(value, int) and not isinstance(value, bool)
    else:
        is_right = isinstance(value, Mapping if origin is not None else hint)
    require_that(is_right, name, value, _expectation(hint))
    return value


def _expectation(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return f"{_expectation(next(kind for kind in arguments if kind is not type(None)))}, or null"
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        what = _TYPE_NAMES[arguments[0]].partition(" ")[2]
        return f"a list of {what}s" if arguments[-1] is ... else f"a list of {len(arguments)} {what}s"
    return _TYPE_NAMES.get(hint, "an object")


def _without_defaults(value: Any) -> dict[str, Any]:
    """Fields of a dataclass that differ from their defaults, as JSON types."""
    content: dict[str, Any] = {}
    for entry in fields(value):
        current = getattr(value, entry.name)
        default = entry.default_factory() if entry.default_factory is not MISSING else entry.default
        if current == default:
            continue
        content[entry.name] = _without_defaults(current) if is_dataclass(current) else _as_json(current)
    return content


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _as_json(entry) for name, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def describe_recipe(recipe: Recipe) -> dict[str, Any]:
    """All fields of a recipe with their defaults, as JSON types."""
    content: dict[str, Any] = _as_json(asdict(recipe))
    return content


__all__ = ["BatchPlan", "Recipe", "describe_recipe", "list_recipes", "load_recipe", "read_recipe"]
