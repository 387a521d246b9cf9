# SPDX-License-Identifier: Apache-2.0
"""Everything that depends on details of transformers outside its public API, or on its version.

[`VERSION_DIFFERENCES`] lists the code that only some versions of the dependencies need. Code elsewhere asks for no
version: it imports from here what differs.

[`PRIVATE_API`] lists the private names that this package overrides or calls, with the parameters that it relies on and
the reason. A test compares the table with the installed version and names the entry that changed. Class attributes that
transformers documents for authors of models (`_init_weights`, `_no_split_modules`, `_tied_weights_keys`, ...) and of
pipelines (`_forward`, `_sanitize_parameters`, ...) are not listed.

The key/value cache is called `past_key_values` up to transformers 5.23 and `cache` in later versions: as an argument of
`forward`, as a field of outputs and among the inputs of a decoding step. Models accept both names and return the
installed version's; inside the models it is `past_key_values`.
"""

import functools
import importlib.metadata
import inspect
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor, nn
from transformers import GenerationConfig
from transformers.cache_utils import Cache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer as _CheckpointingLayer
from transformers.utils import output_capturing

try:
    from transformers.video_processing_utils import VideoProcessorMixin
except ImportError:
    from transformers.video_processing_utils import BaseVideoProcessor as VideoProcessorMixin
try:
    from huggingface_hub.utils import httpx
except ImportError:
    import httpx  # type: ignore[no-redef]
try:
    from transformers.utils.hub import resolve_revision
except ImportError:  # earlier versions ask for every file by the name of the revision
    resolve_revision = None


class VersionDifference(NamedTuple):
    """
    Code that only some versions of a dependency need.

    Args:
        place (`str`): the name of the code, with its file in this folder.
        package (`str`): the dependency.
        below (`str`): first version that does not need the code, which goes when it is the lowest that is supported.
        reason (`str`): what differs.
    """

    place: str
    package: str
    below: str
    reason: str


VERSION_DIFFERENCES: tuple[VersionDifference, ...] = (
    VersionDifference(
        "configuration_base.SubConfigSpec",
        "transformers",
        "5.20",
        "parts of a configuration are declared by their classes alone, and the configuration builds them itself",
    ),
    VersionDifference(
        "transformers_compat.VideoProcessorMixin",
        "transformers",
        "5.20",
        "the base of video processors that need no torchvision; before, all of them needed it",
    ),
    VersionDifference(
        "transformers_compat.register_video_processor",
        "transformers",
        "5.20",
        "AutoVideoProcessor has one class for a configuration, not one for each backend",
    ),
    VersionDifference(
        "transformers_compat.options_of_generate",
        "transformers",
        "5.20",
        "pipelines merge options of generate with the model's when they are made, and take `top_k` for one of them",
    ),
    VersionDifference(
        "transformers_compat.resolve_revision",
        "transformers",
        "5.18",
        "files are asked for by the name of the revision, so that a repository can change between two of them",
    ),
    VersionDifference(
        "transformers_compat.merged_processor_options",
        "transformers",
        "5.23",
        "default options are read from the class that lists the options, not from attributes of the processor",
    ),
    VersionDifference(
        "transformers_compat.capture_outputs",
        "transformers",
        "5.23",
        "hidden states cannot be selected by their number",
    ),
    VersionDifference(
        "transformers_compat.GradientCheckpointingLayer",
        "transformers",
        "5.24",
        "layers drop the cache in training mode with checkpointing, also without gradient; not so in 5.24",
    ),
    VersionDifference(
        "transformers_compat.httpx",
        "huggingface-hub",
        "1.31",
        "the client for HTTP, whose errors opening a URL raises, is not named by huggingface_hub",
    ),
    VersionDifference(
        "transformers_compat.check_offloading",
        "accelerate",
        "1.15",
        "offloaded weights are wrong, so that loading them raises an error",
    ),
    VersionDifference(
        "transformers_compat.CACHE_NAME",
        "transformers",
        "5.24",
        "the key/value cache is called past_key_values; models accept both names",
    ),
    VersionDifference(
        "transformers_compat.keep_special_tokens",
        "transformers",
        "5.24",
        "a Trainer assigns None to the special tokens of a configuration that the tokenizer lacks; not so in 5.24",
    ),
)


