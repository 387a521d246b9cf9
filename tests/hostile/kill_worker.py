"""Runs an operation in child processes that are killed at random moments, and looks at what each leaves behind.

Arguments: operation, number of kills, folder, folder of the goldens. Writes `report.json` into the folder; run by
test_kills.py.
"""

# ruff: noqa: E402
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.hub.server import LoopbackHub
from tests.hub.sessions import session_environment

HUB: LoopbackHub | None = None
if __name__ == "__main__" and sys.argv[1] == "publish":  # before huggingface_hub reads its address
    HUB = LoopbackHub(Path(sys.argv[3]) / "hub").__enter__()
    os.environ.update(session_environment(HUB, Path(sys.argv[3]) / "home", token=HUB.token))

import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from transformers.utils import logging

from tests.kills import fork, status_of

Files = dict[str, str]


def files_of(folder: Path) -> Files:
    """Digests of all files of a folder by their names; empty if there is none."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Operation(ABC):
    """
    Something that writes files.

    Attributes:
        seconds: longest time after which a child is killed.
    """

    seconds = 1.0

    def __init__(self, folder: Path, goldens: Path) -> None:
        self.folder, self.goldens = folder, goldens

    @abstractmethod
    def run(self) -> None:
        """The operation, in a child process; may repeat without end."""

    @abstractmethod
    def state(self) -> str:
        """What a killed child left: a word such as `"absent"`; raises `AssertionError` if it is wrong."""

    def prepare(self, number: int) -> None:  # noqa: B027
        """Called before a child is started."""

    @abstractmethod
    def finish(self) -> None:
        """The operation without a kill, after all kills; raises `AssertionError` if something is left behind."""


class Convert(Operation):
    """Conversions of two checkpoints in turn, each of which replaces the repository of the other."""

    def __init__(self, folder: Path, goldens: Path) -> None:
        super().__init__(folder, goldens)
        from tests.conversion import golden_sets

        self.checkpoints = [golden_sets.checkpoint("blip_caption"), folder / "other" / "checkpoint.pth"]
        self.checkpoints[1].parent.mkdir()
        state = {name: value + 1 for name, value in golden_sets.weights("blip_caption").items()}
        torch.save({"model": state}, self.checkpoints[1])
        self.whole: list[Files] = []
        for checkpoint in self.checkpoints:
            start = time.monotonic()
            self.convert(checkpoint)
            self.seconds = 2 * (time.monotonic() - start)
            self.whole.append(files_of(folder / "output"))
        assert self.whole[0] != self.whole[1]

    def convert(self, checkpoint: Path) -> None:
        from modeling_lavis.hub.convert import convert
        from tests.conversion import golden_sets

        output = self.folder / "output"
        convert(
            **golden_sets.arguments(
                "blip_caption", output, checkpoint=checkpoint, overwrite=True, max_shard_size="50KB"
            )
        )

    def prepare(self, number: int) -> None:
        import shutil

        if number % 3 == 0:
            shutil.rmtree(self.folder / "output", ignore_errors=True)

    def run(self) -> None:
        while True:
            for checkpoint in self.checkpoints:
                self.convert(checkpoint)

    def state(self) -> str:
        output = self.folder / "output"
        if not output.exists():
            return "absent"
        assert files_of(output) in self.whole, f"a killed conversion left {sorted(files_of(output))}"
        return "whole"

    def finish(self) -> None:
        self.convert(self.checkpoints[0])
        assert files_of(self.folder / "output") == self.whole[0]
        left = [path.name for path in self.folder.iterdir() if path.name.startswith(".")]
        assert left == [], f"after a whole conversion there are {left}"


class Save(Operation):
    """Models and processors that are saved in turn into one folder, with another number of shards each."""

    seconds = 0.4

    def __init__(self, folder: Path, goldens: Path) -> None:
        super().__init__(folder, goldens)
        from modeling_lavis import LavisBlipProcessor, LavisImageProcessor
        from modeling_lavis.models.tokenization_lavis import blip_tokenizer
        from tests.models.lavis_blip_cases import CASES

        case = next(case for case in CASES if case.name == "LavisBlipForConditionalGeneration")
        self.models, self.processors = [], []
        for number in range(2):
            model = case.model()
            model.config.label_smoothing = 0.1 + number / 10
            with torch.no_grad():
                for value in model.parameters():
                    value.fill_(number + 1)
            tokenizer = blip_tokenizer(str(goldens / "tokenizer"))
            tokenizer.add_tokens([f"[extra{number}]"])
            self.models.append(model)
            self.processors.append(LavisBlipProcessor(LavisImageProcessor(size=32 + number), tokenizer))

    @property
    def output(self) -> Path:
        return self.folder / "saved"

    def save(self, number: int) -> None:
        self.models[number].save_pretrained(self.output, max_shard_size="20KB" if number else "5GB")
        self.processors[number].save_pretrained(self.output)

    def run(self) -> None:
        while True:
            for number in range(2):
                self.save(number)

    def prepare(self, number: int) -> None:
        import shutil

        if number % 3 == 0:
            shutil.rmtree(self.output, ignore_errors=True)

    def state(self) -> str:
        found = []
        try:
            model = type(self.models[0]).from_pretrained(self.output)
        except OSError:
            found.append("no model")
        else:
            values = {float(value) for weight in model.state_dict().values() for value in (weight.min(), weight.max())}
            assert len(values) == 1, f"a killed save left weights of two models: {values}"
            number = int(values.pop()) - 1
            assert model.config.label_smoothing == self.models[number].config.label_smoothing, (
                "configuration of the other"
            )
            found.append("model")
        try:
            processor = type(self.processors[0]).from_pretrained(self.output)
        except (OSError, ValueError):
            found.append("no processor")
        else:
            number = processor.image_processor.size["height"] - 32
            assert f"[extra{number}]" in processor.tokenizer.get_vocab(), "tokenizer of the other processor"
            found.append("processor")
        return " and ".join(found)

    def finish(self) -> None:
        self.save(1)
        assert self.state() == "model and processor"
        left = [path.name for path in (*self.folder.iterdir(), *self.output.iterdir()) if "partial" in path.name]
        assert left == [], f"after a whole save there are {left}"


class Download(Operation):
    """Downloads of a file from a slow server."""

    seconds = 0.6
    content = random.Random(0).randbytes(2**21)

    def __init__(self, folder: Path, goldens: Path) -> None:
        super().__init__(folder, goldens)
        os.environ["TORCH_HOME"] = str(folder / "cache")
        constants.HF_ASSETS_CACHE = str(folder / "cache")  # HF_HOME was read at the import
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/weights.pth"

    def handler(self) -> Any:
        content = self.content

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET(False)

            def do_GET(self, body: bool = True) -> None:
                first = 0
                if self.headers.get("Range"):
                    first = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                self.send_response(206 if first else 200)
                self.send_header("ETag", '"1"')
                self.send_header("Accept-Ranges", "bytes")
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(len(content) - first))
                self.end_headers()
                try:
                    for place in range(first, len(content) if body else 0, 2**17):
                        self.wfile.write(content[place : place + 2**17])
                        time.sleep(0.02)
                except OSError:  # the client was killed
                    pass

            def log_message(self, *args: Any) -> None:
                pass

        return Handler

    def run(self) -> None:
        self.fetch()

    def fetch(self) -> Path:
        from modeling_lavis.hub.downloads import fetch

        return fetch(self.url)

    def state(self) -> str:
        from modeling_lavis.hub.downloads import _Cache

        cache = _Cache(self.url)
        path = cache.newest()
        if path is None:
            return "absent"
        assert path.read_bytes() == self.content, f"a killed download left {path.stat().st_size} bytes"
        shutil.rmtree(cache.folder)
        return "whole"

    def finish(self) -> None:
        assert self.fetch().read_bytes() == self.content


class Publish(Operation):
    """
    Two models that are published in turn to one repository. Loading the folder and the commit, in processes of their
    own, is left out: it takes most of the time, and writes only to temporary folders.
    """

    seconds = 0.5
    repository = "tester/captioner"

    def __init__(self, folder: Path, goldens: Path) -> None:
        super().__init__(folder, goldens)
        from modeling_lavis.hub import publish
        from tests.hub_publish.repositories import save_captioner

        os.environ["TMPDIR"] = str(folder)
        self.folders = [save_captioner(folder / name / "captioner", goldens) for name in ("first", "second")]
        from safetensors.torch import load_file, save_file

        weights = self.folders[1] / "model.safetensors"
        state = {name: value + 1 for name, value in load_file(weights).items()}
        save_file(state, weights, metadata={"format": "pt"})
        loaded = SimpleNamespace(facts={"class": "x"}, tensors=dict)
        publish.load_in_process = lambda *args, **kwargs: loaded
        publish.compare = lambda *args, **kwargs: None
        self.publish = publish.publish
        self.whole: list[Files] = []
        for place in self.folders:
            start = time.monotonic()
            self.publish(place, self.repository)
            self.seconds = max(self.seconds, 4 * (time.monotonic() - start))
            self.whole.append(self.on_the_hub())
        assert self.whole[0] != self.whole[1]

    def on_the_hub(self) -> Files:
        assert HUB is not None
        files = HUB.files(self.repository) if self.repository in HUB.repositories else {}
        return {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != ".gitattributes"}

    def prepare(self, number: int) -> None:
        assert HUB is not None
        if number % 3 == 0:
            HUB.repositories.pop(self.repository, None)

    def run(self) -> None:
        close_session()  # connections of the parent process
        while True:
            for place in self.folders:
                self.publish(place, self.repository)

    def state(self) -> str:
        files = self.on_the_hub()
        assert not files or files in self.whole, f"a killed upload left {sorted(files)}"
        return "whole" if files else "absent"

    def finish(self) -> None:
        self.publish(self.folders[1], self.repository)
        assert self.on_the_hub() == self.whole[1]


OPERATIONS: dict[str, type[Operation]] = {"convert": Convert, "save": Save, "download": Download, "publish": Publish}


def killed(run: Callable[[], None], seconds: float) -> bool:
    """Run in a child process that is killed after so many seconds; whether it did not end before."""
    child = fork(run)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    status = status_of(child)
    if status:
        raise SystemExit(f"the operation failed with status {status} before it was killed")
    return status is None


def main(name: str, kills: int, folder: Path, goldens: Path) -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    operation, moments = OPERATIONS[name](folder, goldens), random.Random(0)
    states: Counter[str] = Counter()
    done = 0
    while done < kills:
        operation.prepare(done)
        done += killed(operation.run, moments.uniform(0, operation.seconds))
        states[operation.state()] += 1
    operation.finish()
    (folder / "report.json").write_text(json.dumps({"killed": done, "states": states}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
