"""The server of examples/serve: batches, answers, limits and shutdown, over real connections."""

import http.client
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from PIL import Image
from transformers import pipeline

import modeling_lavis
from modeling_lavis.embedded import embedded_images, embedded_model_path
from tests.examples.example_scripts import EXAMPLES, load_script

IMAGES = [Path(image.path).read_bytes() for image in embedded_images()]
TEXTS = [image.caption for image in embedded_images()[:3]]


class Reply(NamedTuple):
    status: int
    content: Any
    headers: Any


def ask(port: int, body: Any = None, chunked: bool = False, **options: Any) -> Reply:
    """Send an image, or ask how the server is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        if body is None:
            connection.request("GET", "/health")
        else:
            path = "/predict?" + urlencode(options, doseq=True)
            connection.request("POST", path, iter([body]) if chunked else body, encode_chunked=chunked)
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers["Content-Type"] == "application/json"
        return Reply(answer.status, json.loads(content) if is_json else content, answer.headers)
    finally:
        connection.close()


class Served:
    """
    The server in a thread of this process.

    Args:
        environment: what it is told by environment variables.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **environment: object) -> None:
        import uvicorn

        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        self.script = load_script("serve/app")
        self.sizes: list[int] = []  # of the batches that the model ran
        run_rows = self.script.run_rows

        def run(rows: list[Any]) -> list[Any]:
            self.sizes.append(len(rows))
            self.before_batch()
            return run_rows(rows)

        self.script.run_rows = run  # type: ignore[attr-defined]
        self.before_batch: Callable[[], object] = lambda: None
        self.server = uvicorn.Server(uvicorn.Config(self.script.app, port=0, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def ask_together(self, bodies: list[bytes], **options: Any) -> list[Reply]:
        """Send several requests at the same time."""
        with ThreadPoolExecutor(len(bodies)) as threads:
            return list(threads.map(lambda body: ask(self.port, body, **options), bodies))

    def stop(self) -> None:
        """End the thread."""
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Served]]:
    """Function that starts a server, which ends with the test."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    started: list[Served] = []

    def start(**environment: object) -> Served:
        started.append(Served(monkeypatch, **environment))
        return started[-1]

    yield start
    for server in started:
        server.stop()


def png(width: int, height: int) -> bytes:
    content = io.BytesIO()
    Image.new("1", (width, height)).save(content, "PNG")
    return content.getvalue()


def close(found: Any, expected: Any) -> bool:
    """Whether answers are the same, but for the rounding of scores."""
    if isinstance(expected, float):
        return found == pytest.approx(expected, abs=1e-5)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(close(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(close, found, expected))
    return found == expected


def test_file_is_short() -> None:
    assert len((EXAMPLES / "serve" / "app.py").read_text(encoding="utf-8").splitlines()) <= 60


def test_dockerfile_names_what_exists() -> None:
    dockerfile = (EXAMPLES / "serve" / "Dockerfile").read_text(encoding="utf-8")
    context = (EXAMPLES / "serve" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    allowed = re.findall(r"^!(.*)$", context, flags=re.MULTILINE)
    assert [name for name in allowed if not (EXAMPLES.parent / name).exists()] == []
    folder, module = re.findall(r'"--app-dir", "/source/([^"]+)", "(\w+):app"', dockerfile)[0]
    assert f"{folder}/{module}.py" in allowed


@pytest.mark.slow
def test_requests_that_wait_together_are_one_batch(serve: Callable[..., Served]) -> None:
    server = serve(MAX_BATCH=5, MAX_WAIT_MS=500)
    assert ask(server.port, IMAGES[0]).status == 200
    assert server.sizes == [1]  # and the server is warm
    replies = server.ask_together(IMAGES)
    assert {reply.status for reply in replies} == {200}
    assert len(IMAGES) == 12 and server.sizes[1:] == [5, 5, 2]
    captioner = pipeline("image-captioning", model=embedded_model_path(), device="cpu")
    for image, reply in zip(embedded_images(), replies):
        assert close(reply.content, captioner(str(image.path)))
    assert ask(server.port).content == {"pending": 0, "rows": 13, "batches": 4}


@pytest.mark.slow
def test_exported_folder_and_texts(serve: Callable[..., Served], tmp_path: Path) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    folder = modeling_lavis.export_model(embedded_model_path(), tmp_path / "exported", "onnx")
    server = serve(MODEL=folder, TASK="image-text-matching", MAX_WAIT_MS=200)
    replies = server.ask_together(IMAGES[:4], text=TEXTS)
    assert sum(server.sizes) == 4 and len(server.sizes) < 4
    matcher = pipeline("image-text-matching", model=str(folder))
    for image, reply in zip(embedded_images(), replies):
        assert close(reply.content, matcher(str(image.path), text=TEXTS))
    missing = ask(server.port, IMAGES[0])
    assert missing.status == 422 and "needs a text" in missing.content["detail"]


@pytest.mark.slow
def test_questions(serve: Callable[..., Served], tmp_path: Path, goldens: Path) -> None:
    from tests.pipelines.tiny_models import save_model

    model = save_model(tmp_path / "model", "ForQuestionAnswering", goldens / "tokenizer")
    server = serve(MODEL=model, TASK="image-question-answering")
    answerer = pipeline("image-question-answering", model=str(model), device="cpu")
    question = "what is it?"
    expected = answerer(str(embedded_images()[0].path), question=question)
    assert close(ask(server.port, IMAGES[0], question=question).content, expected)


@pytest.mark.slow
def test_limits(serve: Callable[..., Served]) -> None:
    limits = {"MAX_BYTES": 100_000, "MAX_PIXELS": 1_000_000, "MAX_CHARACTERS": 40, "MAX_TEXTS": 2}
    server = serve(TASK="image-text-matching", **limits)
    bomb = png(20_000, 20_000)
    assert len(bomb) < 100_000
    refused = [
        (413, "at most 100000 bytes", ask(server.port, b" " * 100_001, text="a")),
        (413, "Content-Length", ask(server.port, IMAGES[0], chunked=True, text="a")),
        (413, "20000 x 20000 pixels", ask(server.port, bomb, text="a")),
        (413, "1001 x 1000 pixels", ask(server.port, png(1001, 1000), text="a")),
        (415, "not a JPEG, PNG or WebP", ask(server.port, b"%!PS-Adobe-3.0 EPSF-3.0", text="a")),
        (415, "not a JPEG, PNG or WebP", ask(server.port, b"", text="a")),
        (422, "Cannot read the image", ask(server.port, IMAGES[0][:-300], text="a")),
        (422, "at most 40 characters", ask(server.port, IMAGES[0], text="a" * 41)),
        (422, "at most 2 items", ask(server.port, IMAGES[0], text=["a", "b", "c"])),
    ]
    for status, message, reply in refused:
        assert reply.status == status and message in json.dumps(reply.content)
    assert server.sizes == [] and ask(server.port).content["pending"] == 0
    assert ask(server.port, png(1000, 1000), text=["a", "b" * 40]).status == 200


@pytest.mark.slow
def test_full_and_slow(serve: Callable[..., Served]) -> None:
    server = serve(MAX_PENDING=3, MAX_BATCH=1, MAX_SECONDS=2, MAX_WAIT_MS=0)
    go_on = threading.Event()
    server.before_batch = lambda: go_on.wait(60)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(ask, server.port, image) for image in IMAGES[:3]]
        while ask(server.port).content["pending"] < 3:
            time.sleep(0.01)
        full = ask(server.port, IMAGES[3])
        assert full.status == 503 and full.headers["Retry-After"] == "1"
        while ask(server.port).content["pending"] > 1:  # the first cannot be stopped, the others are given up
            time.sleep(0.05)
        go_on.set()
        replies = [request.result() for request in waiting]
    assert sorted(reply.status for reply in replies) == [200, 504, 504]
    assert server.sizes == [1]
    assert ask(server.port, IMAGES[3]).status == 200


@pytest.mark.slow
def test_a_batch_that_fails_fails_for_one_request(serve: Callable[..., Served]) -> None:
    server = serve(MAX_WAIT_MS=300)

    def fail_once() -> None:
        server.before_batch = lambda: None
        raise RuntimeError("no memory")

    server.before_batch = fail_once
    replies = server.ask_together(IMAGES[:3])
    assert sorted(reply.status for reply in replies) == [200, 200, 500]
    assert server.sizes == [3, 2]


@contextmanager
def command() -> Iterator[tuple[Any, int]]:
    """The command of docs/deploy.md and its port, in a process of its own."""
    words = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "serve"), "app:app", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "MAX_WAIT_MS": "1500"}
    process = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
                break
        yield process, int(found.group(1))
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_shutdown_answers_what_waits() -> None:
    pytest.importorskip("uvicorn")
    with command() as (process, port), ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, port, IMAGES[3])
        while ask(port).content["pending"] == 0:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert waiting.result().content[0]["generated_text"] == "man singer medium skin tone"
        _, log = process.communicate(timeout=60)
        assert "Traceback" not in log and "Finished server process" in log
