"""Contract of saving and loading: round trips, partial checkpoints, and initialization of missing weights."""

import copy
import io
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from modeling_lavis.models.task_classification import ClassificationMixin
from tests.models.contract import Case, Contract, assert_same, assert_same_state, momentum_pairs, tensors_of

BUFFERS = ("image_queue", "text_queue", "idx_queue", "queue_ptr")


def without_saved_metadata(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the entries that transformers writes when it saves and loads."""
    ignored = ("dtype", "transformers_version", "_name_or_path", "architectures")
    return {
        name: without_saved_metadata(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in ignored
    }


def tied_groups(model: nn.Module) -> set[frozenset[str]]:
    """Groups of names that refer to the same parameter."""
    by_identity: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_identity.setdefault(id(parameter), set()).add(name)
    return {frozenset(names) for names in by_identity.values() if len(names) > 1}


def load(case: Case, model: PreTrainedModel, weights: dict[str, Tensor]) -> tuple[PreTrainedModel, dict[str, set[str]]]:
    """Load the class from a state dict, as from a repository with only these weights."""
    return case.model_class.from_pretrained(
        None, config=copy.deepcopy(model.config), state_dict=dict(weights), output_loading_info=True
    )


def plausible_subsets(names: list[str]) -> dict[str, set[str]]:
    """Keys of partial checkpoints: without one top-level module, one encoder alone, without momentum encoders, ..."""
    tops = list(dict.fromkeys(name.partition(".")[0] for name in names))
    subsets = {f"without {top}": {name for name in names if name.partition(".")[0] != top} for top in tops}
    for top in tops:
        if "encoder" in top or "vision_model" in top or "decoder" in top:
            subsets[f"only {top}"] = {name for name in names if name.partition(".")[0] == top}
    subsets["without momentum encoders and queues"] = {
        name for name in names if not name.partition(".")[0].endswith(("_m", "_queue", "_ptr"))
    }
    subsets["without cross-attention"] = {name for name in names if ".crossattention." not in name}
    subsets["without positions"] = {name for name in names if "pos_embed" not in name and "position" not in name}
    return {what: kept for what, kept in subsets.items() if kept and len(kept) < len(names)}


def assert_initialized(model: PreTrainedModel, missing: set[str]) -> None:
    """Weights that are missing in a checkpoint have the distribution of their initialization."""
    online_names = {momentum: online for online, momentum in momentum_pairs(model)}
    state = model.state_dict()
    for name in missing:
        value = state[name]
        leaf = name.rpartition(".")[2]
        if name in online_names:
            assert torch.equal(value, state[online_names[name]]), name
        elif name == "temp":
            assert value.item() == pytest.approx(model.config.logit_temperature)
        elif name in ("image_queue", "text_queue"):
            torch.testing.assert_close(value.norm(dim=0), torch.ones(value.shape[1]))
            assert value.std() > 0.1
        elif name == "queue_ptr":
            assert value.tolist() == [0]
        elif name == "idx_queue":
            assert bool((value == -100).all())
        elif "temporal_fc" in name or leaf == "time_embed":
            assert bool((value == 0).all()), name
        elif ("norm" in name.lower() or "ln_" in name) and leaf == "weight":
            assert bool((value == 1).all()), name
        elif leaf == "bias" or leaf.endswith("_bias"):
            assert bool((value == 0).all()), name
        else:
            assert 0.008 < value.std() < 0.032, f"{name}: {value.std()}"
            assert value.abs().max() < 0.12, name


#: heads whose checkpoints have everything that a head needs, by its name
COMPLETE = {
    "AlbefModel": {"AlbefForPreTraining", "AlbefForImageTextRetrieval"},
    "AlbefForImageTextRetrieval": {"AlbefForPreTraining"},
    "AlproModel": {"AlproForVideoTextRetrieval"},
    "LavisBlipModel": {"LavisBlipForPreTraining", "LavisBlipForImageTextRetrieval"},
    "LavisBlipForImageTextRetrieval": {"LavisBlipForPreTraining"},
    "LavisBlipForConditionalGeneration": {"LavisBlipForPreTraining"},
    "LavisBlipForQuestionAnswering": {"LavisBlipForPreTraining"},
    "LavisBlip2Model": {"LavisBlip2ForPreTraining", "LavisBlip2ForImageTextRetrieval"},
    "LavisBlip2ForImageTextRetrieval": {"LavisBlip2ForPreTraining"},
}


class SavingContract(Contract):
    """Round trips through files, and partial checkpoints."""

    def test_save_and_load(self, case: Case, tmp_path: Path) -> None:
        model = case.model()
        for index, name in enumerate(name for name in BUFFERS if hasattr(model, name)):
            getattr(model, name).fill_(index + 1)
        model.save_pretrained(tmp_path)
        again, info = case.model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert_same_state(again, model)
        assert tied_groups(again) == tied_groups(model)
        assert not again.training
        assert without_saved_metadata(again.config.to_dict()) == without_saved_metadata(model.config.to_dict())
        inputs = case.inputs(2)
        assert_same(again(**inputs, **_decoder_inputs(case)), model(**inputs, **_decoder_inputs(case)))

    def test_checkpoint_keys(self, case: Case, tmp_path: Path) -> None:
        model = case.model()
        model.save_pretrained(tmp_path)
        stored = load_file(tmp_path / "model.safetensors")
        names = set(model.state_dict())
        assert set(stored) <= names
        for group in tied_groups(model):
            assert len(group & set(stored)) == 1, group
        left_out = names - set(stored)
        assert left_out <= set(itertools.chain.from_iterable(tied_groups(model)))
        assert not any("position_ids" in name for name in stored)

    def test_sharded_checkpoint(self, case: Case, tmp_path: Path) -> None:
        model = case.model()
        model.save_pretrained(tmp_path, max_shard_size="20KB")
        assert len(list(tmp_path.glob("*.safetensors"))) > 1
        assert_same_state(case.model_class.from_pretrained(tmp_path), model)

    def test_partial_checkpoints(self, case: Case) -> None:
        model = case.model()
        state = model.state_dict()
        tied = {name: group for group in tied_groups(model) for name in group}
        subsets = plausible_subsets(list(state))
        assert len(subsets) > 3
        for what, kept in subsets.items():
            again, info = load(case, model, {name: state[name] for name in kept})
            assert not info["unexpected_keys"], what
            given = {name for name in state if name in kept or tied.get(name, frozenset()) & kept}
            loaded = again.state_dict()
            for name in given:
                assert torch.equal(loaded[name], state[name]), f"{what}: {name}"
            assert_initialized(again, set(state) - given)
            # momentum weights are filled from the online weights, so nothing is missing
            missing = {name for name in set(state) - given if not name.partition(".")[0].endswith("_m")}
            assert {name for name in info["missing_keys"] if name not in tied} == missing - set(tied), what

    def test_checkpoints_of_other_heads(self, case: Case, tmp_path: Path) -> None:
        """
        A head loads the checkpoint of any other as a start for training: shared weights are loaded, the rest is copied
        or initialized. Without `allow_new_weights`, the checkpoint has to have everything.
        """
        for other in self.cases:
            if other is case or getattr(other.config().text_config, "num_image_streams", 1) != 1:
                continue
            # the text hidden size, so that the shapes of cross-attention match
            source = other.model(vision={"hidden_size": 16})
            text = source.config.text_config
            if getattr(text, "num_image_streams", 1) != 1 or getattr(text, "pair_image_layers", False):
                continue  # the text encoder has other modules, for two images
            folder = tmp_path / other.name
            source.save_pretrained(folder)
            if issubclass(case.model_class, ClassificationMixin) and case.model_class.num_images == 2:
                with pytest.raises(ValueError, match=f"a model for one image .{other.model_class.__name__}.*convert"):
                    case.model_class.from_pretrained(folder)
            elif COMPLETE.get(case.name, frozenset()) & {other.name}:
                assert_same_state(
                    case.model_class.from_pretrained(folder),
                    case.model_class.from_pretrained(folder, allow_new_weights=True),
                )
            else:
                with pytest.raises(ValueError, match=f"{other.name}, which has .*allow_new_weights=True"):
                    case.model_class.from_pretrained(folder)
            made, info = case.model_class.from_pretrained(folder, output_loading_info=True, allow_new_weights=True)
            given, found = source.state_dict(), made.state_dict()
            tied = {name: group for group in tied_groups(made) for name in group}
            both = {name for name in given if name in found}
            assert both
            for name in both:
                if name in tied and not torch.equal(given[name], found[name]):
                    continue  # tied here but not in the source: one of the two values is loaded
                assert torch.equal(given[name], found[name]), f"{other.name}: {name}"
            assert all(bool(value.isfinite().all()) for value in found.values())
            copies = made.copied_weights()
            for name, origin in copies.items():
                assert torch.equal(found[name], found[origin]), f"{other.name}: {name}"
            momentum = {name.replace(".", "_m.", 1) for name in copies}
            assert_initialized(
                made, {n for n in info["missing_keys"] if n not in tied | given | copies.keys() | momentum}
            )
            run_options = {name: value for name, value in case.inputs(2).items() if torch.is_tensor(value)}
            made(**run_options, **_decoder_inputs(case))

    def test_momentum_parameters_are_frozen(self, case: Case, tmp_path: Path) -> None:
        model = case.model_class(case.config())
        model.save_pretrained(tmp_path)
        for made in (model, case.model_class.from_pretrained(tmp_path)):
            momentum_names = {momentum for _, momentum in momentum_pairs(made)}
            for name, parameter in made.named_parameters():
                frozen = name in momentum_names or name.partition(".")[0] in case.frozen
                assert parameter.requires_grad == (not frozen), name

    def test_new_momentum_parameters_equal_online_parameters(self, case: Case) -> None:
        model = case.model_class(case.config())
        state = model.state_dict()
        for online, momentum in momentum_pairs(model):
            assert torch.equal(state[online], state[momentum]), momentum

    def test_new_weights_are_initialized(self, case: Case) -> None:
        model = case.model_class(case.config())
        assert_initialized(model, set(model.state_dict()))
        embeddings = model.get_input_embeddings()
        assert not embeddings.weight[embeddings.padding_idx].any()

    def test_deepcopy_and_pickle(self, case: Case) -> None:
        model = case.model()
        inputs = case.inputs(2)
        expected = model(**inputs, **_decoder_inputs(case))
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        for made in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
            assert tied_groups(made) == tied_groups(model)
            assert_same_state(made, model)
            assert_same(made(**inputs, **_decoder_inputs(case)), expected)

    def test_device_map(self, case: Case, tmp_path: Path) -> None:
        pytest.importorskip("accelerate")
        model = case.model()
        model.save_pretrained(tmp_path)
        again = case.model_class.from_pretrained(tmp_path, device_map="auto")
        assert_same_state(copy.deepcopy(again).cpu(), model)
        device = next(again.parameters()).device
        inputs = {**case.inputs(2), **_decoder_inputs(case)}
        found = tensors_of(again(**{name: value.to(device) for name, value in inputs.items()}))
        # matrix products of an accelerator round otherwise
        tolerances = {} if device.type == "cpu" else {"atol": 1e-3, "rtol": 1e-2}
        assert_same({name: value.cpu() for name, value in found.items()}, tensors_of(model(**inputs)), **tolerances)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
    def test_half_precision_keeps_float32_modules(self, case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
        model = case.model()
        model.save_pretrained(tmp_path)
        again = case.model_class.from_pretrained(tmp_path, dtype=dtype)
        for name, value in again.state_dict().items():
            top = name.partition(".")[0]
            if top in case.float32_modules or top.endswith("_m"):
                assert value.dtype == torch.float32 and torch.equal(value, model.state_dict()[name])
            elif value.is_floating_point():
                assert value.dtype == dtype, name


def _decoder_inputs(case: Case) -> dict[str, Tensor]:
    """Additional inputs for a batch of two, for classes that need decoder inputs."""
    for options in case.modes.values():
        if "match_head" in options:
            return {}
        return {name: value[:2] for name, value in options.items() if torch.is_tensor(value)}
    return {}


__all__ = ["SavingContract", "assert_initialized", "plausible_subsets", "tied_groups"]
