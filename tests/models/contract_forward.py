"""Contract of the forward pass: attention implementations, optional outputs, dtypes, compilation, bad inputs."""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from modeling_lavis.models.transformers_compat import major_minor
from tests.models.contract import (
    Case,
    Contract,
    assert_same,
    changed_names,
    clone_state_dict,
    momentum_pairs,
    tensors_of,
)


def run(model: Any, call: dict[str, Any], seed: int = 0, **options: Any) -> Any:
    """A forward pass with a fixed seed."""
    torch.manual_seed(seed)
    return model(**call, **options)


def first_rows(call: dict[str, Any], batch: int) -> dict[str, Any]:
    """The first `batch` rows of every tensor."""
    return {name: value[:batch] if torch.is_tensor(value) else value for name, value in call.items()}


def assert_one_graph(model: Any, call: dict[str, Any]) -> None:
    """The call compiles without graph breaks and returns the same outputs."""
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert_same(run(compiled, call), run(model, call))


class ForwardContract(Contract):
    """Outputs of a forward pass."""

    def test_outputs_are_finite_and_deterministic(self, case: Case) -> None:
        model = case.model()
        for mode, call in case.calls():
            output = run(model, call)
            named = tensors_of(output)
            assert named, mode
            for name, value in named.items():
                assert not value.is_floating_point() or bool(value.isfinite().all()), f"{mode}: {name}"
            assert_same(run(model, call), output, atol=0, rtol=0)
            if mode == "loss" and case.training(3):
                assert next(iter(output)) == "loss" and output.loss.ndim == 0
                parts = [value for name, value in named.items() if name.startswith("loss_")]
                if parts:
                    torch.testing.assert_close(sum(parts), output.loss)
            else:
                assert "loss" not in output

    @pytest.mark.parametrize("padded", [True, False], ids=["padded", "unpadded"])
    def test_attention_implementations_agree(self, case: Case, padded: bool) -> None:
        model = case.model()
        assert model.config._attn_implementation == "sdpa"
        calls = {name: {**call, **case.inputs(3, padded=padded)} for name, call in case.calls()}
        for mode, options in case.modes.items():  # inputs that a mode sets to None stay None
            calls[mode].update(options)
        expected = {mode: run(model, call) for mode, call in calls.items()}
        unmasked = {mode: run(model, {**call, "attention_mask": None}) for mode, call in calls.items()}
        if not padded:
            for mode in calls:
                assert_same(unmasked[mode], expected[mode])
        model.set_attn_implementation("eager")
        for mode, call in calls.items():
            assert_same(run(model, call), expected[mode])
            assert_same(run(model, {**call, "attention_mask": None}), unmasked[mode])

    def test_padding_does_not_change_outputs(self, case: Case) -> None:
        model = case.model()
        for mode, call in case.calls():
            if call.get("attention_mask") is None or mode in ("loss", "decoder"):
                continue
            padded = dict(call)
            padded["input_ids"] = torch.nn.functional.pad(call["input_ids"], (0, 3), value=7)
            padded["attention_mask"] = torch.nn.functional.pad(call["attention_mask"], (0, 3))
            left, right = tensors_of(run(model, call)), tensors_of(run(model, padded))
            real = call["attention_mask"].bool()
            for name, value in left.items():
                other = right[name]
                if other.shape != value.shape:  # one entry per token
                    value, other = value[:, : real.shape[1]][real], other[:, : real.shape[1]][real]
                elif value.shape[:2] == real.shape:
                    value, other = value[real], other[real]
                torch.testing.assert_close(
                    other, value, atol=2e-5, rtol=1e-4, msg=lambda m, n=f"{mode} {name}": f"{n}: {m}"
                )

    def test_rows_are_independent(self, case: Case) -> None:
        model = case.model()
        for mode, call in case.calls():
            if mode == "loss":
                continue
            whole, single = tensors_of(run(model, call)), tensors_of(run(model, first_rows(call, 1)))
            for name, value in single.items():
                other = whole[name][:1]
                if name in ("logits_per_image", "logits_per_video", "logits_per_text"):
                    other = whole[name][:1, :1]
                torch.testing.assert_close(
                    value, other, atol=2e-5, rtol=1e-4, msg=lambda m, n=f"{mode} {name}": f"{n}: {m}"
                )

    def test_output_hidden_states_and_attentions(self, case: Case) -> None:
        model = case.model()
        model.set_attn_implementation("eager")
        config = model.config
        text_config = config.get_text_config()
        layers, text_layers = text_config.num_hidden_layers, getattr(text_config, "fusion_layer", None) or 0
        layer_counts = {layers, layers - text_layers, text_layers or layers}  # all layers, fusion layers, text layers
        for mode, call in case.calls():
            plain = run(model, call)
            assert not [name for name in plain if name.endswith(("hidden_states", "attentions"))], mode
            output = run(model, call, output_hidden_states=True, output_attentions=True)
            recorded = {name: value for name, value in output.items() if name.endswith(("hidden_states", "attentions"))}
            assert_same({name: value for name, value in output.items() if name not in recorded}, dict(plain))
            has_images = call.get(case.pixel_name) is not None and call.get("encoder_outputs") is None
            assert has_images == ("vision_hidden_states" in recorded) == ("vision_attentions" in recorded), mode
            has_text = any(call.get(name) is not None for name in ("input_ids", "decoder_input_ids", "labels"))
            image_tokens = 0
            if has_images:
                states, weights = recorded["vision_hidden_states"], recorded["vision_attentions"]
                assert len(states) - 1 == len(weights) == config.vision_config.num_hidden_layers, mode
                image_tokens = weights[-1].shape[-1]
                assert all(part.shape[-2:] == weights[-1].shape[-2:] for part in weights), mode
            if has_text:
                prefix = "" if "hidden_states" in recorded else "decoder_"
                states, weights = recorded[f"{prefix}hidden_states"], recorded[f"{prefix}attentions"]
                assert len(states) - 1 == len(weights) and len(weights) in layer_counts, mode
                for part in weights:  # self-attention, of the first token alone in the last layer of some heads
                    assert part.ndim == 4 and part.shape[-1] in (part.shape[-2], weights[0].shape[-1]), mode
            for name, value in recorded.items():
                assert isinstance(value, tuple) and value, f"{mode}: {name}"
                if name.endswith("attentions"):
                    for part in value:
                        assert part.shape[-3] == 2, f"{mode}: {name} has no dimension of two heads"
                        torch.testing.assert_close(part.sum(-1), torch.ones(part.shape[:-1]))
            for part in recorded.get("cross_attentions", ()):
                assert len(recorded["cross_attentions"]) <= layers, mode
                assert part.ndim == (5 if getattr(text_config, "num_image_streams", 1) == 2 else 4), mode
                if image_tokens and not hasattr(model, "text_decoder") and not hasattr(model, "language_model"):
                    assert part.shape[-1] == image_tokens, mode
            config.output_hidden_states = True
            by_config = run(model, call)
            assert {name for name in recorded if name.endswith("hidden_states")} <= set(by_config), mode
            refused = run(model, call, output_hidden_states=False)
            assert not [name for name in refused if name.endswith("hidden_states")], mode
            config.output_hidden_states = False

    def test_selected_hidden_states(self, case: Case) -> None:
        model = case.model()
        for mode, call in case.calls():
            if major_minor(transformers.__version__) < (5, 23):
                with pytest.raises(ValueError, match="transformers>=5.23"):
                    run(model, call, output_hidden_states=[0, -1])
                continue
            whole = run(model, call, output_hidden_states=True)
            selected = run(model, call, output_hidden_states=[0, -1])
            for name in (name for name in whole if name.endswith("hidden_states") and name != "encoder_hidden_states"):
                if hasattr(model, "language_model") and not name.startswith("vision"):
                    continue  # transformers' own models
                kept = [index for index, state in enumerate(selected[name]) if state is not None]
                assert kept == [0, len(whole[name]) - 1], f"{mode}: {name}"
                for index in kept:
                    assert torch.equal(selected[name][index], whole[name][index]), f"{mode}: {name}"

    def test_unknown_options_raise(self, case: Case) -> None:
        model = case.model()
        for mode, call in case.calls():
            for name in ("use_itm_head", "match_heads", "image_embed", "inputs_embeds"):
                with pytest.raises(TypeError, match=rf"{case.name}.forward got the option '{name}'"):
                    run(model, call, **{name: True})
                assert_same(run(model, call, **{name: None}), run(model, call), atol=0, rtol=0), mode

    def test_return_dict_false(self, case: Case) -> None:
        model = case.model()
        calls = dict(case.calls())
        expected = {mode: run(model, call) for mode, call in calls.items()}
        for mode, call in calls.items():
            output = run(model, call, return_dict=False)
            assert isinstance(output, tuple)
            assert_same(output, expected[mode].to_tuple())
        model.config.return_dict = False
        for mode, call in calls.items():
            assert isinstance(run(model, call), tuple), mode

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
    def test_half_precision(self, case: Case, dtype: torch.dtype, tmp_path: Any) -> None:
        case.model().save_pretrained(tmp_path)
        model = case.model_class.from_pretrained(tmp_path, dtype=dtype).eval()
        exact = case.model()
        for mode, call in case.calls():
            expected, actual = tensors_of(run(exact, call)), tensors_of(run(model, call))
            assert actual.keys() == expected.keys()
            for name, value in actual.items():
                assert bool(value.isfinite().all()), f"{mode}: {name}"
                if not name.startswith("loss"):
                    is_float32_module = len(case.float32_modules) > 3 and value.dtype == torch.float32
                    is_feature = name.endswith("_features") and value.dtype == torch.float32
                    assert value.dtype == dtype or is_float32_module or is_feature or name.startswith("logits"), name
                    error = (value.float() - expected[name]).abs().mean() / expected[name].abs().mean()
                    assert error < 0.05, f"{mode}: {name} is off by {error}"

    @pytest.mark.parametrize("dtype", [torch.bfloat16])
    def test_autocast(self, case: Case, dtype: torch.dtype) -> None:
        model = case.model().train()
        call = {**case.inputs(3), **case.training(3)}
        with torch.autocast("cpu", dtype):
            output = run(model, call)
        loss = output.loss if "loss" in output else next(iter(tensors_of(output).values())).float().sum()
        loss.backward()
        found = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        assert any(bool(value.any()) for value in found.values())
        for name, value in found.items():
            assert bool(value.isfinite().all()), name

    @pytest.mark.slow
    def test_compiles_to_one_graph(self, case: Case) -> None:
        model = case.model(text={"num_hidden_layers": 1}, vision={"num_hidden_layers": 1})
        for mode, call in case.calls():
            if mode != "loss" or case.training_compiles:
                assert_one_graph(model, call)

    def test_first_case_compiles_to_one_graph(self) -> None:
        case = self.cases[0]  # the slow test above covers all cases and modes
        _, call = next(case.calls())
        assert_one_graph(case.model(text={"num_hidden_layers": 1}, vision={"num_hidden_layers": 1}), call)

    def test_resize_token_embeddings(self, case: Case, tmp_path: Any) -> None:
        model = case.model()
        old = model.config.get_text_config().vocab_size
        before = clone_state_dict(model)
        model.resize_token_embeddings(old + 7)
        assert model.config.get_text_config().vocab_size == old + 7
        tables = {name for name, value in before.items() if value.ndim and value.shape[0] == old}
        assert tables
        after = model.state_dict()
        for name, value in after.items():
            rows = value[:old] if name in tables else value
            assert value.shape[0] == old + 7 if name in tables else True, f"{name} has {value.shape[0]} rows"
            assert torch.equal(rows, before[name]), name
        for online, momentum in momentum_pairs(model):
            assert after[online].shape == after[momentum].shape, momentum
            assert not model.get_parameter(momentum).requires_grad
        calls = dict(case.calls())
        for mode, call in calls.items():
            if call.get("input_ids") is not None:
                call["input_ids"] = call["input_ids"].clone()
                call["input_ids"][0, 1] = old + 3
            run(model.train() if mode == "loss" else model.eval(), call)
        model.eval().save_pretrained(tmp_path)
        again = case.model_class.from_pretrained(tmp_path)
        for call in calls.values():
            assert_same(run(again, call), run(model, call))
        model.resize_token_embeddings(old)
        assert model.state_dict().keys() == before.keys()
        assert all(value.shape == before[name].shape for name, value in model.state_dict().items())

    def test_interpolate_pos_encoding(self, case: Case) -> None:
        model = case.model()
        for _, call in case.calls():
            if call.get(case.pixel_name) is None:
                continue
            for height, width in ((48, 48), (32, 64)):
                other_pixels = torch.randn(*call[case.pixel_name].shape[:-2], height, width)
                other = {**call, case.pixel_name: other_pixels}
                output = run(model, other, interpolate_pos_encoding=True)
                embeds = output.get("image_embeds")
                if embeds is not None and case.returns_image_tokens:
                    assert embeds.shape[-2] == (height // 16) * (width // 16) + 1
                with pytest.raises(ValueError, match=rf"{height} x {width}.*interpolate_pos_encoding"):
                    run(model, other)
            odd = {**call, case.pixel_name: torch.randn(*call[case.pixel_name].shape[:-2], 40, 40)}
            with pytest.raises(ValueError, match="multiples of the patch size"):
                run(model, odd, interpolate_pos_encoding=True)

    def test_missing_inputs_raise(self, case: Case) -> None:
        model = case.model()
        with pytest.raises(ValueError, match="pixel_values|input_ids"):
            model()
        for mode, call in case.calls():
            if mode == "decoder":
                continue
            for name in case.required:
                if mode == "itc" and name == "input_ids":  # pipelines encode images without texts
                    assert_same(
                        run(model, {**call, name: None}),
                        {"image_embeds": run(model, call).image_embeds},
                        atol=0,
                        rtol=0,
                    )
                    continue
                with pytest.raises(ValueError, match=name):
                    run(model, {**call, name: None})

    def test_invalid_inputs_raise(self, case: Case) -> None:
        model = case.model()
        for mode, call in case.calls():
            images, ids = call.get(case.pixel_name), call.get("input_ids")
            bad: list[tuple[dict[str, Any], str]] = []
            if images is not None:
                bad += [
                    ({case.pixel_name: images[..., 0]}, rf"Got {case.pixel_name} of shape .3, .*expected"),
                    (
                        {case.pixel_name: images.flatten(0, 1)[..., 0]},
                        rf"Got {case.pixel_name} of shape .[69], .*expected|got 9 images and 3 texts",
                    ),
                    (
                        {case.pixel_name: images[..., :1, :, :]},
                        rf"Got {case.pixel_name} of shape .*1, 32, 32.*expected",
                    ),
                    ({case.pixel_name: (images * 10).to(torch.uint8)}, rf"Got {case.pixel_name} of shape .*uint8"),
                ]
            if ids is not None and mode != "decoder":
                bad += [
                    ({"input_ids": ids.float()}, "input_ids.*float32"),
                    ({"input_ids": ids[0]}, r"input_ids of shape \(6,\)"),
                    (
                        {"input_ids": ids.repeat(1, 10), "attention_mask": None},
                        "60 tokens.*40 position embeddings|labels of shape .3, 6. for captions of shape .3, 60.",
                    ),
                    ({"attention_mask": call["attention_mask"][:, :-1]}, r"an attention_mask of shape \(3, 5\)"),
                    ({"attention_mask": call["attention_mask"][:, None]}, r"an attention_mask of shape \(3, 1, 6\)"),
                    ({"input_ids": ids.tolist()}, "input_ids of type list"),
                    ({"input_ids": ids[:0], "attention_mask": None}, r"input_ids of shape \(0, 6\).*at least one"),
                ]
            if images is not None and ids is not None and mode not in ("itc", "vtc", "decoder"):
                counts = (
                    r"\b2 (images|videos)\b.*\b3 (texts|questions)\b|\b3 (text rows|texts|prompts)\b.*\b2 (image|vide)"
                )
                bad += [({case.pixel_name: images[:2]}, counts)]
            for name in ("image_ids", "labels"):
                if name in call:
                    bad += [
                        ({name: call[name][:-1]}, r"Got (labels of shape .2|2 image_ids)|describe .* 3 rows of labels")
                    ]
            assert bad, mode
            for change, pattern in bad:
                with pytest.raises(ValueError, match=pattern):
                    run(model, {**call, **change})

    def test_batch_of_one(self, case: Case) -> None:
        model = case.model()
        for options in case.modes.values():
            run(model, first_rows({**case.inputs(1), **options}, 1))
        call = {**case.inputs(1), **case.training(1)}
        if case.needs_negatives:
            with pytest.raises(ValueError, match="two different images"):
                run(model.train(), call)
        else:
            run(model.train(), call)

    def test_inference_does_not_change_the_state(self, case: Case) -> None:
        model = case.model()
        before = clone_state_dict(model)
        for _, call in case.calls():
            with torch.no_grad():
                run(model, call)
        assert not changed_names(model, before)

    def test_inputs_are_not_modified(self, case: Case) -> None:
        model = case.model()
        for mode, call in case.calls():
            before: dict[str, Tensor] = {name: value.clone() for name, value in call.items() if torch.is_tensor(value)}
            run(model.train() if mode == "loss" else model.eval(), call)
            for name, value in before.items():
                assert torch.equal(call[name], value), f"{mode}: {name}"

    def test_token_type_ids_are_accepted(self, case: Case) -> None:
        model = case.model()
        for _, call in case.calls():
            if call.get("input_ids") is not None:
                types = torch.zeros_like(call["input_ids"])
                assert_same(run(model, {**call, "token_type_ids": types}), run(model, call), atol=0, rtol=0)


__all__ = ["ForwardContract", "run"]
