# SPDX-License-Identifier: Apache-2.0
"""`mix`: several data sets as one, with sampling ratios and options of texts for each, as in LAVIS's pretraining."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from modeling_lavis.data.columns import ORIGIN, DataError
from modeling_lavis.data.rows import content_id
from modeling_lavis.import_utils import require
from modeling_lavis.models.processing_image_text import answer_shares
from modeling_lavis.models.tokenization_lavis import CLEANINGS, clean_text

STOPPING_STRATEGIES = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement")

_TEXTS = ("caption", "question", "sentence")
_IDS = ("image_id", "video_id")


@dataclass(frozen=True)
class TextOptions:
    """
    What is done to the texts of one data set of a mixture.

    Args:
        cleaning (`str`, *optional*): `"caption"` or `"question"`; unchanged by default, since collators clean, too.
        max_words (`int`, *optional*): number of words that the cleaning keeps; all by default.
        prompt (`str`, *optional*, defaults to `""`): text in front of captions, questions and statements.
        weight (`float`, *optional*): factor of the weights of answers, e.g. 0.2 for Visual Genome.
    """

    cleaning: str | None = None
    max_words: int | None = None
    prompt: str = ""
    weight: float | None = None

    def __post_init__(self) -> None:
        if self.cleaning is not None and self.cleaning not in CLEANINGS:
            raise ValueError(f"cleaning is {self.cleaning!r}; expected one of {CLEANINGS}, or None.")
        if self.max_words is not None and self.max_words < 1:
            raise ValueError(f"max_words is {self.max_words}; expected a positive number, or None.")
        if self.max_words is not None and self.cleaning is None:
            raise ValueError(
                f"max_words is {self.max_words} without a cleaning; give cleaning 'caption' or 'question'."
            )
        if self.weight is not None and not self.weight > 0:
            raise ValueError(f"weight is {self.weight}; expected a positive number.")


def mix(
    datasets: Sequence[Any],
    probabilities: Sequence[float] | None = None,
    seed: int = 0,
    text_options: Sequence[Mapping[str, Any] | None] | None = None,
    stopping_strategy: str = "all_exhausted",
) -> Any:
    """
    Mix data sets of one task.

    The order of the sources follows from the seed alone: the same arguments give the same mixture. A map-style mixture
    is resumed by the Trainer's sampler, a streaming one by its `state_dict`, with those of its sources in it. Other
    than in LAVIS, which takes each batch from one data set, the rows of a batch are mixed.

    Args:
        datasets (`Sequence[datasets.Dataset | IterableDataset]`):
            data sets of [`load_data`] for the same task. If one is streaming, the mixture is, too.
        probabilities (`Sequence[float]`, *optional*):
            sampling ratio of each data set, as LAVIS's `sample_ratio`: positive numbers, of any sum. By default, all
            rows of map-style data sets come once per epoch, so that ratios are those of the sizes; streaming data sets,
            whose sizes are unknown, are sampled equally often.
        seed (`int`, *optional*, defaults to 0): seed of the choice of a data set for each row.
        text_options (`Sequence[Mapping]`, *optional*):
            options of each data set, or `None` for none: `cleaning`, `max_words`, `prompt`, `weight`; see
            [`TextOptions`].
        stopping_strategy (`str`, *optional*, defaults to `"all_exhausted"`):
            with ratios: `"all_exhausted"` ends an epoch when every row of every data set came at least once and
            starts shorter data sets again; `"first_exhausted"` ends it when the first data set is; with
            `"all_exhausted_without_replacement"`, every row comes once.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: the mixture. Image and video ids get the number of their data
        set in front, so that equal ids of different data sets are not taken for one image. If some data sets have ids,
        the rows without one get one.

    Raises:
        ValueError: numbers of arguments differ, a ratio is not positive, or an option is unknown.
        DataError: the data sets have different types of a column.
    """
    library: Any = require("datasets", extra="train", purpose="mixtures")
    if not len(datasets):
        raise ValueError("There are no data sets to mix.")
    for name, values in (("probabilities", probabilities), ("text_options", text_options)):
        if values is not None and len(values) != len(datasets):
            raise ValueError(f"{len(values)} {name} do not fit {len(datasets)} data sets; give one for each.")
    if probabilities is not None and not all(0 < ratio < float("inf") for ratio in probabilities):
        raise ValueError(f"probabilities are {list(probabilities)}; expected positive numbers.")
    if stopping_strategy not in STOPPING_STRATEGIES:
        raise ValueError(f"stopping_strategy is {stopping_strategy!r}; expected one of {STOPPING_STRATEGIES}.")
    options = [_text_options(entry or {}) for entry in (text_options or [None] * len(datasets))]
    streaming = any(isinstance(dataset, library.IterableDataset) for dataset in datasets)
    sources = [_with_features(dataset, streaming, library) for dataset in datasets]
    features = _common_features(sources, options, len(sources) > 1, library)
    sources = [
        _adapted(source, options[index], index if len(sources) > 1 else None, features, library)
        for index, source in enumerate(sources)
    ]
    if len(sources) == 1:
        return sources[0]
    if probabilities is None and not streaming:
        return library.concatenate_datasets(sources)
    ratios = [1.0] * len(sources) if probabilities is None else list(map(float, probabilities))
    return library.interleave_datasets(
        sources,
        probabilities=[ratio / sum(ratios) for ratio in ratios],
        seed=seed,
        stopping_strategy=stopping_strategy,
    )


def _text_options(given: Mapping[str, Any]) -> TextOptions:
    known = [field.name for field in fields(TextOptions)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"text_options has {unknown}; expected {', '.join(known)}.")
    return TextOptions(**given)


def _with_features(dataset: Any, streaming: bool, library: Any) -> Any:
    """The data set, streaming if the mixture is, with known types of columns."""
    if isinstance(dataset, library.Dataset):
        return dataset.to_iterable_dataset() if streaming else dataset
    if not isinstance(dataset, library.IterableDataset):
        raise ValueError(f"Got {type(dataset).__name__}; expected data sets of load_data.")
    if dataset.features is not None:
        return dataset
    first = list(dataset.take(100))
    if not first:
        raise DataError("A data set of the mixture has no rows.")
    return dataset.cast(library.Dataset.from_list(first).features)


def _common_features(sources: Sequence[Any], options: Sequence[TextOptions], many: bool, library: Any) -> Any:
    found: dict[str, Any] = {}
    for index, source in enumerate(sources):
        for name, feature in source.features.items():
            feature = library.Value("string") if many and name in _IDS else feature
            common = _common(found.get(name, feature), feature, library)
            if common is None:
                raise DataError(
                    f"The column {name!r} of data set {index} is {feature}, and {found[name]} in those before; load all"
                    " of them with load_data for the same task."
                )
            found[name] = common
    if any(option.weight is not None for option in options):
        if "answer" not in found:
            raise DataError("text_options has a weight, but the data sets have no answers.")
        found["answer"] = library.List(library.Value("string"))
        found["weight"] = library.List(library.Value("float64"))
    return library.Features(found)


def _common(first: Any, second: Any, library: Any) -> Any:
    """A type that holds the values of both, `None` if there is none."""
    if first == second:
        return first
    media = (library.Image, library.Video)
    for one, other in ((first, second), (second, first)):
        if isinstance(one, library.List):
            inner = _common(one.feature, other.feature if isinstance(other, library.List) else other, library)
            return None if inner is None else library.List(inner)
        if isinstance(one, media) and isinstance(other, library.Value) and other.dtype == "string":
            return type(one)(decode=False)
        if isinstance(one, library.Value) and isinstance(other, library.Value):
            numbers = ("int64", "int32", "float64", "float32")
            if one.dtype == "null":
                return other
            if one.dtype == "string" and other.dtype in numbers[:2]:
                return one
            if one.dtype in numbers and other.dtype in numbers:
                return library.Value("float64")
    if isinstance(first, media) and type(first) is type(second):
        return type(first)(decode=False)
    return None


class RowAdapter:
    """
    Makes rows of a data set rows of a mixture: options of texts, ids, and values of the common types.

    Args:
        options ([`TextOptions`]): options of the data set.
        number (`int`, *optional*): number of the data set; `None` if ids are kept.
        features (`datasets.Features`): types of the mixture.
        heavy (`Sequence[str]`, *optional*): columns to leave alone.
    """

    def __init__(self, options: TextOptions, number: int | None, features: Any, heavy: Sequence[str] = ()) -> None:
        self.options = options
        self.number = number
        self.heavy = set(heavy)
        # also for the columns that the data set lacks
        self.lists = {name: hasattr(feature, "feature") for name, feature in features.items()}
        self.encoded = {name for name, feature in features.items() if hasattr(_inner(feature), "decode")}
        self.texts = {name for name, feature in features.items() if getattr(feature, "dtype", None) == "string"}

    def __call__(self, row: Mapping[str, Any], position: int | None = None) -> dict[str, Any]:
        """
        Make a row of the mixture.

        Args:
            row (`Mapping[str, Any]`): row of the data set.
            position (`int`, *optional*): its position, for map-style data sets, whose encoded images it lacks.
        """
        made = {name: self._value(name, row.get(name)) for name in self.lists if name not in self.heavy}
        if "prompt" in made and made["prompt"] is None:
            made["prompt"] = ""  # rows of a batch have one, or none of them has
        for name in _IDS:
            if self.number is not None and name in made and made[name] is None:
                own = content_id(row.get(name.removesuffix("_id")), str(row.get(ORIGIN)))
                # rows of a batch have an id, or none of them has
                made[name] = f"{self.number}:{own if position is None else f'row {position}'}"
        if self.options.weight is not None and made["answer"] is not None:
            answers, shares = made["answer"], made["weight"]
            if shares is None:
                answers, shares = answer_shares(answers)
            made["answer"], made["weight"] = answers, [share * self.options.weight for share in shares]
        return made

    def _value(self, name: str, value: Any) -> Any:
        if value is None:
            return None
        if name in _IDS and self.number is not None:
            return f"{self.number}:{value}"
        if self.lists[name] and not isinstance(value, (list, tuple)):
            value = [value]
        if name in self.encoded:
            return [_as_file(entry) for entry in value] if isinstance(value, (list, tuple)) else _as_file(value)
        if name in _TEXTS:
            return [self._text(text) for text in value] if isinstance(value, (list, tuple)) else self._text(value)
        return str(value) if name in self.texts and isinstance(value, int) else value

    def _text(self, text: str) -> str:
        return self.options.prompt + clean_text(text, self.options.cleaning, self.options.max_words)


def _adapted(source: Any, options: TextOptions, number: int | None, features: Any, library: Any) -> Any:
    """The data set with the rows of a mixture; encoded images and videos of map-style ones are not copied."""
    if isinstance(source, library.IterableDataset):
        return source.map(RowAdapter(options, number, features), features=features)
    heavy = [name for name, feature in source.features.items() if _is_encoded(feature, library)]
    light = library.Features({name: feature for name, feature in features.items() if name not in heavy})
    adapter = RowAdapter(options, number, features, heavy)
    rest = source.remove_columns(heavy).map(adapter, features=light, with_indices=True)
    if not heavy:
        return rest
    media = source.select_columns(heavy).cast(library.Features({name: features[name] for name in heavy}))
    return library.concatenate_datasets([media, rest], axis=1)


def _is_encoded(feature: Any, library: Any) -> bool:
    return isinstance(_inner(feature), (library.Image, library.Video))


def _inner(feature: Any) -> Any:
    """The type of the entries of a list; the type itself otherwise."""
    return getattr(feature, "feature", feature)


def _as_file(value: Any) -> Any:
    # streaming data sets do not do this
    return {"bytes": None, "path": value} if isinstance(value, str) else value


__all__ = ["STOPPING_STRATEGIES", "RowAdapter", "TextOptions", "mix"]