class PrivateName(NamedTuple):
    """
    One private name of transformers.

    Args:
        path (`str`): dotted path, from the module to the attribute.
        parameters (`tuple[str, ...]` or `None`): parameters that the package passes or overrides; `None` for a name
            that is not called.
        reason (`str`): what it is needed for.
    """

    path: str
    parameters: tuple[str, ...] | None
    reason: str


_GENERATION = "transformers.generation.utils.GenerationMixin"
_AUTO = "transformers.models.auto.auto_factory"
_PROCESSOR = "transformers.processing_utils.ProcessorMixin"
_BACKENDS = "transformers.image_processing_backends"

PRIVATE_API: tuple[PrivateName, ...] = (
    PrivateName(
        f"{_GENERATION}._expand_inputs_for_generation",
        ("expand_size", "is_encoder_decoder", "input_ids", "model_kwargs"),
        "encoder hidden states keep one row per image, whatever the number of beams",
    ),
    PrivateName(
        f"{_GENERATION}._prepare_cache_for_generation",
        ("generation_config", "model_kwargs", "generation_mode", "batch_size", "max_cache_length"),
        "the cross-attention cache keeps one row per image; the Q-Former's cache starts with the query tokens",
    ),
    PrivateName(
        f"{_GENERATION}._prefill",
        ("input_ids", "generation_config", "model_kwargs"),
        "a prompt runs once per image, not once per beam",
    ),
    PrivateName(
        f"{_GENERATION}._beam_search",
        ("input_ids", "logits_processor", "stopping_criteria", "generation_config", "synced_gpus", "model_kwargs"),
        "the loop of the original's beam search, with other scores",
    ),
    PrivateName(
        f"{_GENERATION}._update_finished_beams",
        (
            "sequences",
            "topk_running_sequences",
            "beam_scores",
            "topk_log_probs",
            "beam_indices",
            "is_early_stop_heuristic_unsatisfied",
            "is_sent_finished",
            "next_token_hits_stopping_criteria",
            "top_num_beam_mask",
            "num_beams",
            "cur_len",
            "decoder_prompt_len",
            "length_penalty",
            "early_stopping",
        ),
        "the original's length normalization of finished hypotheses",
    ),
    PrivateName(
        f"{_GENERATION}._check_early_stop_heuristic",
        (
            "is_early_stop_heuristic_unsatisfied",
            "running_beam_scores",
            "beam_scores",
            "is_sent_finished",
            "cur_len",
            "max_length",
            "decoder_prompt_len",
            "early_stopping",
            "length_penalty",
        ),
        "the original's stopping rule looks at all candidates of a step",
    ),
    PrivateName(
        "transformers.modeling_utils.PreTrainedModel._can_set_attn_implementation",
        (),
        "transformers searches the model's source file for the attention interface, which is in a shared file here",
    ),
    PrivateName(
        "transformers.modeling_utils.PreTrainedModel._from_config",
        ("config",),
        "submodels inherit dtype and attention implementation",
    ),
    PrivateName(
        "transformers.configuration_utils.PreTrainedConfig._auto_class",
        None,
        "configurations of repositories with code name it when they are saved again",
    ),
    PrivateName(
        f"{_AUTO}._LazyAutoMapping",
        ("config_mapping", "model_mapping"),
        "mapping of this package's own Auto classes",
    ),
    PrivateName(f"{_AUTO}._BaseAutoModelClass", None, "base of this package's own Auto classes"),
    PrivateName(f"{_AUTO}._BaseAutoModelClass._model_mapping", None, "which Auto classes know a head"),
    PrivateName(
        f"{_PROCESSOR}._get_arguments_from_pretrained",
        ("pretrained_model_name_or_path", "processor_dict", "kwargs"),
        "repositories in transformers' own format load into this package's image processor",
    ),
    PrivateName(
        f"{_PROCESSOR}._load_tokenizer_from_pretrained",
        ("sub_processor_type", "pretrained_model_name_or_path", "kwargs"),
        "the tokenizer loads as transformers loads it",
    ),
    PrivateName(
        f"{_PROCESSOR}._merge_kwargs",
        ("ModelProcessorKwargs", "tokenizer_init_kwargs", "kwargs"),
        "options of a call are merged as in other processors",
    ),
    PrivateName(
        "transformers.image_processing_utils.BaseImageProcessor._validate_preprocess_kwargs",
        ("kwargs",),
        "the background of transparent images is checked with the other options",
    ),
    PrivateName(
        f"{_BACKENDS}.PilBackend._preprocess_image_like_inputs",
        ("images", "kwargs"),
        "pairs of images are flattened and paired again",
    ),
    PrivateName(
        f"{_BACKENDS}.PilBackend._preprocess",
        ("images", "return_tensors", "kwargs"),
        "images are processed one at a time, so that one full-size image is held at once",
    ),
    PrivateName(
        f"{_BACKENDS}.TorchvisionBackend._preprocess",
        ("images", "return_tensors", "kwargs"),
        "images of a call are processed together, after opening them by this package's rules",
    ),
)


