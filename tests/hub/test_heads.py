"""Every head goes to the Hub and comes back: with the package, by attached code alone, and offline from the cache."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.server import LoopbackHub
from tests.hub.sessions import run_python
from tests.recorded_outputs import FOLDERS

pytestmark = pytest.mark.slow
#: the newest repository of every head
HEADS = {folder.name: str(folder) for folder in FOLDERS}

# Pushes every head as a user does, and once more with its code; processors go along. Tokens come from HF_TOKEN.
PUSH = """
import json, shutil, sys
from pathlib import Path
from huggingface_hub import HfApi
from transformers import AutoModel
import modeling_lavis as lavis
from modeling_lavis.hub.portable import attach_code
from modeling_lavis.models.processing_lavis_blip_2 import qformer_tokenizer
from modeling_lavis.models.tokenization_lavis import bert_tokenizer, blip_tokenizer

heads, vocabulary, folder = json.loads({heads!r}), {vocabulary!r}, Path({folder!r})
images = lavis.LavisImageProcessor(size=32)
processors = {{
    "Albef": lavis.AlbefProcessor(images, bert_tokenizer(vocabulary)),
    "Alpro": lavis.AlproProcessor(lavis.LavisVideoProcessor(size=32, num_frames=2), bert_tokenizer(vocabulary)),
    "LavisBlip2": lavis.LavisBlip2Processor(images, qformer_tokenizer(vocabulary), language_model=None),
    "LavisBlip": lavis.LavisBlipProcessor(images, blip_tokenizer(vocabulary)),
}}
for head, source in heads.items():
    model = AutoModel.from_pretrained(source)
    processor = next(found for family, found in processors.items() if head.startswith(family))
    model.push_to_hub(f"org/{{head}}", commit_message="Weights")
    processor.push_to_hub(f"org/{{head}}", commit_message="Processor")
    model.save_pretrained(folder / head)
    processor.save_pretrained(folder / head)
    attach_code(folder / head)
    HfApi().create_repo(f"code/{{head}}", private=True)
    HfApi().upload_folder(repo_id=f"code/{{head}}", folder_path=folder / head)
"""

# Loads every head and its processor; `module` is where their classes must come from.
LOAD = """
import json
from pathlib import Path
from transformers import AutoModel, AutoProcessor, AutoVideoProcessor, AutoImageProcessor
from tests.recorded_outputs import compare
if {module!r} == "modeling_lavis":
    import modeling_lavis

found = {{}}
for head, source in json.loads({heads!r}).items():
    for owner in {owners!r}:
        name, options = f"{{owner}}/{{head}}", {{"trust_remote_code": True}} if owner == "code" else {{}}
        model = AutoModel.from_pretrained(name, **options).eval()
        processor = AutoProcessor.from_pretrained(name, **options)
        assert type(model).__name__ == head
        visual = AutoVideoProcessor if head.startswith("Alpro") else AutoImageProcessor
        for loaded in (model, processor, visual.from_pretrained(name, **options)):
            assert type(loaded).__module__.startswith({module!r}), type(loaded)
        compare(model, Path(source))
        assert len(processor.tokenizer("a dog")["input_ids"]) > 2
        found[name] = type(processor).__name__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Iterator[tuple[LoopbackHub, Path]]:
    """A Hub with every head, and the home of those who load without the package."""
    folder = tmp_path_factory.mktemp("heads")
    with LoopbackHub(folder / "hub", part_size=100_000) as hub:
        code = PUSH.format(heads=json.dumps(HEADS), vocabulary=str(goldens / "tokenizer"), folder=str(folder / "saved"))
        run_python(code, hub, token=hub.token)
        yield hub, folder


def load(hub: LoopbackHub, home: Path, owners: list[str], module: str, offline: bool = False) -> dict[str, str]:
    result = run_python(
        LOAD.format(heads=json.dumps(HEADS), owners=owners, module=module),
        hub,
        home=home,
        token=hub.read_token,
        package=module == "modeling_lavis",
        offline=offline,
    )
    return json.loads(result.stdout.splitlines()[-1])


def check_names(found: dict[str, str], owners: list[str]) -> None:
    assert found.keys() == {f"{owner}/{head}" for owner in owners for head in HEADS}
    assert set(found.values()) == {"AlbefProcessor", "AlproProcessor", "LavisBlipProcessor", "LavisBlip2Processor"}


def test_what_was_pushed(places: tuple[LoopbackHub, Path]) -> None:
    hub, folder = places
    for head in HEADS:
        files = hub.files(f"code/{head}")
        saved = {path.name: path.read_bytes() for path in (folder / "saved" / head).iterdir()}
        assert {name: content for name, content in files.items() if name != ".gitattributes"} == saved
        assert {"config.json", "model.safetensors", "processor_config.json", "README.md"} <= hub.files(
            f"org/{head}"
        ).keys()
        pushed = json.loads(hub.files(f"org/{head}")["config.json"])
        assert "auto_map" not in pushed and pushed["architectures"] == [head]  # the code did not go along
        assert [commit.title for commit in hub.repositories[f"org/{head}"].history(hub.head(f"org/{head}"))] == [
            "Processor",
            "Weights",
            "initial commit",
        ]


def test_every_head_loads_with_the_package(places: tuple[LoopbackHub, Path], tmp_path: Path) -> None:
    """Repositories with attached code load as the installed classes, too."""
    owners = ["org", "code"]
    check_names(load(places[0], tmp_path, owners, "modeling_lavis"), owners)


def test_every_head_loads_by_its_code_and_again_without_a_connection(places: tuple[LoopbackHub, Path]) -> None:
    hub, folder = places
    check_names(load(hub, folder / "home", ["code"], "transformers_modules"), ["code"])
    before = len(hub.requests)
    check_names(load(hub, folder / "home", ["code"], "transformers_modules", offline=True), ["code"])
    assert len(hub.requests) == before
