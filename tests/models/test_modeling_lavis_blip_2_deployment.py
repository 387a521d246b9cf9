"""BLIP-2 with large language models: device maps, offloading, memory, quantization, LoRA, compilation."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modeling_lavis import LavisBlip2Config, LavisBlip2ForConditionalGeneration
from modeling_lavis.models.configuration_lavis_blip_2 import MODULES_NOT_TO_QUANTIZE
from modeling_lavis.models.memory import TunedLinear
from modeling_lavis.training.lora_targets import LORA_TARGET_MODULES
from tests.models.lavis_blip_2_cases import (
    LANGUAGE_MODELS,
    blip_2_config,
    pixels,
    prompts,
    second_stage,
    trainable_modules,
)

KINDS = pytest.mark.parametrize("kind", ["opt", "t5"])
UNSPLIT_BLOCKS = {"EvaBlock", "QFormerLayer", "OPTDecoderLayer", "T5Block"}
OPT_2_7B = {
    "model_type": "opt",
    "hidden_size": 2560,
    "word_embed_proj_dim": 2560,
    "ffn_dim": 10240,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


def image_prompt(kind: str) -> dict[str, Any]:
    """Two images with prompts of different lengths."""
    return {"pixel_values": pixels(2), **prompts(2, pad=LANGUAGE_MODELS[kind]["pad_token_id"])}


def logits(model: Any, kind: str) -> torch.Tensor:
    decoder_inputs = {"decoder_input_ids": torch.tensor([[0, 5, 6], [0, 7, 8]])} if kind == "t5" else {}
    with torch.no_grad():
        return model(**image_prompt(kind), **decoder_inputs).logits


def test_device_map_of_opt_2_7b() -> None:
    accelerate = pytest.importorskip("accelerate")
    with torch.device("meta"):
        model = LavisBlip2ForConditionalGeneration(LavisBlip2Config(text_config=OPT_2_7B))
    assert 3.7e9 < sum(p.numel() for p in model.parameters()) < 3.8e9
    assert 1.0e8 < sum(p.numel() for p in model.parameters() if p.requires_grad) < 1.1e8
    model.vision_model.half(), model.language_model.half()
    sizes = accelerate.utils.compute_module_sizes(model)
    gigabytes = sizes[""] / 2**30
    assert 7.0 < gigabytes < 7.8, "frozen parts in half precision"
    limit = {0: "3GiB", 1: "3GiB", "cpu": "10GiB"}
    placed = accelerate.infer_auto_device_map(model, limit, no_split_module_classes=list(model._no_split_modules))
    assert set(placed.values()) == {0, 1, "cpu"}
    for device in (0, 1):
        assert sum(sizes[name] for name, where in placed.items() if where == device) <= 3 * 2**30
    blocks = [name for name, module in model.named_modules() if type(module).__name__ in UNSPLIT_BLOCKS]
    assert len(blocks) == 39 + 12 + 32
    assert not [name for name in placed for block in blocks if name.startswith(f"{block}.")], "a block was split"


@KINDS
def test_offload_to_disk(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", minversion="1.15")
    model = second_stage(kind)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    memory = sum(p.numel() * p.element_size() for p in model.parameters()) // 2
    placed = LavisBlip2ForConditionalGeneration.from_pretrained(
        tmp_path / "model",
        device_map="auto",
        max_memory={"cpu": memory, "disk": 10 * memory},
        offload_folder=tmp_path / "disk",
    )
    assert set(placed.hf_device_map.values()) == {"cpu", "disk"}
    torch.testing.assert_close(logits(placed, kind), logits(model, kind))
    for beams in (1, 3):
        options = {**image_prompt(kind), "max_new_tokens": 5, "num_beams": beams}
        assert torch.equal(placed.generate(**options), model.generate(**options))


@KINDS
def test_offloaded_float32_modules(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", minversion="1.15")
    second_stage(kind).save_pretrained(tmp_path / "model")
    whole = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    device_map = {name: "disk" for name, _ in whole.named_children()} | {"query_tokens": "cpu", "vision_model": "cpu"}
    placed = LavisBlip2ForConditionalGeneration.from_pretrained(
        tmp_path / "model", dtype=torch.bfloat16, device_map=device_map, offload_folder=tmp_path / "disk"
    )
    assert {name for name, value in placed.named_parameters() if value.is_meta}
    assert [value.dtype for value in placed.parameters()] == [value.dtype for value in whole.parameters()]
    assert torch.equal(logits(placed, kind), logits(whole, kind))
    options = {**image_prompt(kind), "max_new_tokens": 5}
    assert torch.equal(placed.generate(**options), whole.generate(**options))


@pytest.mark.parametrize("kind", ["opt", pytest.param("t5", marks=pytest.mark.slow)])
def test_compiles_to_one_graph(kind: str) -> None:
    model = second_stage(kind)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(logits(compiled, kind), logits(model, kind))


@KINDS
@pytest.mark.parametrize("beams", [1, 3])
def test_static_cache(kind: str, beams: int) -> None:
    model = second_stage(kind)
    options = {**image_prompt(kind), "max_new_tokens": 6, "num_beams": beams}
    assert torch.equal(model.generate(**options, cache_implementation="static"), model.generate(**options))


# ---- loading: a new process prints how much memory it took ----

MEASURE = """
import re, sys, torch
from modeling_lavis import LavisBlip2ForConditionalGeneration
def now(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
before = now("VmRSS")
model = LavisBlip2ForConditionalGeneration.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
for value in model.parameters():
    value.sum()  # memory-mapped files count once they are read
weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
print("MEASURED", weights, now("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("parts", ["all parts", "frozen parts elsewhere"])
def test_peak_memory_of_loading(parts: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 768, "num_hidden_layers": 8, "num_attention_heads": 12}
    config = blip_2_config(language_model="opt", vision={**sizes, "mlp_ratio": 4.0})
    for name, value in {**sizes, "ffn_dim": 3072, "word_embed_proj_dim": 768, "vocab_size": 30000}.items():
        setattr(config.text_config, name, value)
    model = LavisBlip2ForConditionalGeneration(config)
    model.vision_model.bfloat16(), model.language_model.bfloat16()
    frozen = None
    if parts == "frozen parts elsewhere":
        frozen = {name: str(tmp_path / name) for name in ("vision_model", "language_model")}
        for name, folder in frozen.items():
            getattr(model, name).save_pretrained(folder, max_shard_size="50MB")
    model.save_pretrained(tmp_path / "model", max_shard_size="50MB", frozen_parts=frozen)
    del model
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"MEASURED (\S+) (\S+)", done.stdout)
    assert found, done.stderr
    weights, peak = map(float, found.groups())
    assert weights > 250
    assert peak < 1.25 * weights, (weights, peak)


# ---- quantization ----

QUANTIZATION = ["torchao 8 bit", "bitsandbytes 8 bit", "bitsandbytes 4 bit"]


def quantization_config(name: str) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    skipped = list(MODULES_NOT_TO_QUANTIZE)
    if name.startswith("torchao"):
        torchao = pytest.importorskip("torchao.quantization")
        return TorchAoConfig(torchao.Int8WeightOnlyConfig(), modules_to_not_convert=skipped)
    pytest.importorskip("bitsandbytes")
    if "8" in name:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=skipped)


@KINDS
@pytest.mark.parametrize("name", QUANTIZATION)
def test_quantized_outputs(kind: str, name: str, tmp_path: Path) -> None:
    method = quantization_config(name)
    model = second_stage(kind, quantizable=True)
    model.save_pretrained(tmp_path)
    quantized = LavisBlip2ForConditionalGeneration.from_pretrained(
        tmp_path, quantization_config=method, dtype=torch.bfloat16, device_map="cpu"
    )
    linears = {path: module for path, module in quantized.named_modules() if isinstance(module, nn.Linear)}
    own = (nn.Linear, TunedLinear)
    plain = {path for path, module in linears.items() if type(module.weight) is nn.Parameter and type(module) in own}
    parts = {path.partition(".")[0] for path in set(linears) - plain}
    assert parts == {"vision_model", "language_model"}
    assert {path for path in linears if path.startswith(MODULES_NOT_TO_QUANTIZE)} <= plain
    assert any(path.startswith("qformer.") for path in plain) and "language_model.lm_head" in plain
    for path in plain:
        assert path.startswith(MODULES_NOT_TO_QUANTIZE) or "bitsandbytes" in name, path
        if not path.startswith(("vision_model", "language_model")):
            assert linears[path].weight.dtype is torch.float32, path
    exact = logits(model, kind)
    error = (logits(quantized, kind).float() - exact).abs().max() / exact.abs().max()
    assert error < (0.5 if "4" in name else 0.1), error
    assert quantized.generate(**image_prompt(kind), max_new_tokens=3).shape[0] == 2


@KINDS
@pytest.mark.parametrize("name", QUANTIZATION)
def test_save_and_load_quantized(kind: str, name: str, tmp_path: Path) -> None:
    """A repository saved with quantized weights, and one that leaves out frozen parts, which load quantized."""
    options = {"quantization_config": quantization_config(name), "dtype": torch.bfloat16, "device_map": "cpu"}
    model = second_stage(kind, quantizable=True)
    model.save_pretrained(tmp_path / "whole")
    frozen = {part: str(tmp_path / part) for part in ("vision_model", "language_model")}
    for part, folder in frozen.items():
        getattr(model, part).save_pretrained(folder)
    model.save_pretrained(tmp_path / "apart", frozen_parts=frozen)
    quantized = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "whole", **options)
    quantized.save_pretrained(tmp_path / "small")
    size = {made: (tmp_path / made / "model.safetensors").stat().st_size for made in ("whole", "small")}
    assert size["small"] < 0.8 * size["whole"]
    again, info = LavisBlip2ForConditionalGeneration.from_pretrained(
        tmp_path / "small", device_map="cpu", output_loading_info=True
    )
    assert not any(info.values()), info
    assert trainable_modules(again) == trainable_modules(model)
    apart = LavisBlip2ForConditionalGeneration.from_pretrained(tmp_path / "apart", **options)
    expected = logits(quantized, kind)
    for other in (again, apart):
        assert torch.equal(logits(other, kind), expected)
    with pytest.raises(ValueError, match="quantized model cannot leave out"):
        quantized.save_pretrained(tmp_path / "nothing", frozen_parts=frozen)


