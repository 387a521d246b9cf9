"""The page in a real browser: every tab, phones, dark pages, the keyboard, and files that are not images."""

import http.client
import json
import time
import zlib
from pathlib import Path
from urllib.parse import urlsplit

import PIL.Image
import pytest

from modeling_lavis.embedded import embedded_images, embedded_model_path
from modeling_lavis.pipelines.loading import load
from tests.demo.conftest import Folders
from tests.demo.served import Browser, Server

pytestmark = [pytest.mark.slow, pytest.mark.browser]
TABS = ["Captions", "Matching", "Search", "Conversion", "About"]
SINGER = embedded_images()[3]


def rows(browser: Browser, place: str) -> list[list[str]]:
    """The cells of a table of results, once it is there."""
    script = (
        "return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)]"
        ".map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )
    return browser.wait(lambda: browser.driver.execute_script(script, place), place)


def message(browser: Browser, expected: str, screenshot: str | None = None) -> None:
    """Wait for a message in the place of a result, and perhaps keep a screenshot of it."""
    browser.wait(lambda: any(expected in part.text for part in browser.find("[role=alert].error")), expected)
    if screenshot is not None:
        browser.screenshot(screenshot)


def toast(browser: Browser, expected: str) -> None:
    """Wait for a message of gradio's own."""
    texts = "return [...document.querySelectorAll('.toast-body')].map(toast => toast.innerText)"
    browser.wait(lambda: any(expected in text for text in browser.driver.execute_script(texts)), expected)
    time.sleep(0.5)  # until it is as visible as it gets


def test_starts_with_the_embedded_model(page: Server, browser: Browser) -> None:
    browser.open(page.address)
    assert [tab.text for tab in browser.find("[role=tab]")] == TABS
    assert "knows emoji" in browser.one("#models").text
    browser.tab("About")
    text = browser.one(".about").text
    assert "identify people" in text and "Questions: a model for image-question-answering" in text
    browser.screenshot("about")


def test_captions(page: Server, browser: Browser) -> None:
    browser.open(page.address)
    browser.upload(SINGER.path)
    browser.button("Describe the image").click()
    expected = load("image-captioning", embedded_model_path(), device="cpu")(
        str(SINGER.path), num_beams=3, num_return_sequences=3, max_new_tokens=30
    )
    found = rows(browser, "captions")
    assert [row[0] for row in found] == [row["generated_text"] for row in expected]
    assert found[0][0] == "man singer medium skin tone" and found[0][1].endswith("%")
    browser.screenshot("captions-beams")
    browser.labelled("Sampling", "input[type=radio]").click()
    browser.labelled("Temperature", "input[type=number]")
    browser.button("Describe the image").click()
    browser.wait(lambda: rows(browser, "captions") != found, "other captions")
    assert len(rows(browser, "captions")) == 3
    browser.screenshot("captions-sampled")


def test_examples(page: Server, browser: Browser) -> None:
    browser.open(page.address)
    browser.wait(lambda: browser.find(".gallery-item"), "the examples")[0].click()
    browser.wait(lambda: browser.find(".image-frame img"), "the example")
    browser.button("Describe the image").click()
    assert "running" in rows(browser, "captions")[0][0]


def test_matching(page: Server, browser: Browser) -> None:
    browser.open(page.address)
    browser.tab("Matching")
    browser.upload(SINGER.path)
    browser.labelled("Texts").send_keys("woman teacher: light skin tone\nman singer: medium skin tone\n<b>dog</b>")
    browser.button("Match").click()
    found = rows(browser, "matches-image")
    assert found[0][0] == "man singer: medium skin tone" and float(found[0][1].rstrip("%")) > 50
    assert {row[0] for row in found} == {
        "woman teacher: light skin tone",
        "man singer: medium skin tone",
        "<b>dog</b>",
    }
    browser.screenshot("matching")


def test_maps_of_words(page: Server, browser: Browser) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    browser.open(page.address)
    browser.tab("Matching")
    browser.upload(SINGER.path)
    browser.labelled("Texts").send_keys("man singer: medium skin tone")
    browser.labelled("Maps", "input[type=checkbox]").click()
    browser.button("Match").click()
    words = browser.wait(lambda: browser.find("#matches-image .word"), "words")
    assert [word.text for word in words] == ["man", "singer", "medium", "skin", "tone"]

    def shown() -> list[str]:
        """The words whose maps are visible."""
        return browser.driver.execute_script(
            "return [...document.querySelectorAll('#matches-image .map')]"
            ".filter(map => getComputedStyle(map).opacity === '1').map(map => map.previousSibling.innerText)"
        )

    assert shown() == []
    ActionChains(browser.driver).move_to_element(words[1]).perform()
    browser.wait(lambda: shown() == ["singer"], "the map under the pointer")
    browser.screenshot("matching-maps")
    ActionChains(browser.driver).move_to_element(browser.button("Match")).perform()
    browser.driver.execute_script("arguments[0].focus()", words[0])
    browser.wait(lambda: shown() == ["man"], "the map of the word with the focus")


def test_search(page: Server, browser: Browser, folders: Folders) -> None:
    browser.open(page.address)
    browser.tab("Search")
    browser.labelled("Text").send_keys("person rowing boat\n")  # Enter searches
    first = browser.wait(lambda: browser.find("#results-image figcaption"), "results")[0].text
    assert "emoji_1f6a3_1f3ff.png" in first
    browser.screenshot("search-examples")
    field = browser.labelled("Folder")
    browser.type(field, f"{folders.own / 'pictures'}\n")
    browser.button("Search").click()
    browser.wait(lambda: "person-rowing-boat.png" in browser.find("#results-image figcaption")[0].text, "a folder")
    names = [caption.text.splitlines()[0] for caption in browser.find("#results-image figcaption")]
    assert len(names) == 6 and "link.png" not in names
    assert "12 images." in browser.one("#results-image").text
    browser.screenshot("search-folder")
    for given in (folders.outside, folders.own / "pictures" / ".." / ".." / "outside"):
        browser.type(field, f"{given}\n")
        browser.button("Search").click()
        message(browser, f"The folder {given} is outside of the folders that this page may use", "search-refused")


def test_conversion(page: Server, browser: Browser, folders: Folders) -> None:
    browser.open(page.address)
    browser.tab("Conversion")
    browser.labelled("Checkpoint").send_keys(str(folders.own / "checkpoint.pth"))
    output = browser.labelled("Output")
    output.send_keys(str(folders.outside / "new"))
    browser.button("Convert").click()
    message(browser, f"The output {folders.outside / 'new'} is outside of the folders")
    browser.type(output, str(folders.own / "converted"))
    browser.button("More files").click()
    browser.labelled("Tokenizer").send_keys(str(folders.own / "tokenizer"))
    browser.labelled("Settings").send_keys(str(folders.own / "config.json"))
    browser.button("Convert").click()
    text = browser.one("#report pre").text
    assert "blip_caption -> LavisBlipForConditionalGeneration" in text and "weights of the checkpoint" in text
    assert (folders.own / "converted" / "model.safetensors").exists()
    browser.screenshot("conversion")
    browser.button("Convert").click()
    message(browser, str(folders.own / "converted"))  # exists, and is not replaced


def test_files_that_are_no_images(page: Server, browser: Browser, tmp_path: Path) -> None:
    browser.open(page.address)
    content = SINGER.path.read_bytes()
    huge = PIL.Image.effect_noise((1400, 1400), 100)
    (tmp_path / "text.png").write_text("this is not an image")
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    bomb = bytearray(content)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # the size in the header, and its checksum
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(bomb)
    huge.save(tmp_path / "huge.png")
    assert (tmp_path / "huge.png").stat().st_size > 2**20
    for name in ("text", "cut", "bomb"):
        browser.open(page.address)
        browser.upload(tmp_path / f"{name}.png")
        browser.wait(lambda: browser.find(".image-frame img"), "the upload")
        browser.button("Describe the image").click()
        message(browser, f"{name}.png", f"upload-{name}")
    browser.open(page.address)
    browser.upload(tmp_path / "huge.png")
    toast(browser, "size")
    browser.screenshot("upload-huge")
    browser.button("Describe the image").click()
    message(browser, "There is no image")
    browser.open(page.address)  # which ends the requests of the page before
    refused = browser.complaints()  # the browser notes that an upload was refused, and nothing else
    assert all("/gradio_api/upload" in line or "Response" in line for line in refused), refused
    browser.upload(SINGER.path)
    browser.button("Describe the image").click()
    assert rows(browser, "captions")[0][0] == "man singer medium skin tone"


def test_phone_and_dark(page: Server, browser: Browser) -> None:
    for dark in (False, True):
        browser.prefer(dark)
        browser.resize(390, 844)
        browser.open(page.address)
        shade = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        values = [float(part) for part in shade.strip("rgba()").split(",")[:3]]
        assert (max(values) < 100) == dark, shade
        for name in TABS:
            browser.tab(name)
            width = browser.driver.execute_script("return document.scrollingElement.scrollWidth")
            assert width <= 390, name
            browser.screenshot(f"phone-{name.lower()}-{'dark' if dark else 'light'}")
        browser.resize(1200)
        browser.tab("Captions")
        browser.screenshot(f"start-{'dark' if dark else 'light'}")


def test_keyboard_alone(page: Server, browser: Browser) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(page.address)

    def focused() -> str:
        return browser.driver.execute_script("return document.activeElement.innerText.trim()")

    def press_until(reached: str, key: str) -> None:
        for _ in range(60):
            if focused() == reached:
                return
            browser.driver.switch_to.active_element.send_keys(key)
        raise AssertionError(f"The keyboard does not reach {reached}")

    press_until("Captions", Keys.TAB)
    press_until("Matching", Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.wait(lambda: browser.find("[role=tab][aria-selected=true]")[0].text == "Matching")
    for _ in range(60):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        if browser.driver.switch_to.active_element.tag_name == "textarea":
            break
    browser.driver.switch_to.active_element.send_keys("a dog")
    press_until("Match", Keys.TAB)
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    message(browser, "There is no image")


def test_questions(page_of_others: Server, browser: Browser, photos: dict[str, Path]) -> None:
    browser.open(page_of_others.address)
    browser.tab("Questions")
    browser.upload(photos["coffee"])
    browser.labelled("Question").send_keys("what is this?")
    browser.labelled("Answers to rank").send_keys("dog\nthe man\nred house")
    browser.button("Answer").click()
    found = rows(browser, "answers-image")
    assert {row[0] for row in found} == {"dog", "the man", "red house"}
    assert sum(float(row[1].rstrip("%")) for row in found) == pytest.approx(100, abs=0.2)
    browser.screenshot("questions-ranked")
    browser.type(browser.labelled("Answers to rank"), "")
    browser.button("Answer").click()
    browser.wait(lambda: rows(browser, "answers-image") != found, "answers of the model's own")
    browser.screenshot("questions-open")


def test_videos(page_of_others: Server, browser: Browser, tmp_path: Path) -> None:
    films = page_of_others.films  # type: ignore[attr-defined]
    browser.open(page_of_others.address)
    browser.tab("Questions (videos)")
    browser.upload(films / "0.mp4")
    browser.labelled("Question").send_keys("what happens?")
    browser.button("Answer").click()
    assert {row[0] for row in rows(browser, "answers-video")} == {"run", "jump", "sleep"}
    browser.screenshot("questions-videos")
    browser.tab("Matching (videos)")
    browser.upload(films / "1.mp4")
    browser.labelled("Texts").send_keys("a dog\nthe man")
    browser.button("Match").click()
    assert {row[0] for row in rows(browser, "matches-video")} == {"a dog", "the man"}
    browser.tab("Search (videos)")
    browser.labelled("Text").send_keys("a dog\n")
    browser.wait(lambda: len(browser.find("#results-video figure img")) == 3, "three films")
    browser.screenshot("search-videos")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((films / "0.mp4").read_bytes()[:200])
    browser.open(page_of_others.address)
    browser.tab("Matching (videos)")
    browser.upload(broken)
    toast(browser, "not playable")  # by the browser; whether it can be decoded is another matter
    browser.labelled("Texts").send_keys("a dog")
    browser.button("Match").click()
    message(browser, "broken.mp4")


# ---- requests of others ----


def ask(server: Server, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and content of a page."""
    place = urlsplit(server.address)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def test_files_and_hosts_that_are_refused(page: Server, folders: Folders) -> None:
    status, headers, _ = ask(page, "/")
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    for path in ("/etc/passwd", folders.outside / "secret.png", folders.own / "config.json", "pyproject.toml"):
        assert ask(page, f"/gradio_api/file={path}")[0] in (403, 404), path
    assert ask(page, "/", Host="elsewhere.example")[0] == 400
    assert json.loads(ask(page, "/gradio_api/info")[2])["named_endpoints"] == {}


def test_addresses_are_not_fetched(page: Server) -> None:
    """A request that names an address where an upload belongs; the process may not connect to any host for it."""
    config = json.loads(ask(page, "/config")[2])
    images = {part["id"] for part in config["components"] if part["type"] == "image"}
    event = next(event for event in config["dependencies"] if images & set(event["inputs"]))
    upload = {"path": "http://elsewhere.example/x.png", "meta": {"_type": "gradio.FileData"}}
    values = [upload if part in images else None for part in event["inputs"]]
    body = {"data": values, "fn_index": event["id"], "session_hash": "test", "event_data": None, "trigger_id": None}
    place = urlsplit(page.address)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    connection.request("POST", "/gradio_api/queue/join", json.dumps(body), {"Content-Type": "application/json"})
    assert connection.getresponse().read()
    answer = ask(page, "/gradio_api/queue/data?session_hash=test")[2].decode()
    assert '"success":false' in answer.replace(" ", "") or "is an address" in answer
    assert not [line for line in page.lines if "connection to" in line]
