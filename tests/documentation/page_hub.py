"""What the page about the Hub needs: a Hub on this machine, a checkpoint of the original, and an image.

The address of the Hub is read when huggingface_hub is imported, so nothing at the top of this file imports it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

CONFIGURATIONS = {"blip_coco_caption_base.pth": "blip_caption/config.json"}
HUB: list[Any] = []


def prepare(folder: Path) -> dict[str, Any]:
    from tests.hub.server import LoopbackHub

    assert "huggingface_hub" not in sys.modules
    hub = LoopbackHub(folder / ".hub")
    hub.__enter__()  # until the process ends
    HUB.append(hub)
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ.update(HF_ENDPOINT=hub.endpoint, HF_TOKEN=hub.token, HF_HUB_DISABLE_XET="1")
    from tests.documentation.materials import photos, place

    place({"blip_coco_caption_base.pth": "blip_caption/checkpoint.pth"})
    shutil.copy(photos()["coffee"], "photo.jpg")
    return {}


def commands(words: list[str]) -> list[str] | None:
    from tests.documentation.materials import with_sizes

    if "--revision" in words:  # the example in Python that follows does the same
        return None
    if "--create-pr" in words:  # by a user whose model differs
        path = Path("blip-captioner/generation_config.json")
        path.write_text(path.read_text().replace('"max_length": ', '"max_length": 1'))
    return with_sizes(words, CONFIGURATIONS) if words[0] == "convert" else words


def check_publish(names: dict[str, Any]) -> None:
    """The Hub has what the folder has, and no other user sees it."""
    assert HUB[0].repositories["ORG/blip-captioner"].private
    here = {path.name: path.read_bytes() for path in Path("blip-captioner").iterdir()}
    there = HUB[0].files("ORG/blip-captioner")
    there.pop(".gitattributes", None)
    assert here == there
    assert "Contact" in there["README.md"].decode() and '"ORG/blip-captioner"' in there["README.md"].decode()


def check_without_package(names: dict[str, Any]) -> None:
    """The examples of that heading in a process that cannot import the package."""
    from tests.documentation.examples import find_examples

    page = Path(__file__).resolve().parents[2] / "docs" / "hub.md"
    (example,) = (example for example in find_examples(page) if example.heading == "Load without the package")
    code = f"import sys\nsys.modules['modeling_lavis'] = None\ncaption = {names['caption']!r}\n{example.code}"
    code += "assert type(model).__module__.startswith('transformers_modules')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "True"


def check_branches(names: dict[str, Any]) -> None:
    assert HUB[0].head("ORG/blip-captioner", "experiment").oid == names["report"].commit
    changed = Path("blip-captioner/generation_config.json").read_bytes()
    for revision in ("experiment", "refs/pr/1"):
        assert HUB[0].files("ORG/blip-captioner", revision)["generation_config.json"] == changed
    assert HUB[0].files("ORG/blip-captioner")["generation_config.json"] != changed


CHECKS = {
    "Publish": check_publish,
    "Load without the package": check_without_package,
    "New versions, branches, pull requests": check_branches,
}