# ---- LoRA ----

LORA_KINDS = ["opt", "t5", "llama", "gpt2", "bart"]


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_lora_target_modules_exist(kind: str) -> None:
    peft = pytest.importorskip("peft")
    for target in (LORA_TARGET_MODULES[kind], LORA_TARGET_MODULES["qformer"], LORA_TARGET_MODULES["vision"]):
        adapted = peft.get_peft_model(second_stage(kind), peft.LoraConfig(r=2, target_modules=target))
        found = {name for name, _ in adapted.named_modules() if name.endswith("lora_A")}
        assert found
        part = target.partition("\\")[0]
        assert all(f".{part}." in name for name in found)


@KINDS
def test_lora_training_saving_and_merging(kind: str, tmp_path: Path) -> None:
    """Adapters in the language model; the language projection is trained in full."""
    peft = pytest.importorskip("peft")
    options = peft.LoraConfig(
        r=2, target_modules=LORA_TARGET_MODULES[kind], modules_to_save=["language_projection"], init_lora_weights=True
    )
    model = peft.get_peft_model(second_stage(kind), options)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert all(".lora_" in name or ".language_projection.modules_to_save." in name for name in trained)
    assert any(".language_model." in name for name in trained)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    call = image_prompt(kind)
    model.train()
    assert not model.base_model.model.vision_model.training
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.5)
    for _ in range(2):  # lora_B starts at zero, so lora_A gets no gradient in the first step
        optimizer.zero_grad()
        model(**call, labels=call["input_ids"]).loss.backward()
        optimizer.step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed and changed <= trained
    assert any(".lora_A." in name for name in changed) and any(".modules_to_save." in name for name in changed)
    model.eval().save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(second_stage(kind), tmp_path).eval()
    torch.testing.assert_close(logits(again, kind), logits(model, kind))
    assert not torch.allclose(logits(again, kind), logits(second_stage(kind), kind))
    merged = again.merge_and_unload()
    torch.testing.assert_close(logits(merged, kind), logits(model, kind), atol=1e-5, rtol=1e-4)


def test_optimizer_holds_trained_parameters_only() -> None:
    from transformers import Trainer, TrainingArguments

    model = second_stage("opt")
    trainer = Trainer(model, TrainingArguments(output_dir="unused", report_to="none", use_cpu=True))
    groups = trainer.create_optimizer().param_groups
    held = {id(value) for group in groups for value in group["params"]}
    names = {name.partition(".")[0] for name, value in model.named_parameters() if id(value) in held}
    assert names == trainable_modules(model) == {"query_tokens", "ln_vision", "qformer", "language_projection"}
