"""examples/serve/page.py: a page of a few lines with gradio."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_lavis.embedded import embedded_images
from tests.demo.served import ROOT, Browser

pytestmark = [pytest.mark.slow, pytest.mark.browser]


def test_caption(browser: Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_SERVER_PORT": port, "PYTHONUNBUFFERED": "1"}
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "serve" / "page.py")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        found = next(filter(None, (re.search(r"http://[\d.:]+", line) for line in process.stdout)))
        browser.driver.get(found.group())
        browser.wait(lambda: browser.find(".block input[type=number]"), "the page")
        browser.upload(Path(embedded_images()[3].path))
        browser.wait(lambda: browser.find(".image-frame img"), "the picture")
        browser.button("Submit").click()
        field = browser.labelled("Caption", "textarea")
        browser.wait(lambda: field.get_attribute("value") == "man singer medium skin tone", "the caption")
        browser.screenshot("gradio-example")
    finally:
        process.kill()
        process.communicate()