# ---- names of the key/value cache ----

_OLD_CACHE_NAME, _NEW_CACHE_NAME = "past_key_values", "cache"

CACHE_NAME = _NEW_CACHE_NAME if _NEW_CACHE_NAME in inspect.signature(create_causal_mask).parameters else _OLD_CACHE_NAME
CACHE_NAMES = (_OLD_CACHE_NAME, _NEW_CACHE_NAME)


def accepts_cache(forward: Callable[..., Any]) -> Callable[..., Any]:
    """
    Decorator of a `forward` with an argument `past_key_values`: `cache` is another name for it.

    Raises:
        TypeError: both names are given.
    """

    @functools.wraps(forward)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if _NEW_CACHE_NAME in kwargs:
            given = kwargs.pop(_NEW_CACHE_NAME)
            if kwargs.get(_OLD_CACHE_NAME) is not None:
                raise TypeError(
                    f"Got {_OLD_CACHE_NAME} and {_NEW_CACHE_NAME}, which are two names of one argument; pass one."
                )
            kwargs[_OLD_CACHE_NAME] = given
        return forward(*args, **kwargs)

    return wrapper


def cache_field(output_class: type) -> type:
    """Decorator of an output, below `@dataclass`: adds the cache as its last field, `None` by default."""
    output_class.__annotations__ = {**output_class.__annotations__, CACHE_NAME: Cache | None}
    setattr(output_class, CACHE_NAME, None)
    return output_class


def cache_output(cache: Cache | None) -> dict[str, Cache | None]:
    """The cache as a keyword argument of an output."""
    return {CACHE_NAME: cache}


def cache_of_layer(layer: nn.Module, cache: Cache | None) -> Cache | None:
    """`cache`, or `None` for a layer that the backward pass runs again, which would fill it twice."""
    recomputed = layer.training and torch.is_grad_enabled() and getattr(layer, "gradient_checkpointing", False)
    return None if recomputed else cache


class GradientCheckpointingLayer(_CheckpointingLayer):
    """transformers' layer, which up to 5.10 leaves the cache out in training mode, also where nothing is run again."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return nn.Module.__call__(self, *args, **kwargs)
        return super().__call__(*args, **kwargs)


# ---- hidden states ----


def selected_hidden_states(selection: Any) -> list[int] | None:
    """The numbers in `output_hidden_states`, or `None` for a flag."""
    if selection is None or isinstance(selection, bool):
        return None
    return [selection] if isinstance(selection, int) else list(selection)


def _capture_all_outputs(forward: Any = None, *, tie_last_hidden_states: bool = True) -> Any:
    """transformers' decorator, which would ignore numbers of hidden states; here they raise an error."""
    if forward is None:
        return functools.partial(_capture_all_outputs, tie_last_hidden_states=tie_last_hidden_states)
    capture = output_capturing.capture_outputs(forward, tie_last_hidden_states=tie_last_hidden_states)

    @functools.wraps(forward)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        selection = kwargs.get("output_hidden_states")
        if selected_hidden_states(selection) is not None:
            raise ValueError(
                f"output_hidden_states is {selection!r:.80}; numbers of hidden states need transformers>=5.23, and "
                f"{transformers.__version__} is installed. Pass True for all of them, or install a newer version."
            )
        return capture(self, *args, **kwargs)

    return wrapper


