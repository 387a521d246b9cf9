"""Compatibility with transformers: private API that the package depends on, and the names of the key/value cache."""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from packaging.version import Version
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel, ProcessorMixin
from transformers.cache_utils import DynamicCache
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.models.auto import auto_factory

import modeling_lavis
from modeling_lavis.models.configuration_text import LavisBertConfig
from modeling_lavis.models.outputs import LavisGenerationOutput, LavisPreTrainingOutput
from modeling_lavis.models.text_bert import LavisBertModel
from modeling_lavis.models.transformers_compat import (
    CACHE_NAME,
    CACHE_NAMES,
    PRIVATE_API,
    VERSION_DIFFERENCES,
    PrivateName,
    VersionDifference,
    _capture_all_outputs,
    check_offloading,
    initialize_pipeline,
    keep_special_tokens,
    options_of_generate,
)
from tests.release.agreement import LOWEST, pins

PACKAGE = Path(modeling_lavis.__file__).parent

# ---- private API of transformers ----

#: Classes whose private names the package must list in PRIVATE_API when it uses them.
WATCHED_CLASSES = (
    GenerationMixin,
    PreTrainedModel,
    ProcessorMixin,
    PilBackend,
    TorchvisionBackend,
    auto_factory._BaseAutoModelClass,
    auto_factory._LazyAutoMapping,
)

#: Hooks that transformers documents for authors of models and pipelines.
DOCUMENTED_HOOKS = frozenset(
    {
        "_attn_implementation",
        "_can_compile_fullgraph",
        "_can_record_outputs",
        "_forward",
        "_init_weights",
        "_keep_in_fp32_modules",
        "_keep_in_fp32_modules_strict",
        "_keys_to_ignore_on_load_missing",
        "_keys_to_ignore_on_load_unexpected",
        "_no_split_modules",
        "_sanitize_parameters",
        "_skip_keys_device_placement",
        "_supports_attention_backend",
        "_supports_flash_attn",
        "_supports_flex_attn",
        "_supports_sdpa",
        "_tied_weights_keys",
    }
)


def resolve(path: str) -> Any:
    """The object at a dotted path: the longest prefix that is a module, then attributes."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            found = getattr(found, name)
        return found
    raise AttributeError(f"no module at the start of {path}")


@pytest.mark.parametrize("entry", PRIVATE_API, ids=lambda entry: entry.path.rpartition(".")[2])
def test_private_api_exists_with_its_parameters(entry: PrivateName) -> None:
    needed_for = f"{entry.path} is needed for: {entry.reason}"
    try:
        found = resolve(entry.path)
    except AttributeError as error:
        pytest.fail(f"transformers has no {entry.path} any more ({error}). {needed_for}")
    if entry.parameters is None:
        return
    parameters = inspect.signature(found).parameters
    takes_any_keyword = any(value.kind is inspect.Parameter.VAR_KEYWORD for value in parameters.values())
    missing = [
        name
        for name in entry.parameters
        if name not in parameters and not (name in ("model_kwargs", "kwargs") and takes_any_keyword)
    ]
    assert not missing, f"{entry.path}{inspect.signature(found)} has no parameters {missing}. {needed_for}"


def test_private_api_lists_every_name_once() -> None:
    paths = [entry.path for entry in PRIVATE_API]
    assert len(paths) == len(set(paths))
    assert all(entry.reason for entry in PRIVATE_API)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_of_transformers() -> dict[str, str]:
    """Private attributes of the watched classes and of `auto_factory`, with where they are defined."""
    names = {name: auto_factory.__name__ for name in vars(auto_factory) if is_private(name)}
    for watched in WATCHED_CLASSES:
        for base in watched.__mro__:
            if base.__module__.startswith("transformers"):  # not torch.nn.Module
                for name in (*vars(base), *vars(base).get("__annotations__", {})):
                    if is_private(name):
                        names.setdefault(name, base.__qualname__)
    return names


def used_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Names and lines of attribute accesses, methods, class attributes, and names imported from transformers."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield statement.name, statement.lineno
                elif isinstance(statement, ast.Assign | ast.AnnAssign):
                    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
                    yield from ((target.id, target.lineno) for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ATTRIBUTE_FUNCTIONS:
            if len(node.args) > 1 and isinstance(node.args[1], ast.Constant) and isinstance(node.args[1].value, str):
                yield node.args[1].value, node.lineno
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("transformers"):
            yield from ((alias.name, node.lineno) for alias in node.names)


_ATTRIBUTE_FUNCTIONS = {"getattr", "setattr", "hasattr", "delattr"}


def test_used_private_names_are_listed() -> None:
    private = private_names_of_transformers()
    listed = {entry.path.rpartition(".")[2] for entry in PRIVATE_API}
    unlisted = [
        f"{path.relative_to(PACKAGE.parent)}:{line}: {name} of {private[name]}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name, line in used_names(ast.parse(path.read_text(encoding="utf-8")))
        if name in private and name not in listed | DOCUMENTED_HOOKS
    ]
    assert not unlisted, (
        "The package uses private names of transformers. List them in PRIVATE_API in models/transformers_compat.py, or "
        "rename them if they are the package's own:\n" + "\n".join(unlisted)
    )


def test_listed_private_names_are_used() -> None:
    used = {name for path in PACKAGE.rglob("*.py") for name, _ in used_names(ast.parse(path.read_text("utf-8")))}
    assert [entry.path for entry in PRIVATE_API if entry.path.rpartition(".")[2] not in used] == []


def test_every_form_of_use_is_found() -> None:
    source = """
