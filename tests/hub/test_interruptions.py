"""Connections that are cut, a full disk, and repositories that change while they are read."""

import json
import shutil
from pathlib import Path

import pytest

from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python
from tests.recorded_outputs import FOLDERS

pytestmark = pytest.mark.slow
HEAD = next(folder for folder in FOLDERS if folder.name == "LavisBlipForConditionalGeneration")

PUSH = """
from modeling_lavis import LavisBlipForConditionalGeneration
model = LavisBlipForConditionalGeneration.from_pretrained({head!r})
try:
    print(model.push_to_hub("org/name", max_shard_size="100KB"))
except Exception as error:
    while error.__cause__ is not None:
        error = error.__cause__
    print("failed:", type(error).__name__, error)
    raise SystemExit(3)
"""

LOAD = """
from pathlib import Path
from huggingface_hub import constants
from modeling_lavis import LavisBlipForConditionalGeneration
from tests.recorded_outputs import compare
constants.DOWNLOAD_CHUNK_SIZE = 50_000  # what a cut connection loses of a download
{before}
try:
    model = LavisBlipForConditionalGeneration.from_pretrained("org/name").eval()
except Exception as error:
    print("failed:", type(error).__name__, error)
    raise SystemExit(3)
compare(model, Path({head!r}))
print("loaded", model.config._commit_hash)
"""


def load(hub: LoopbackHub, home: Path, before: str = "", check: bool = True) -> tuple[int, str]:
    result = run_python(LOAD.format(head=str(HEAD), before=before), hub, home=home, check=check)
    return result.returncode, result.stdout.strip()


def head_files() -> dict[str, bytes]:
    return {name: (HEAD / name).read_bytes() for name in ("config.json", "model.safetensors")}


def cached_files(home: Path) -> dict[str, bytes]:
    """The files of the cache by name, of every commit."""
    return {path.name: path.read_bytes() for path in home.glob("hub/models--*/snapshots/*/*")}


def test_an_upload_is_cut(tmp_path: Path) -> None:
    """A cut connection is taken up; when nothing gets through, the branch stays as it was."""
    code = PUSH.format(head=str(HEAD))
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.cut(after_bytes=50_000, direction="upload", times=2, match="/objects/")
        run_python(code, hub, token=hub.token)
        whole = hub.files("org/name")
        assert "model.safetensors.index.json" in whole
        hub.repositories.clear()
        for path in hub.objects.folder.iterdir():
            path.unlink()

        hub.full_disk()
        result = run_python(code, hub, token=hub.token, check=False)
        assert result.returncode == 3 and "507" in result.stdout, result.stdout + result.stderr
        assert set(hub.files("org/name")) == {".gitattributes"}
        hub.full_disk(False)
        before = len(hub.requests)
        run_python(code, hub, token=hub.token)
        assert hub.files("org/name") == whole
        assert any(request.method == "PUT" for request in hub.requests[before:])


def test_a_download_is_cut(tmp_path: Path) -> None:
    """The rest is asked for; when nothing comes, there is an error, no half file, and the next try succeeds."""
    home = tmp_path / "home"
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.create("org/name", head_files())
        hub.cut(after_bytes=100_000, times=2, match="model.safetensors")
        assert load(hub, home)[1].startswith("loaded")
        parts = [request.range for request in hub.requested("GET", "/objects/")]
        assert parts == [None, "bytes=100000-", "bytes=200000-"]
        assert cached_files(home) == head_files()

        shutil.rmtree(home)
        hub.cut(after_bytes=100_000, times=1, match="model.safetensors")
        hub.cut(after_bytes=0, times=100, match="model.safetensors")
        hurried = "import time; time.sleep = lambda seconds: None"
        status, said = load(hub, home, hurried, check=False)
        assert status == 3 and said.startswith("failed:"), said
        assert "model.safetensors" not in cached_files(home)
        assert not list(home.rglob("*.incomplete"))
        hub.faults.cuts.clear()
        assert load(hub, home)[1].startswith("loaded")


def test_a_full_disk(tmp_path: Path) -> None:
    """A file that does not fit is an error that names the disk; afterwards the cache holds whole files only."""
    home = tmp_path / "home"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    with LoopbackHub(tmp_path / "hub") as hub:
        hub.create("org/name", head_files())
        status, said = load(hub, home, limited, check=False)
        assert status == 3 and "File too large" in said, said
        assert set(cached_files(home)) == {"config.json"}
        assert not [path for path in home.rglob("*") if path.is_file() and path.stat().st_size > 100_000]
        assert load(hub, home)[1].startswith("loaded")


# Weights of two states in turn: a load that mixes them is seen, because the sizes of the layers differ.
CHANGING = """
import json
from transformers import AutoModel
from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlipForConditionalGeneration
found = []
for name, model_class in (("org/plain", LavisBlipForConditionalGeneration), ("org/plain", AutoModel),
                          ("org/parts", LavisBlip2ForConditionalGeneration)):
    model = model_class.from_pretrained(name, cache_dir={cache!r} + str(len(found)))
    part = model.config.text_config if name == "org/plain" else model.config.qformer_config
    found.append((part.intermediate_size, model.config._commit_hash))
print(json.dumps(found))
"""


def test_a_repository_changes_while_it_is_loaded(tmp_path: Path) -> None:
    import modeling_lavis
    from tests.models.lavis_blip_2_cases import second_stage
    from tests.models.lavis_blip_cases import blip_config

    with LoopbackHub(tmp_path / "hub") as hub:
        states: dict[str, list[Path]] = {"org/plain": [], "org/parts": []}
        for number in (32, 48):
            folder = tmp_path / str(number)
            modeling_lavis.LavisBlipForConditionalGeneration(
                blip_config({"intermediate_size": number})
            ).save_pretrained(folder / "plain")
            model = second_stage("opt", text={"intermediate_size": number})
            model.save_pretrained(folder / "parts", frozen_parts={"vision_model": "org/vision"})
            if number == 32:
                model.vision_model.save_pretrained(folder / "vision")
                hub.create("org/vision", folder / "vision")
            for name in states:
                states[name].append(folder / name.partition("/")[2])
        for name, folders in states.items():
            hub.create(name, folders[0])
        # every answer about these repositories is followed by a change to the other state
        turn = dict.fromkeys(states, 0)

        def change(name: str) -> None:
            turn[name] += 1
            hub.commit(name, states[name][turn[name] % 2])

        for name in states:
            hub.after_request(f"/{name}", lambda name=name: change(name), times=1000)
        result = run_python(CHANGING.format(cache=str(tmp_path / "cache")), hub)
        for width, commit in json.loads(result.stdout.splitlines()[-1]):
            assert width in (32, 48) and commit
        assert min(turn.values()) > 3
