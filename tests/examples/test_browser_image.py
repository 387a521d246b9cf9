"""examples/browser/image.js resizes pictures as Pillow does, bit for bit."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from tests.examples.example_scripts import EXAMPLES

SIZES = [(128, 128, 72), (640, 480, 72), (30, 50, 72), (72, 72, 72), (300, 9, 24), (80, 88, 72)]
if int(PIL.__version__.split(".")[0]) >= 13:  # from which on it starts with the columns of tall pictures
    SIZES += [(9, 300, 72), (80, 89, 72)]

SCRIPT = """
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const [module, sizes] = process.argv.slice(-2);
const { resize } = await import(pathToFileURL(module));
for (const [width, height, size] of JSON.parse(sizes)) {
  const name = `${width}x${height}`;
  writeFileSync(`${name}.resized`, resize({ width, height, data: readFileSync(`${name}.rgba`) }, size));
}
"""


def test_resizing_is_that_of_pillow(tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    random = np.random.default_rng(0)
    images = {}
    for width, height, _ in SIZES:
        images[width, height] = Image.fromarray(random.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255)
        (tmp_path / f"{width}x{height}.rgba").write_bytes(images[width, height].convert("RGBA").tobytes())
    (tmp_path / "resize.mjs").write_text(SCRIPT, encoding="utf-8")
    command = [node, "resize.mjs", str(EXAMPLES / "browser" / "image.js"), json.dumps(SIZES)]
    subprocess.run(command, cwd=tmp_path, check=True)
    for width, height, size in SIZES:
        found = (tmp_path / f"{width}x{height}.resized").read_bytes()
        expected = images[width, height].resize((size, size), Image.Resampling.BICUBIC).tobytes()
        assert found == expected, (width, height, size)