#: decorator of the `forward` of an encoder, which records hidden states and attention weights
capture_outputs: Any = (
    output_capturing.capture_outputs if hasattr(output_capturing, "selected_hidden_states") else _capture_all_outputs
)


# ---- processors ----


def merged_processor_options(processor: Any, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """
    Options of a processor's parts for a call, by part, over those of the tokenizer and the defaults of the processor.

    Args:
        processor (`ProcessorMixin`): the processor; its defaults are the property `text_kwargs`.
        options (`Mapping[str, Any]`): options of the call.
    """
    kinds = processor.valid_processor_kwargs
    if _reads_defaults_from_kinds(type(processor)._merge_kwargs):
        kinds = SimpleNamespace(
            __annotations__=kinds.__annotations__, _defaults={"text_kwargs": dict(processor.text_kwargs)}
        )
    return processor._merge_kwargs(kinds, tokenizer_init_kwargs=processor.tokenizer.init_kwargs, **options)


@functools.cache
def _reads_defaults_from_kinds(merge: Callable[..., Any]) -> bool:
    kinds = inspect.signature(merge).parameters["ModelProcessorKwargs"]
    return kinds.default is inspect.Parameter.empty


# ---- pipelines ----


def initialize_pipeline(pipeline: Any, initialize: Callable[..., None], options: dict[str, Any]) -> None:
    """
    Call the constructor of a pipeline's base class, so that options of `generate` are kept for the pipeline's calls.

    Args:
        pipeline (`Pipeline`): the pipeline.
        initialize (`Callable`): the constructor.
        options (`dict[str, Any]`): its arguments.
    """
    if hasattr(pipeline, "_prepare_generate_kwargs") or not pipeline._pipeline_calls_generate:
        initialize(**options)
        return
    # The constructor would take everything that has the name of an option of `generate`.
    own = {name: options.pop(name) for name in getattr(pipeline, "_non_generation_params", ()) if name in options}
    names = {name for name in vars(GenerationConfig()) if not name.startswith("_")} | {"generation_config"}
    pipeline._generate_kwargs = {name: options.pop(name) for name in names & options.keys()}
    initialize(**options)
    steps = (pipeline._preprocess_params, pipeline._forward_params, pipeline._postprocess_params)
    for known, more in zip(steps, pipeline._sanitize_parameters(**own)):
        known.update(more)


def options_of_generate(pipeline: Any, given: dict[str, Any], **fixed: Any) -> dict[str, Any]:
    """
    Options of `generate` for a call of a pipeline: `fixed` ones, those of the call, those of the pipeline, and its
    defaults for what neither of them nor the model states.
    """
    if hasattr(pipeline, "_prepare_generate_kwargs"):
        return pipeline._prepare_generate_kwargs(given, **fixed)
    options = dict(given) if "generation_config" in given else {**pipeline._generate_kwargs, **given}
    configs = [pipeline.model.generation_config, options.get("generation_config")]
    stated = set(options).union(*(config.to_diff_dict() for config in configs if config is not None))
    default = getattr(pipeline, "_default_generation_config", None)
    defaults = {} if default is None else default.to_diff_dict()
    for name in ("transformers_version", *(("max_new_tokens",) if "max_length" in stated else ())):
        defaults.pop(name, None)
    return {**{name: value for name, value in defaults.items() if name not in stated}, **options, **fixed}


# ---- loading and saving ----


def execution_device(model: nn.Module) -> torch.device | None:
    """The device on which accelerate runs a model whose weights it offloads; `None` without its hooks."""
    for module in model.modules():
        for hook in _accelerate_hooks(module):
            device = getattr(hook, "execution_device", None)
            if device is not None and torch.device(device).type != "meta":
                return torch.device(device)
    return None


def parameter_outside_forward(module: nn.Module, name: str) -> Tensor:
    """A parameter of a module whose forward pass is not running, for which accelerate would load offloaded weights."""
    value: Tensor = getattr(module, name)
    if not value.is_meta:
        return value
    for hook in _accelerate_hooks(module):
        weights = getattr(hook, "weights_map", None)
        if weights is not None and name in weights:
            return weights[name].to(hook.execution_device, value.dtype)
    return value


def _accelerate_hooks(module: nn.Module) -> list[Any]:
    return _single_hooks(getattr(module, "_hf_hook", None))


def _single_hooks(hook: Any) -> list[Any]:
    return list(getattr(hook, "hooks", [hook]))


def major_minor(version: str) -> tuple[int, ...]:
    """The first two numbers of a version, also of a release candidate such as 1.15rc1."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def keep_special_tokens(config_class: type) -> None:
    """
    Let configurations of a class keep their special tokens where a Trainer assigns `None` to them.

    BERT's tokenizer has no `eos_token`, whose id is that of `[SEP]` in the configurations, and configurations refuse
    `None`, so that no Trainer could start with a processor.

    Args:
        config_class (`type`): a configuration with `tokenizer_fields`; others are left alone.
    """
    is_older = major_minor(transformers.__version__) < (5, 24)
    fields = getattr(config_class, "tokenizer_fields", ())
    assign: Any = config_class.__setattr__
    if not is_older or not fields or getattr(assign, "keeps_special_tokens", False):
        return

    def keeping(self: Any, name: str, value: Any) -> None:
        if value is not None or name not in fields or vars(self).get(name) is None:
            assign(self, name, value)

    keeping.keeps_special_tokens = True  # type: ignore[attr-defined]
    config_class.__setattr__ = keeping  # type: ignore[assignment, method-assign]


def check_offloading(model: nn.Module) -> None:
    """Raise `ImportError` for a model whose weights are offloaded, if accelerate is too old to do so correctly."""
    if not any(getattr(hook, "offload", False) for module in model.modules() for hook in _accelerate_hooks(module)):
        return
    installed = importlib.metadata.version("accelerate")
    if major_minor(installed) < (1, 15):
        raise ImportError(
            f"Weights of {type(model).__name__} are offloaded, which needs accelerate>=1.15, and {installed} is "
            'installed. Run: pip install --upgrade "accelerate>=1.15", or load without offloading.'
        )


def offload_in_shape(hook: Any, name: str, shape: torch.Size) -> None:
    """
    Let accelerate's hook load an offloaded parameter in its shape, where state dicts and files have another one.

    Args:
        hook: hook of accelerate that a module gets.
        name (`str`): parameter of this module.
        shape (`torch.Size`): its shape.
    """
    for single in _single_hooks(hook):
        weights = getattr(single, "weights_map", None)
        if weights is not None and not isinstance(weights, _InShape):
            single.weights_map = _InShape(weights, name, shape)


class _InShape(Mapping[str, Tensor]):
    """Offloaded weights, one of which is returned in another shape. Its other attributes are those of the original."""

    def __init__(self, weights: Mapping[str, Tensor], name: str, shape: torch.Size) -> None:
        self._weights, self._name, self._shape = weights, name, shape

    def __getitem__(self, name: str) -> Tensor:
        value = self._weights[name]
        return value.reshape(self._shape) if name == self._name else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._weights, name)


def keep_offloaded_parameters_in_float32(model: nn.Module) -> None:
    """
    Make `_keep_in_fp32_modules_strict` hold for parameters that are offloaded to disk, too.

    transformers writes their dtype into the offload index before it applies that rule.
    """
    exact = {part.strip("^$") for part in getattr(model, "_keep_in_fp32_modules_strict", None) or ()}
    indices: dict[int, dict[str, dict[str, Any]]] = {}
    for module in model.modules():
        for hook in _accelerate_hooks(module):
            index = getattr(getattr(getattr(hook, "weights_map", None), "dataset", None), "index", None)
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
def torchao_metadata_of_modules_only(quantizer: Any) -> Iterator[None]:
    """
    Leave tensors that belong to no module (query tokens, temperatures) out of the metadata that torchao saves.

    Its reader splits every name in that table at a dot; tensors without an entry are read as plain tensors.
    """
    flatten = getattr(quantizer, "get_state_dict_and_metadata", None)
    if flatten is None:
        yield
        return

    def flatten_and_filter(model: Any) -> tuple[Any, dict[str, str]]:
        state, table = flatten(model)
        if "tensor_names" in table:
            names = [name for name in json.loads(table["tensor_names"]) if "." in name]
            table = {name: value for name, value in table.items() if "." in name or name == "tensor_names"}
            table["tensor_names"] = json.dumps(names)
        return state, table

    quantizer.get_state_dict_and_metadata = flatten_and_filter
    try:
        yield
    finally:
        del quantizer.get_state_dict_and_metadata


@contextmanager
def without_remembered_renaming(model: nn.Module, enabled: bool) -> Iterator[None]:
    """
    Save in the original format by all rules of the model, not only by those that were used to load it.

    transformers remembers the renaming rules that loading applied and reverses only those when it saves.
    """
    used = model.__dict__.pop("_weight_conversions", None) if enabled else None
    try:
        yield
    finally:
        if used is not None:
            model._weight_conversions = used


def return_logits_on_input_device(model: nn.Module) -> None:
    """Let a model that is spread over several devices return its logits on the device of its inputs."""
    hook = getattr(model, "_hf_hook", None)
    if hook is not None:
        hook.io_same_device = True


def register_video_processor(config_class: type, processor_class: type) -> None:
    """Register a video processor that needs no torchvision with `AutoVideoProcessor`."""
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    register: Any = AutoVideoProcessor.register
    if "video_processor_classes" in inspect.signature(register).parameters:
        # under both backends: the Auto class looks for "torchvision" first
        classes = {"pil": processor_class, "torchvision": processor_class}
        register(config_class, video_processor_classes=classes, exist_ok=True)
    else:
        register(config_class, processor_class, exist_ok=True)


def with_pinned_revision(source: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """
    Options of `from_pretrained` whose `revision` is the commit that it names now.

    A load reads several files, and a repository on the Hub can change between two of them. transformers does the same
    once for every `from_pretrained`; a revision that is a commit already stays as it is.

    Args:
        source (`str` or `os.PathLike`): folder or Hub id; folders have no revisions.
        options (`Mapping[str, Any]`): arguments of `from_pretrained`.
    """
    options = dict(options)
    if resolve_revision is None or source is None:
        return options
    access = {
        name: options[name] for name in ("token", "local_files_only", "cache_dir") if options.get(name) is not None
    }
    revision = resolve_revision(source, options.get("revision"), **access)
    return options if revision is None else {**options, "revision": revision}


def empty_auto_mapping() -> Any:
    """Mapping of an Auto class that knows no model yet."""
    from transformers.models.auto.auto_factory import _LazyAutoMapping
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


__all__ = [
    "CACHE_NAME",
    "CACHE_NAMES",
    "PRIVATE_API",
    "VERSION_DIFFERENCES",
    "GradientCheckpointingLayer",
    "PrivateName",
    "VersionDifference",
    "VideoProcessorMixin",
    "accepts_cache",
    "cache_field",
    "cache_of_layer",
    "cache_output",
    "capture_outputs",
    "check_offloading",
    "empty_auto_mapping",
    "execution_device",
    "httpx",
    "initialize_pipeline",
    "keep_offloaded_parameters_in_float32",
    "keep_special_tokens",
    "major_minor",
    "merged_processor_options",
    "offload_in_shape",
    "options_of_generate",
    "parameter_outside_forward",
    "register_video_processor",
    "return_logits_on_input_device",
    "selected_hidden_states",
    "torchao_metadata_of_modules_only",
    "with_pinned_revision",
    "without_remembered_renaming",
]
