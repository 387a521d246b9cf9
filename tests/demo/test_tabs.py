"""What the tabs compute, without a browser."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'modeling-lavis[demo]'")
pytest.importorskip("pyarrow")

from modeling_lavis.demo import captions, questions, search
from modeling_lavis.demo.context import MAX_CHARACTERS, PageContext, lines_of, with_messages
from modeling_lavis.demo.folders import AllowedFolders
from modeling_lavis.demo.models import load_page_model
from modeling_lavis.embedded import embedded_images, embedded_model_path
from tests.demo.test_markup import Tags

pytestmark = pytest.mark.slow


def test_options_of_generation() -> None:
    beams = captions.generation_options("Beam search", 4, 3, 1.0, 0.9, 30)
    assert beams == {"num_return_sequences": 4, "num_beams": 4, "do_sample": False, "max_new_tokens": 30}
    sampled = captions.generation_options("Sampling", 2, 3, 0.7, 0.9, 20)
    expected = {"do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
    assert sampled == {"num_return_sequences": 2, "max_new_tokens": 20, **expected}


def test_shares_of_ranked_answers() -> None:
    found = Tags(questions.ranked_table([{"answer": "dog", "score": -1000.0}, {"answer": "cat", "score": -1001.0986}]))
    assert found.attributes["style"] == ["width:75.0%", "width:25.0%"]


def test_errors_become_messages() -> None:
    def fail(text: str) -> str:
        raise OSError("no <b>such</b> file\nsecond line")

    assert "no &lt;b&gt;such&lt;/b&gt; file</p>" in with_messages(fail)("x")
    assert "20,001 characters" in with_messages(lambda text: text)("x" * (MAX_CHARACTERS + 1))
    with pytest.raises(ZeroDivisionError):  # a mistake in the program
        with_messages(lambda: 1 / 0)()
    assert lines_of(" a\n\nb \na\n") == ["a", "b"] and lines_of(None) == []


@pytest.fixture(scope="module")
def entry() -> Any:
    return load_page_model(embedded_model_path(), device="cpu")


def test_search_of_a_folder(entry: Any, tmp_path: Path) -> None:
    own, outside, work = (tmp_path / name for name in ("own", "outside", "work"))
    for folder in (own, outside, work):
        folder.mkdir()
    images = embedded_images()
    for image in images[:4]:
        (own / f"{image.caption.split(':')[0]}.png").write_bytes(image.path.read_bytes())
    (outside / "secret.png").write_bytes(images[5].path.read_bytes())
    (own / "link.png").symlink_to(outside / "secret.png")
    (own / "broken.png").write_text("x")
    (own / "metadata.jsonl").write_text('{"file_name": "../outside/secret.png"}\n')
    find = search.FolderSearch(PageContext([entry], AllowedFolders([own]), work, []), entry)
    for rerank in (True, False):
        shown = Tags(find(str(own), "man singer", None, 2, rerank))
        assert shown.attributes["alt"] == ["man singer.png", shown.attributes["alt"][1]]
        assert "5 images. 1 could not be read." in shown.texts
    assert "secret.png" not in find(str(own), images[5].caption, None, 24, True)
    by_image = Tags(find(str(own), "", str(images[1].path), 1, True))
    assert by_image.attributes["alt"] == ["man surfing.png"]
    (own / "man singer.png").unlink()
    assert "man singer.png" not in find(str(own), "man singer", None, 24, True)
    with pytest.raises(PermissionError):
        find(str(outside), "x", None, 1, True)
    with pytest.raises(ValueError, match="There is nothing to search for"):
        find(str(own), " ", None, 1, True)
    assert {path.name for path in own.iterdir()} == {
        "woman teacher.png",
        "man surfing.png",
        "person running.png",
        "link.png",
        "broken.png",
        "metadata.jsonl",
    }
