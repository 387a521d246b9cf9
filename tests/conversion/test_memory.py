"""Memory of a conversion: the mapped file and one shard, not the model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conversion.golden_sets import TOKENIZER, weights

WIDTH, LAYERS, FEED_FORWARD = 512, 5, 4096
SHARD = 20_000_000
# The interpreter's own growth, and what the allocator keeps between tensors.
SLACK = 12_000_000
SCRIPT = """
import json, resource, sys
import modeling_lavis, torch, transformers
from modeling_lavis.hub.convert import convert
arguments = json.loads(sys.argv[1])
convert(**arguments["warm_up"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
convert(**arguments["measured"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
"""


def wide_captioner(path: Path) -> int:
    """Save a captioner whose text layers are wide, and return the size of its file in bytes."""
    small = weights("blip_caption")
    state = {name: tensor for name, tensor in small.items() if name.startswith("visual_encoder.")}
    for name, tensor in small.items():
        if not name.startswith("text_decoder.") or (".layer." in name and ".layer.0." not in name):
            continue
        shape = tuple({32: WIDTH, 64: FEED_FORWARD}.get(size, size) for size in tensor.shape)
        if name.endswith(("crossattention.self.key.weight", "crossattention.self.value.weight")):
            shape = (WIDTH, 40)  # the width of the image tower
        if name.endswith("position_ids"):
            continue
        if name.endswith("position_embeddings.weight"):
            shape = (48, WIDTH)
        for layer in range(LAYERS) if ".layer.0." in name else (0,):
            copy = name.replace(".layer.0.", f".layer.{layer}.")
            state[copy] = torch.zeros(shape) if tensor.is_floating_point() else tensor
    torch.save({"model": state}, path)
    return path.stat().st_size


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in other units elsewhere")
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_one_shard_at_a_time(dtype: str | None, tmp_path: Path) -> None:
    size = wide_captioner(tmp_path / "wide.pth")
    assert size > 100_000_000 > 4 * SHARD
    small = {"vision": {"num_heads": 5}, "text": {"num_attention_heads": 4}}
    torch.save(weights("blip_caption"), tmp_path / "small.pth")
    common = {"architecture": "blip_caption", "tokenizer": str(TOKENIZER), "config": small, "dtype": dtype}
    arguments = {
        "warm_up": common | {"checkpoint": str(tmp_path / "small.pth"), "output": str(tmp_path / "warm")},
        "measured": common
        | {
            "checkpoint": str(tmp_path / "wide.pth"),
            "output": str(tmp_path / "repo"),
            "max_shard_size": f"{SHARD // 1_000_000}MB",
        },
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    grown = int(done.stdout.split()[-1])
    written = sum(path.stat().st_size for path in (tmp_path / "repo").glob("*.safetensors"))
    assert written > (size if dtype is None else size // 2) * 0.95
    assert size / 2 < grown <= size + 1.2 * SHARD + SLACK, f"{grown:,} bytes for a file of {size:,}"