from transformers.generation.utils import _a
class Model(Base):
    _b = 1
    _c: int = 2
    def _d(self):
        return self._e, getattr(self, "_f", None), setattr(self, "_g", 1)
"""
    assert {name for name, _ in used_names(ast.parse(source))} == {"_a", "_b", "_c", "_d", "_e", "_f", "_g"}


# ---- versions ----


@pytest.mark.parametrize("entry", VERSION_DIFFERENCES, ids=lambda entry: entry.place.rpartition(".")[2])
def test_version_differences_are_in_the_code_and_still_needed(entry: VersionDifference) -> None:
    module, _, name = entry.place.partition(".")
    assert name in vars(importlib.import_module(f"modeling_lavis.models.{module}")), entry.place
    lowest = pins(LOWEST.read_text(encoding="utf-8"))[entry.package]
    assert Version(lowest) < Version(entry.below), f"{entry.place} can go: {entry.package} {lowest} is the lowest"
    assert entry.reason


def test_no_other_file_asks_for_a_version() -> None:
    asking = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "transformers_compat.py"
        for compared in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(compared, ast.Compare)
        for node in ast.walk(compared)
        if isinstance(node, ast.Attribute)
        and node.attr == "__version__"
        and isinstance(node.value, ast.Name)
        and node.value.id in ("torch", "transformers", "huggingface_hub", "accelerate", "peft", "datasets")
    ]
    assert asking == []


def test_special_tokens_stay_where_trainers_assign_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Config:
        tokenizer_fields = ("eos_token_id",)

        def __setattr__(self, name: str, value: int | None) -> None:
            if value is None:
                raise TypeError(name)
            vars(self)[name] = value

    refusing = Config.__setattr__
    # the module that the package imported: transformers replaces its own in sys.modules, which may happen afterwards
    installed = vars(inspect.getmodule(keep_special_tokens))["transformers"]
    monkeypatch.setattr(installed, "__version__", "5.24.0")
    keep_special_tokens(Config)
    assert Config.__setattr__ is refusing
    monkeypatch.setattr(installed, "__version__", "5.10.1")
    for _ in range(2):  # one model after the other
        keep_special_tokens(Config)
    config = Config()
    config.eos_token_id = 102
    config.eos_token_id = None
    assert config.eos_token_id == 102
    with pytest.raises(TypeError, match="other"):
        config.other = None


def test_offloaded_weights_need_a_recent_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.14.2")
    check_offloading(model)
    next(iter(model.children()))._hf_hook = SimpleNamespace(offload=True)
    with pytest.raises(ImportError, match=r"LavisBertModel are offloaded.*accelerate>=1\.15, and 1\.14\.2"):
        check_offloading(model)
    for version in ("1.15.0", "1.15rc1", "1.16.dev0", "2.0"):
        monkeypatch.setattr("importlib.metadata.version", lambda name, version=version: version)
        check_offloading(model)


def test_hidden_states_cannot_be_selected_without_support() -> None:
    class Encoder:
        config = SimpleNamespace(output_hidden_states=False)

    forward = _capture_all_outputs(lambda self, **kwargs: kwargs)
    for selection in (1, [0, -1]):
        with pytest.raises(ValueError, match=r"numbers of hidden states need transformers>=5\.23"):
            forward(Encoder(), output_hidden_states=selection)


class OldPipeline:
    """What pipelines of older versions have: they keep options of `generate` as a configuration, and the others."""

    _pipeline_calls_generate = True
    _non_generation_params = ("top_k",)
    _default_generation_config = GenerationConfig(num_beams=3, max_new_tokens=10)
    model = SimpleNamespace(generation_config=GenerationConfig())

    def start(self, **options: Any) -> None:
        self.started = options
        self._preprocess_params, self._forward_params, self._postprocess_params = self._sanitize_parameters()

    def _sanitize_parameters(self, top_k: int | None = None) -> tuple[dict, dict, dict]:
        return {}, {}, {} if top_k is None else {"top_k": top_k}


def test_options_of_older_pipelines() -> None:
    pipe = OldPipeline()
    initialize_pipeline(pipe, pipe.start, {"task": "a", "top_k": 2, "num_beams": 5})
    assert pipe.started == {"task": "a"}
    assert pipe._postprocess_params == {"top_k": 2}
    assert options_of_generate(pipe, {}, fixed=1) == {"num_beams": 5, "max_new_tokens": 10, "fixed": 1}
    assert options_of_generate(pipe, {"max_length": 4, "num_beams": 1}) == {"num_beams": 1, "max_length": 4}
    config = GenerationConfig(num_beams=2)
    assert options_of_generate(pipe, {"generation_config": config}) == {
        "generation_config": config,
        "max_new_tokens": 10,
    }


# ---- key/value cache ----


def tiny_model() -> LavisBertModel:
    config = LavisBertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    return LavisBertModel(config)


@pytest.mark.parametrize("name", CACHE_NAMES)
def test_model_accepts_both_cache_names(name: str) -> None:
    model = tiny_model().eval()
    ids = torch.tensor([[2, 5, 6, 7]])
    cache = DynamicCache(config=model.config)
    whole = model(ids, causal=True).last_hidden_state
    model(ids[:, :3], causal=True, **{name: cache})
    output = model(ids[:, 3:], causal=True, **{name: cache})
    assert torch.allclose(output.last_hidden_state, whole[:, 3:], atol=1e-6)
    assert output[CACHE_NAME] is cache


def test_two_caches_raise() -> None:
    model = tiny_model()
    caches = {name: DynamicCache(config=model.config) for name in CACHE_NAMES}
    with pytest.raises(TypeError, match="two names of one argument"):
        model(torch.tensor([[2, 5]]), causal=True, **caches)


@pytest.mark.parametrize("output_class", [LavisGenerationOutput, LavisPreTrainingOutput])
def test_outputs_with_cache_field(output_class: type) -> None:
    cache = DynamicCache()
    output = output_class(loss=torch.zeros(()), **{CACHE_NAME: cache})
    assert list(output) == ["loss", CACHE_NAME]
    assert output.past_key_values is cache
    assert output_class().to_tuple() == ()


def test_activation_checkpointing_does_not_fill_the_cache() -> None:
    model = tiny_model().train()
    model.gradient_checkpointing_enable()
    cache = DynamicCache(config=model.config)
    model(torch.tensor([[2, 5, 6]]), causal=True, past_key_values=cache).last_hidden_state.sum().backward()
    assert cache.get_seq_length() == 0
