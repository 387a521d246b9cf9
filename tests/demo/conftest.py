"""Two pages, each served once for all tests of it, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from modeling_lavis.embedded import embedded_images
from tests.demo.served import CHROMIUM, DRIVER, SCREENSHOTS, Browser, Server, served


class Folders(NamedTuple):
    """Folders of the tests."""

    own: Path
    outside: Path


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, goldens: Path) -> Folders:
    """A folder that the page may use, with images, a link that leads out of it and a checkpoint; and another folder."""
    top = tmp_path_factory.mktemp("folders")
    own, outside = top / "own", top / "outside"
    (own / "pictures").mkdir(parents=True)
    outside.mkdir()
    for image in embedded_images():
        shutil.copy(image.path, own / "pictures" / f"{image.caption.split(':')[0].replace(' ', '-')}.png")
    shutil.copy(embedded_images()[0].path, outside / "secret.png")
    (own / "pictures" / "link.png").symlink_to(outside / "secret.png")
    for name in ("checkpoint.pth", "config.json"):
        shutil.copy(goldens / "blip_caption" / name, own / name)
    shutil.copytree(goldens / "tokenizer", own / "tokenizer")
    return Folders(own, outside)


def _need_browser() -> None:
    for module in ("gradio", "selenium", "pyarrow"):
        pytest.importorskip(module, reason=f"the page needs {module}: pip install 'modeling-lavis[demo,test]'")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no Chromium with its driver; on Debian: apt install chromium chromium-driver")


@pytest.fixture(scope="session")
def page(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page with the embedded model."""
    _need_browser()
    with served(tmp_path_factory.mktemp("page"), "--allow", folders.own, "--max-upload", 1) as server:
        yield server


@pytest.fixture(scope="session")
def page_of_others(goldens: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page with models for questions and for videos."""
    _need_browser()
    pytest.importorskip("av")
    from tests.models.video_clips import write_clip
    from tests.pipelines.tiny_models import save_model
    from tests.pipelines.tiny_video_models import save_video_model

    top, tokenizer = tmp_path_factory.mktemp("models"), goldens / "tokenizer"
    models = [save_model(top / "questions", "ForQuestionAnswering", tokenizer)]
    for head in ("ForVideoQuestionAnswering", "ForVideoTextRetrieval"):
        models.append(save_video_model(top / head, head, tokenizer))
    films = top / "films"
    films.mkdir()
    for number in range(3):
        write_clip(films / f"{number}.mp4", frames=12 + number)
    arguments = [argument for model in models for argument in ("--model", model)]
    with served(tmp_path_factory.mktemp("others"), *arguments, "--allow", films) as server:
        server.films = films  # type: ignore[attr-defined]
        yield server


@pytest.fixture(scope="session")
def _browser() -> Iterator[Browser]:
    _need_browser()
    shutil.rmtree(SCREENSHOTS, ignore_errors=True)
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(_browser: Browser) -> Iterator[Browser]:
    """A browser that may ask this machine only, and that must have nothing to complain of after a test."""
    _browser.prefer(dark=False)
    _browser.resize(1200)
    yield _browser
    assert _browser.requested() <= {"127.0.0.1"}
    assert _browser.complaints() == []
