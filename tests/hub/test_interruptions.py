"""Connections that are cut, a full disk, and repositories that change while they are read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hub.server import LoopbackHub
from tests.hub.sessions import Session
from tests.recorded_outputs import FOLDERS
from tests.release.needs import needs

pytestmark = pytest.mark.slow
HEAD = next(folder for folder in FOLDERS if folder.name == "LavisBlipForConditionalGeneration")

goes_on = needs("huggingface-hub>=2", "a connection that was cut is not taken up, and half a file stays in the cache")

START = f"""
import resource, time
from pathlib import Path
from huggingface_hub import constants
from transformers import AutoModel
from modeling_lavis import LavisBlip2ForConditionalGeneration, LavisBlipForConditionalGeneration
from modeling_lavis.pipelines.loading import hub_options_of, load
from tests.recorded_outputs import compare

constants.DOWNLOAD_CHUNK_SIZE = 50_000  # what a cut connection loses of a download
time.sleep = lambda seconds: None  # between the tries
head = Path({str(HEAD)!r})
"""
PUSH = "LavisBlipForConditionalGeneration.from_pretrained(head).push_to_hub('org/name', max_shard_size='100KB')"
LOAD = """
compare(LavisBlipForConditionalGeneration.from_pretrained("org/name", cache_dir={cache!r}).eval(), head)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LoopbackHub, Session]]:
    """A Hub, and a process that works with it."""
    folder = tmp_path_factory.mktemp("interruptions")
    with LoopbackHub(folder / "hub") as hub, Session(hub, folder / "home", token=hub.token) as session:
        session.run(START)
        yield hub, session


@pytest.fixture
def hub(place: tuple[LoopbackHub, Session]) -> LoopbackHub:
    """The Hub without repositories and faults."""
    place[0].clear()
    return place[0]


@pytest.fixture
def session(place: tuple[LoopbackHub, Session]) -> Session:
    return place[1]


def head_files() -> dict[str, bytes]:
    return {name: (HEAD / name).read_bytes() for name in ("config.json", "model.safetensors")}


def cached_files(cache: Path) -> dict[str, bytes]:
    """The files of a cache by name, of every commit."""
    return {path.name: path.read_bytes() for path in cache.glob("models--*/snapshots/*/*")}


@goes_on
def test_an_upload_is_cut(hub: LoopbackHub, session: Session) -> None:
    """A cut connection is taken up; when nothing gets through, the branch stays as it was."""
    hub.cut(after_bytes=50_000, direction="upload", times=2, match="/objects/")
    session.run(PUSH)
    whole = hub.files("org/name")
    assert "model.safetensors.index.json" in whole and sum(request.status == 0 for request in hub.requests) == 2

    hub.clear()
    hub.cut(after_bytes=50_000, direction="upload", times=1000, match="/objects/")
    succeeded, said = session.attempt(PUSH)
    assert not succeeded and "Error while uploading 'model-" in said, said
    assert set(hub.files("org/name")) == {".gitattributes"}

    hub.faults.cuts.clear()
    hub.full_disk()
    succeeded, said = session.attempt(PUSH)
    assert not succeeded and "507" in said, said
    assert set(hub.files("org/name")) == {".gitattributes"}

    hub.full_disk(False)
    hub.cut(direction="answer", match="/commit/main")  # done, but the client does not learn of it
    assert not session.attempt(PUSH)[0]
    assert hub.files("org/name") == whole
    before = len(hub.requests)
    session.run(PUSH)
    assert hub.files("org/name") == whole
    assert not any(request.method == "PUT" for request in hub.requests[before:])


