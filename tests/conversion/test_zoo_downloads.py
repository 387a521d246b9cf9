"""Downloads of checkpoints: layout of the cache, interrupted and damaged downloads, new versions, mirrors.

The server is a loopback one that says what storage services say: size, tag, hash, and parts of a file.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_lavis.hub import downloads
from tests.http_servers import running

CONTENT = bytes(range(256)) * 9000  # 2.3 MB
NAME = "models/blip/weights.pth"


class Store(ThreadingHTTPServer):
    """Files by path; `cuts` are the numbers of bytes after which the next responses end, `refusals` their statuses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {f"/{NAME}": CONTENT}
        self.cuts: list[int] = []
        self.refusals: list[int] = []
        self.log: list[tuple[str, str | None]] = []
        self.has_head = self.has_ranges = self.has_tags = True
        self.md5: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{NAME}"

    def tag(self, content: bytes) -> str:
        return hashlib.md5(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: Store

    def do_HEAD(self) -> None:
        if self.server.has_head:
            self._answer(with_body=False)
        else:
            self.send_error(501)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        store, content = self.server, self.server.files.get(self.path)
        store.log.append((self.command, self.headers.get("Range")))
        if content is None or store.refusals:
            self.send_error(store.refusals.pop(0) if store.refusals else 404)
            return
        tag, start = f'"{store.tag(content)}"', 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and store.has_ranges and self.headers.get("If-Range") in (None, tag):
            start = int(asked[1])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if store.has_tags:
            self.send_header("ETag", tag)
        if store.md5:
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={store.md5}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body:
            body = content[start:]
            self.wfile.write(body[: store.cuts.pop(0)] if store.cuts else body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(downloads.constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    monkeypatch.setattr(downloads, "_PAUSE", 0.0)
    server = Store()
    with running(server):
        yield server


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_cache_has_the_layout_of_huggingface_hub(store: Store, tmp_path: Path) -> None:
    found = downloads.download(store.url)
    version = store.tag(CONTENT)
    assert found.as_dict() == {
        "url": store.url,
        "size": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    assert found.path.name == "weights.pth" and found.path.read_bytes() == CONTENT
    folder = tmp_path / "assets" / "modeling-lavis" / "checkpoints" / f"127.0.0.1_{store.server_port}--models--blip"
    assert files_below(folder) == [
        f"blobs/{version}",
        f"blobs/{version}.json",
        "refs/weights.pth",
        f"snapshots/{version}/weights.pth",
    ]
    assert found.path == folder / "snapshots" / version / "weights.pth"
    assert found.path.is_symlink() and found.path.resolve() == folder / "blobs" / version
    assert (folder / "refs" / "weights.pth").read_text() == version
    assert downloads.download(store.url) == found
    assert [method for method, _ in store.log] == ["HEAD", "GET", "HEAD"]


@pytest.mark.slow
def test_interrupted_download_continues_in_the_same_call(store: Store) -> None:
    store.cuts = [1_500_000, 1000]
    assert downloads.download(store.url).path.read_bytes() == CONTENT
    assert store.log[1:] == [("GET", None), ("GET", "bytes=1500000-"), ("GET", "bytes=1501000-")]


@pytest.mark.slow
def test_interrupted_download_continues_in_the_next_call(store: Store, tmp_path: Path) -> None:
    store.cuts = [1_200_000, *[0] * 20]
    with pytest.raises(OSError, match=r"interrupted after 1,200,000 of 2,304,000 bytes .*try again to continue"):
        downloads.download(store.url)
    assert [path.suffix for path in tmp_path.rglob("blobs/*")] == [".incomplete"]
    assert not list(tmp_path.rglob("snapshots/*"))
    store.cuts, store.log = [], []
    assert downloads.download(store.url).path.read_bytes() == CONTENT
    assert store.log == [("HEAD", None), ("GET", "bytes=1200000-")]


@pytest.mark.slow
def test_server_without_parts_sends_everything_again(store: Store) -> None:
    store.has_ranges = False
    store.cuts = [2_000_000]
    assert downloads.download(store.url).path.read_bytes() == CONTENT


@pytest.mark.slow
def test_server_without_head_and_tags(store: Store) -> None:
    store.has_head = store.has_tags = False
    first = downloads.download(store.url)
    assert first.path.read_bytes() == CONTENT and len(first.path.resolve().name) == 64
    assert downloads.download(store.url) == first


@pytest.mark.slow
def test_new_version_is_downloaded_and_the_old_one_kept(store: Store) -> None:
    old = downloads.download(store.url)
    store.files[f"/{NAME}"] = CONTENT[::-1]
    new = downloads.download(store.url)
    assert new.path.read_bytes() == CONTENT[::-1] and old.path.read_bytes() == CONTENT
    assert new.sha256 != old.sha256


@pytest.mark.slow
def test_version_that_changes_during_the_download_is_not_mixed(store: Store, tmp_path: Path) -> None:
    store.cuts = [1_200_000, *[0] * 20]
    with pytest.raises(OSError, match="interrupted"):
        downloads.download(store.url)
    store.cuts = []
    remote = downloads._ask(store.url)
    store.files[f"/{NAME}"] = CONTENT[::-1]
    with pytest.raises(OSError, match="was replaced by another version"):
        downloads._download(store.url, remote, downloads._Cache(store.url))
    assert downloads.download(store.url).path.read_bytes() == CONTENT[::-1]


@pytest.mark.slow
def test_damaged_content_is_deleted(store: Store, tmp_path: Path) -> None:
    store.md5 = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    with pytest.raises(OSError, match="is damaged: its MD5 is"):
        downloads.download(store.url)
    assert not list(tmp_path.rglob("blobs/*"))
    store.md5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()
    assert downloads.download(store.url).size == len(CONTENT)


@pytest.mark.slow
def test_without_connection_the_cache_is_used(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="not in the cache .*HF_HUB_OFFLINE"):
        downloads.download(store.url)
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)
    found = downloads.download(store.url)
    asked = len(store.log)
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", True)
    assert downloads.download(store.url) == found and len(store.log) == asked
    monkeypatch.setattr(downloads.constants, "HF_HUB_OFFLINE", False)

    def no_network(*args: Any, **kwargs: Any) -> Any:
        raise ConnectionError("no route")

    monkeypatch.setattr(downloads.urllib.request, "urlopen", no_network)
    assert downloads.download(store.url) == found


@pytest.mark.slow
def test_server_out_of_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without a connection; what the server refuses is another matter."""
    with pytest.raises(OSError, match="returned 404 Not Found. Check the URL"):
        downloads.download(f"{store.url}.absent")
    remote = downloads._ask(store.url)
    with monkeypatch.context() as patch:
        patch.setattr(downloads, "_ask", lambda url: remote)
        store.refusals = [503, 429]
        found = downloads.download(store.url)
    assert found.path.read_bytes() == CONTENT
    store.refusals = [502]
    assert downloads.download(store.url) == found  # of the cache
    store.refusals = [502]
    with pytest.raises(OSError, match=r"cannot be downloaded \(Bad Gateway\)"):
        downloads.download(f"{store.url}.absent")


@pytest.mark.slow
def test_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(OSError, match=r"needs 2,304,000 bytes, but .* has only 10 left\. Free disk space"):
        downloads.download(store.url)


@pytest.mark.slow
def test_disk_that_fills_up_during_the_download(store: Store, tmp_path: Path) -> None:
    """Another program may take the room that was there at the start."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(OSError, match=r"cannot be written to .*blobs: File too large.* make room and try again"):
            downloads.download(store.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (partial,) = (path for path in (tmp_path / "assets").rglob("*") if path.is_file() and path.suffix != ".lock")
    assert partial.name == f"{store.tag(CONTENT)}.incomplete" and partial.stat().st_size == 1_000_000
    assert downloads.download(store.url).path.read_bytes() == CONTENT
    assert store.log[-1] == ("GET", "bytes=1000000-")


@pytest.mark.slow
def test_two_processes_download_a_file_once(store: Store, tmp_path: Path) -> None:
    code = (
        "import sys, torch; from modeling_lavis.hub import downloads;"
        f"torch.hub.get_dir = lambda: {str(tmp_path / 'torch')!r};"
        "downloads.constants.HF_HUB_OFFLINE = False; print(downloads.download(sys.argv[1]).sha256)"
    )
    environment = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin"}
    command = [sys.executable, "-c", code, store.url]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate() for process in running]
    assert [output for output, _ in outputs] == [hashlib.sha256(CONTENT).hexdigest() + "\n"] * 2, outputs
    assert [method for method, _ in store.log].count("GET") == 1


def test_file_urls_and_mirrors(tmp_path: Path) -> None:
    url = "https://storage.example.com/team/BLIP/weights%20a.pth"
    with pytest.raises(OSError, match="is not a folder"):
        downloads.in_mirror(url, tmp_path / "absent")
    with pytest.raises(OSError, match=r"has no weights a\.pth: neither .* nor .* exists"):
        downloads.in_mirror(url, tmp_path)
    flat = tmp_path / "weights a.pth"
    flat.write_bytes(b"flat")
    assert downloads.in_mirror(url, tmp_path) == flat == downloads.in_mirror(url, tmp_path.as_uri())
    full = tmp_path / "storage.example.com" / "team" / "BLIP" / "weights a.pth"
    full.parent.mkdir(parents=True)
    full.write_bytes(b"full")
    assert downloads.in_mirror(url, tmp_path) == full
    assert downloads.fetch(flat.as_uri()) == flat and downloads.download(flat.as_uri()).size == 4
    with pytest.raises(ValueError, match="is a file of server"):
        downloads.fetch("file://server/weights.pth")


def test_hash_beside_a_file_counts_in_the_cache_only(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"abc")
    (tmp_path / "weights.pth.json").write_text(json.dumps({"size": 3, "sha256": "0" * 64}))
    assert downloads.describe(file, "https://a.example/weights.pth").sha256 == hashlib.sha256(b"abc").hexdigest()
