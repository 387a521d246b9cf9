"""Pages served by processes of their own, and a headless Chromium that looks at them."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
#: screenshots of the last run, for people
SCREENSHOTS = ROOT / "build" / "page-screenshots"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
WAIT, START = 60.0, 240.0  # seconds; importing everything takes long on a machine that has other things to do


class Server:
    """
    A page that is being served.

    Args:
        process: its process.
        folder: where its temporary files are.
    """

    def __init__(self, process: Any, folder: Path) -> None:
        self.process, self.folder = process, folder
        self.lines: list[str] = []
        self.address = ""
        self._started = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(stream,)) for stream in (process.stdout, process.stderr)
        ]
        for reader in self._readers:
            reader.start()
        if not self._started.wait(START) or not self.address:
            process.kill()
            raise AssertionError("The page does not start:\n" + "".join(self.lines))

    def _read(self, stream: Any) -> None:
        for line in stream:
            self.lines.append(line)
            if found := re.search(r"http://[^ ]+", line if "The page is at" in line else ""):
                self.address = found.group().rstrip("/")
                self._started.set()
        self._started.set()

    def stop(self) -> int:
        """End the process as a service manager does, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WAIT)
        for reader in self._readers:
            reader.join()
        return status


@contextmanager
def served(folder: Path, *arguments: object) -> Iterator[Server]:
    """
    Serve a page until the block ends. Then nothing may be left of it, and it may have asked no other machine.

    Args:
        folder: an empty folder, for temporary files.
        arguments: arguments of the command.
    """
    command = [sys.executable, "-m", "tests.demo.guarded", "page", "--device", "cpu", *map(str, arguments)]
    environment = {**os.environ, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        server = Server(process, folder)
        yield server
        assert process.poll() is None, "".join(server.lines)
        assert server.stop() == 0
        assert not [line for line in server.lines if "connection to" in line or "Traceback" in line], server.lines
        # torch makes a folder for what it compiles when it is imported
        assert [path for path in folder.iterdir() if not path.name.startswith("torchinductor")] == []
    finally:
        process.kill()
        process.wait()


class Browser:
    """
    A headless Chromium whose log and requests are kept.

    Args:
        dark: whether it prefers dark pages.
        width, height: size of its window in pixels.
    """

    def __init__(self, dark: bool = False, width: int = 1200, height: int = 1000) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in (
            "--headless=new",
            "--no-sandbox",  # CI runs as root
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver: Any = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
        self.prefer(dark)
        self.resize(width, height)

    def prefer(self, dark: bool) -> None:
        """Prefer dark or light pages."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def resize(self, width: int, height: int = 1000) -> None:
        """Give the page another size; a window cannot be as narrow as a phone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, address: str) -> None:
        """Open a page and wait until its tabs are there."""
        self.driver.get(address)
        self.wait(lambda: self.find("[role=tab]"))

    def find(self, selector: str) -> list[Any]:
        """Elements that are displayed, by a CSS selector."""
        script = (
            "return [...document.querySelectorAll(arguments[0])]"
            ".filter(part => part.getClientRects().length && getComputedStyle(part).visibility !== 'hidden')"
        )
        return self.driver.execute_script(script, selector)

    def one(self, selector: str) -> Any:
        """The only displayed element of a selector, as soon as there is one."""
        self.wait(lambda: self.find(selector), selector)
        found = self.find(selector)
        assert len(found) == 1, f"{len(found)} elements for {selector}"
        return found[0]

    def labelled(self, label: str, kind: str = "input, textarea") -> Any:
        """The first displayed field of a kind whose label, or the label of its part of the page, starts with a text."""
        script = (
            "const [label, kind] = arguments;"
            "return [...document.querySelectorAll(kind)].find(field => field.getClientRects().length"
            " && [...(field.labels || []), field.closest('.block')]"
            ".some(part => part && part.innerText.trim().startsWith(label)))"
        )
        return self.wait(lambda: self.driver.execute_script(script, label, kind), label)

    def type(self, field: Any, text: str) -> None:
        """Replace the text of a field, as a person does; a new line at the end is the Enter key."""
        from selenium.webdriver.common.keys import Keys

        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.BACKSPACE)
        field.send_keys(text)

    def button(self, text: str) -> Any:
        """The displayed button whose text starts with a text."""

        def found() -> list[Any]:
            return [element for element in self.find("button:not([role=tab])") if element.text.strip().startswith(text)]

        self.wait(found, text)
        return found()[0]

    def tab(self, name: str) -> None:
        """Go to a tab; on a narrow page it may be in the menu at the end of the tabs."""
        script = (
            "const own = [...document.querySelectorAll('[role=tab], .overflow-dropdown button')]"
            ".filter(tab => tab.innerText.trim() === arguments[0]);"
            "return own.find(tab => tab.getClientRects().length)"
        )
        tab = self.driver.execute_script(script, name)
        if tab is None:
            self.one(".overflow-menu > button").click()
            tab = self.wait(lambda: self.driver.execute_script(script, name), name)
        tab.click()
        chosen = (
            "return [...document.querySelectorAll('[role=tab][aria-selected=true]')].map(tab => tab.textContent.trim())"
        )
        self.wait(lambda: name in self.driver.execute_script(chosen), name)

    def wait(self, condition: Callable[[], Any], what: str = "") -> Any:
        """Wait until a condition holds, and return its value."""
        end = time.monotonic() + WAIT
        while not (value := condition()):
            if time.monotonic() > end:
                self.screenshot("timeout")
                raise AssertionError(f"Waited {WAIT:.0f} seconds for {what or condition}")
            time.sleep(0.05)
        return value

    def upload(self, path: Path) -> None:
        """Give a file to the displayed field for an image or a video, whose own input is invisible."""
        script = (
            "return [...document.querySelectorAll('input[type=file]')]"
            ".filter(e => e.closest('.block').getClientRects().length)"
        )
        fields = self.wait(lambda: self.driver.execute_script(script), "a field for files")
        fields[0].send_keys(str(path))

    def screenshot(self, name: str) -> None:
        """Keep a picture of the whole page."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        width, whole, height = self.driver.execute_script(
            "const page = document.scrollingElement; return [page.scrollWidth, page.scrollHeight, innerHeight]"
        )
        clip = {"x": 0, "y": 0, "width": width, "height": min(max(whole, height), 4000), "scale": 1}
        shot = self.driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": clip["height"] > height}
        )
        (SCREENSHOTS / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def requested(self) -> set[str]:
        """Hosts that were asked since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        addresses = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return {urlsplit(address).hostname or "" for address in addresses if address.startswith(("http", "ws"))}

    def complaints(self) -> list[str]:
        """Errors in the browser's console since the last call, among them what the page may not load."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def close(self) -> None:
        """End the browser."""
        self.driver.quit()