@goes_on
def test_a_download_is_cut(hub: LoopbackHub, session: Session, tmp_path: Path) -> None:
    """The rest is asked for; when nothing comes, there is an error, no half file, and the next try succeeds."""
    hub.create("org/name", head_files())
    hub.cut(after_bytes=50_000, times=2, match="model.safetensors")
    session.run(LOAD.format(cache=str(tmp_path / "first")))
    parts = [request.range for request in hub.requested("GET", "/objects/")]
    assert parts == [None, "bytes=50000-", "bytes=100000-"]
    assert cached_files(tmp_path / "first") == head_files()

    cache = tmp_path / "second"
    hub.cut(after_bytes=50_000, times=1, match="model.safetensors")
    hub.cut(after_bytes=0, times=1000, match="model.safetensors")
    succeeded, said = session.attempt(LOAD.format(cache=str(cache)))
    assert not succeeded and "org/name" in said, said
    assert set(cached_files(cache)) == {"config.json"}
    assert not list(cache.rglob("*.incomplete"))
    hub.faults.cuts.clear()
    session.run(LOAD.format(cache=str(cache)))
    assert cached_files(cache) == head_files()


@goes_on
def test_a_full_disk(hub: LoopbackHub, session: Session, tmp_path: Path) -> None:
    """A file that does not fit is an error that says so; afterwards the cache holds whole files only."""
    hub.create("org/name", head_files())
    session.run("resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))")
    succeeded, said = session.attempt(LOAD.format(cache=str(tmp_path)))
    session.run("resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))")
    assert not succeeded and "File too large" in said, said
    assert set(cached_files(tmp_path)) == {"config.json"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size > 50_000]
    session.run(LOAD.format(cache=str(tmp_path)))
    assert cached_files(tmp_path) == head_files()


@needs("transformers>=5.18", "AutoModel asks for every file by the name of the revision; a mixture is an error")
def test_a_repository_changes_while_it_is_loaded(hub: LoopbackHub, session: Session, tmp_path: Path) -> None:
    """Every answer about a repository is followed by a commit with other sizes of layers: a mixture does not load."""
    import modeling_lavis
    from tests.models.lavis_blip_2_cases import second_stage
    from tests.models.lavis_blip_cases import blip_config

    states: dict[str, list[Path]] = {"org/plain": [], "org/parts": []}
    for size in (32, 48):
        folder = tmp_path / str(size)
        plain = modeling_lavis.LavisBlipForConditionalGeneration(blip_config({"intermediate_size": size}))
        plain.save_pretrained(folder / "plain")
        model = second_stage("opt", text={"intermediate_size": size})
        model.save_pretrained(folder / "parts", frozen_parts={"vision_model": "org/vision"})
        if size == 32:
            model.vision_model.save_pretrained(folder / "vision")
            hub.create("org/vision", folder / "vision")
        for name in states:
            states[name].append(folder / name.partition("/")[2])
    for name, folders in states.items():
        hub.create(name, folders[0])
    turns = dict.fromkeys(states, 0)

    def change(name: str) -> None:
        turns[name] += 1
        hub.commit(name, states[name][turns[name] % 2])

    for name in states:
        hub.after_request(f"/{name}", lambda name=name: change(name), times=1000)
    for number, (name, load) in enumerate(
        [
            ("org/plain", "LavisBlipForConditionalGeneration.from_pretrained"),
            ("org/plain", "AutoModel.from_pretrained"),
            ("org/parts", "LavisBlip2ForConditionalGeneration.from_pretrained"),
            ("org/parts", "AutoModel.from_pretrained"),
        ]
    ):
        part = "text_config" if name == "org/plain" else "qformer_config"
        code = f"print({load}({name!r}, cache_dir={str(tmp_path / str(number))!r}).config.{part}.intermediate_size)"
        assert session.run(code).strip() in ("32", "48")
    assert min(turns.values()) > 3


def test_a_pipeline_has_model_and_processor_of_one_state(
    hub: LoopbackHub, session: Session, tmp_path: Path, goldens: Path
) -> None:
    from tests.pipelines.tiny_models import save_model

    folders = [
        save_model(tmp_path / prompt.partition(" ")[0], "ForConditionalGeneration", goldens / "tokenizer", prompt)
        for prompt in ("old words", "new words")
    ]
    hub.create("org/captioner", folders[0])
    hub.change_between_requests("org/captioner", folders[1], after="/model.safetensors")
    assert (
        session.run("print(load('image-captioning', 'org/captioner', device='cpu').processor.prompt)") == "old words\n"
    )
    assert hub.requested("GET", "processor_config.json")
    assert (
        session.run("print(load('image-captioning', 'org/captioner', device='cpu').processor.prompt)") == "new words\n"
    )
