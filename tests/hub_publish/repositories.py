"""Small folders to publish, and processes that publish them on a loopback Hub."""

import subprocess
from pathlib import Path
from typing import Any

from modeling_lavis.hub.portable import attach_code
from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python
from tests.pipelines.tiny_models import save_model

CARD = """---
license: bsd-3-clause
library_name: transformers
pipeline_tag: image-to-text
---

# A captioner

```python
from transformers import AutoModel, pipeline

model = AutoModel.from_pretrained("captioner")
captioner = pipeline("image-captioning", model='captioner')
```

The text itself may say "captioner".
"""


def save_captioner(folder: Path, goldens: Path, code: bool = False, card: str = CARD) -> Path:
    """A random captioner that can be published."""
    save_model(folder, "ForConditionalGeneration", goldens / "tokenizer")
    (folder / "README.md").write_text(card, encoding="utf-8")
    if code:
        attach_code(folder)
    return folder


def run_publish(
    hub: LoopbackHub, *arguments: object, home: Path | None = None, token: str | None = "", check: bool = True
) -> "subprocess.CompletedProcess[str]":
    """Run `modeling-lavis publish` in a process of its own; the token is the one that may write by default."""
    words = ["publish", *map(str, arguments)]
    code = f"import sys; from modeling_lavis.cli.main import main; sys.exit(main({words!r}))"
    return run_python(code, hub, token=hub.token if token == "" else token, home=home, check=check)


def local_files(folder: Path) -> dict[str, bytes]:
    """Contents of all files of a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on_the_hub(hub: LoopbackHub, repo_id: str, revision: str = "main") -> dict[str, Any]:
    """Contents of all files of a repository, without the one that the Hub adds."""
    files = hub.files(repo_id, revision)
    files.pop(".gitattributes", None)
    return files
