"""examples/browser: a model that runs in the browser gives the captions and matches of the pipelines."""

import shutil
import subprocess
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from PIL import Image
from transformers import pipeline

import modeling_lavis
from modeling_lavis.embedded import embedded_images, embedded_model_path
from tests.demo.served import ROOT, Browser
from tests.http_servers import serve

pytestmark = [pytest.mark.slow, pytest.mark.browser]
TEXTS = [embedded_images()[3].caption, "Woman teacher!", "people holding hands"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the page, made as docs/deploy.md says, with the embedded model."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    if shutil.which("npm") is None:
        pytest.skip("onnxruntime-web comes with npm, which is not installed; on Debian: apt install npm")
    folder = tmp_path_factory.mktemp("site") / "browser"
    shutil.copytree(ROOT / "examples" / "browser", folder, ignore=shutil.ignore_patterns("node_modules", "model"))
    command = ["npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modeling_lavis.export_model(embedded_model_path(), folder / "model", "onnx")
    with serve(SimpleHTTPRequestHandler, directory=str(folder)) as address:
        yield address


def message(browser: Browser, expected: str) -> str:
    """Wait until the page says something, and return all of it."""
    place = browser.one("#message")
    return browser.wait(lambda: place.text if place.text.startswith(expected) else "", expected)


def choose(browser: Browser, file: Path) -> None:
    """Choose a picture."""
    browser.one("#file").send_keys(str(file))


def results(browser: Browser) -> tuple[str, list[list[str]]]:
    """Caption and matches of the chosen picture, once they are there."""
    message(browser, "Ready")
    rows = "return [...document.querySelectorAll('#matches tbody tr')].map(row => [...row.cells].map(c => c.innerText))"
    return browser.one("#caption").text, browser.driver.execute_script(rows)


def test_captions_and_matches(site: str, browser: Browser, tmp_path: Path) -> None:
    browser.driver.get(site)
    message(browser, "Ready")
    field = browser.one("#texts")
    browser.type(field, "\n".join(TEXTS))
    captioner = pipeline("image-captioning", model=embedded_model_path(), device="cpu")
    matcher = pipeline("image-text-matching", model=embedded_model_path(), device="cpu")
    pictures = [Path(image.path) for image in embedded_images()]
    tall = tmp_path / "tall.png"
    with Image.open(pictures[3]) as image:
        image.convert("RGB").resize((150, 400)).save(tall)
    for picture in (*pictures, tall):
        choose(browser, picture)
        caption, rows = results(browser)
        assert caption == captioner(str(picture), num_beams=1)[0]["generated_text"]
        for row, expected in zip(rows, matcher(str(picture), text=TEXTS), strict=True):
            assert row[0] == expected["text"]
            assert float(row[1].rstrip(" %")) == pytest.approx(100 * expected["score"], abs=0.2)
            assert float(row[2]) == pytest.approx(expected["similarity"], abs=0.011)
    browser.screenshot("static-page")
    browser.prefer(dark=True)
    browser.resize(390)
    browser.screenshot("static-page-dark-phone")


def test_other_texts_and_files_that_are_no_pictures(site: str, browser: Browser, tmp_path: Path) -> None:
    browser.driver.get(site)
    message(browser, "Ready")
    choose(browser, Path(embedded_images()[0].path))
    results(browser)
    browser.type(browser.one("#texts"), "a dog")
    browser.one("h1").click()  # leaves the field
    browser.wait(lambda: [row[0] for row in results(browser)[1]] == ["a dog"])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    choose(browser, text)
    assert "decode" in message(browser, "The source image")


def test_missing_model(site: str, browser: Browser) -> None:
    browser.driver.get(f"{site}/?model=nothing")
    assert "404" in message(browser, "nothing/")
    assert all("404" in complaint for complaint in browser.complaints())
