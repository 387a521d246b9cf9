"""Peak memory of a conversion: the memory-mapped checkpoint and one shard, not the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conversion.golden_sets import TOKENIZER, checkpoint, weights

HIDDEN_SIZE, LAYERS, INTERMEDIATE_SIZE = 512, 5, 4096
SHARD = 20_000_000
# growth of the interpreter, and memory that the allocator keeps
SLACK = 12_000_000
SCRIPT = """
import json, resource, sys
from modeling_lavis.hub.convert import convert
conversions = json.loads(sys.argv[1])
convert(**conversions[0])  # warm-up: imports do not count
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for conversion in conversions[1:]:
    convert(**conversion)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def save_large_checkpoint(path: Path) -> int:
    """Save a captioning checkpoint with large text layers, and return its size in bytes."""
    weights_by_key = weights("blip_caption")
    state = {name: tensor for name, tensor in weights_by_key.items() if name.startswith("visual_encoder.")}
    for name, tensor in weights_by_key.items():
        if not name.startswith("text_decoder.") or (".layer." in name and ".layer.0." not in name):
            continue
        shape = tuple({32: HIDDEN_SIZE, 64: INTERMEDIATE_SIZE}.get(size, size) for size in tensor.shape)
        if name.endswith(("crossattention.self.key.weight", "crossattention.self.value.weight")):
            shape = (HIDDEN_SIZE, 40)  # hidden size of the image encoder
        if name.endswith("position_ids"):
            continue
        if name.endswith("position_embeddings.weight"):
            shape = (48, HIDDEN_SIZE)
        for layer in range(LAYERS) if ".layer.0." in name else (0,):
            copy = name.replace(".layer.0.", f".layer.{layer}.")
            state[copy] = torch.zeros(shape) if tensor.is_floating_point() else tensor
    torch.save({"model": state}, path)
    return path.stat().st_size


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in other units elsewhere")
def test_peak_memory_of_conversion(tmp_path: Path) -> None:
    size = save_large_checkpoint(tmp_path / "large.pth")
    assert size > 100_000_000 > 4 * SHARD
    heads = {"vision": {"num_heads": 5}, "text": {"num_attention_heads": 4}}
    common = {"architecture": "blip_caption", "tokenizer": str(TOKENIZER), "config": heads}
    warm_up = common | {"checkpoint": str(checkpoint("blip_caption")), "output": str(tmp_path / "warm")}
    large = common | {"checkpoint": str(tmp_path / "large.pth"), "max_shard_size": f"{SHARD // 1_000_000}MB"}
    conversions = [
        warm_up,
        large | {"output": str(tmp_path / "same")},
        large | {"output": str(tmp_path / "half"), "dtype": "bfloat16"},
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(conversions)], capture_output=True, text=True, check=True
    )
    for growth, name, share in zip(map(int, done.stdout.split()[-2:]), ("same", "half"), (1, 0.5), strict=True):
        files = list((tmp_path / name).glob("*.safetensors"))
        assert len(files) > 3 and sum(path.stat().st_size for path in files) > 0.95 * share * size
        assert growth <= size + 1.2 * SHARD + SLACK, f"{growth:,} bytes for a file of {size:,} ({name})"
