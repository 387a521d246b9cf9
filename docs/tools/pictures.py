"""
Make the pictures of the documentation: `python -m docs.tools.pictures` (`make docs-pictures`), or some of them by name.

Each is what a command or an example of a page writes, made small, so that the repository stays small. That of the page
in the browser is a screenshot, which needs what `make test-browser` needs.
"""

import argparse
import contextlib
import functools
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import PIL.Image

from modeling_lavis.cli.main import main as run_command
from modeling_lavis.embedded import embedded_images

TOP = Path(__file__).resolve().parents[2]
FOLDER = TOP / "docs" / "images"
#: largest size of a picture, in bytes
MAX_BYTES = 100_000
_MAX_WIDTH, _COLORS = 900, 192


def command(*words: str) -> Callable[[Path], None]:
    """A function that runs a command; `OUTPUT` among its words is the file that it writes."""

    def make(path: Path) -> None:
        arguments = [str(path) if word == "OUTPUT" else word for word in words]
        with contextlib.redirect_stdout(io.StringIO()):
            status = run_command(arguments)
        if status != 0:
            raise RuntimeError(f"modeling-lavis {' '.join(words)} ended with status {status}.")

    return make


def search_sheet(path: Path) -> None:
    """Results of a search in the embedded images."""
    folder = str(embedded_images()[0].path.parent)
    with tempfile.TemporaryDirectory() as work:
        index = str(Path(work) / "index")
        command("index", folder, "--output", index)(path)
        command("search", index, "a man surfing", "--top-k", "3", "--sheet", "OUTPUT")(path)


@functools.cache
def run_examples(page: str) -> tempfile.TemporaryDirectory[str]:
    """Run the examples of a page of the documentation, and return the folder with what they wrote."""
    folder = tempfile.TemporaryDirectory()
    environment = {**os.environ, "PYTHONPATH": str(TOP)}
    words = [sys.executable, "-m", "tests.documentation.run_page", str(TOP / "docs" / page)]
    subprocess.run(words, cwd=folder.name, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder


def example(page: str, name: str) -> Callable[[Path], None]:
    """A function that copies a file that an example of a page writes."""

    def make(path: Path) -> None:
        path.write_bytes((Path(run_examples(page).name) / name).read_bytes())

    return make


def screenshot(path: Path) -> None:
    """The page in the browser, with the map of a word."""
    from tests.demo.served import SCREENSHOTS, Browser, served

    with tempfile.TemporaryDirectory() as work, served(Path(work)) as server:
        browser = Browser(width=1100)
        try:
            browser.open(server.address)
            browser.tab("Matching")
            browser.upload(embedded_images()[3].path)
            browser.labelled("Texts").send_keys("man singer: medium skin tone\nwoman teacher: light skin tone")
            browser.labelled("Maps", "input[type=checkbox]").click()
            browser.button("Match").click()
            words = browser.wait(lambda: browser.find("#matches-image .word"), "words")
            browser.driver.execute_script("arguments[0].focus()", words[1])
            end = browser.driver.execute_script(
                "return document.querySelector('#matches-image .maps').getBoundingClientRect().bottom + scrollY"
            )
            browser.screenshot("documentation")
        finally:
            browser.close()
    with PIL.Image.open(SCREENSHOTS / "documentation.png") as image:
        image.crop((0, 0, image.width, min(image.height, round(end) + 12))).save(path)


_PEOPLE = embedded_images()[7]
#: pictures by the names of their files
PICTURES: dict[str, Callable[[Path], None]] = {
    "demo.png": command("demo", "--output", "OUTPUT"),
    "maps.png": command("explain", str(_PEOPLE.path), "--text", _PEOPLE.caption, "--output", "OUTPUT"),
    "search.png": search_sheet,
    "explain_match.png": example("interpretability.md", "match.png"),
    "explain_caption.png": example("interpretability.md", "caption.png"),
    "explain_similarity.png": example("interpretability.md", "similarity.png"),
    "page.png": screenshot,
}


def shrink(path: Path) -> None:
    """
    Limit the width of a picture, and its colors if it is too large with all of them.

    Raises:
        ValueError: it is still too large.
    """
    with PIL.Image.open(path) as opened:
        image = opened.convert("RGB")
    if image.width > _MAX_WIDTH:
        image = image.resize((_MAX_WIDTH, round(image.height * _MAX_WIDTH / image.width)), PIL.Image.Resampling.LANCZOS)
    image.save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        image.quantize(_COLORS, dither=PIL.Image.Dither.NONE).save(path, optimize=True)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; expected at most {MAX_BYTES:,}.")


def main() -> None:
    """Make the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(PICTURES)} (all)")
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder (%(default)s)")
    args = parser.parse_args()
    if unknown := sorted(set(args.names) - set(PICTURES)):
        parser.error(f"there is no picture {unknown[0]}")
    args.output.mkdir(parents=True, exist_ok=True)
    for name in args.names or PICTURES:
        path = args.output / name
        PICTURES[name](path)
        shrink(path)
        sys.stdout.write(f"{path}: {path.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
