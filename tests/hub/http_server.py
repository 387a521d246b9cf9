"""HTTP of the loopback Hub: bodies, answers, ranges, tokens, the log, and faults. What is answered is in `handler`."""

import contextlib
import hashlib
import http.server
import json
import re
import secrets
import traceback
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from tests.hub.server import LoopbackHub

_CHUNK = 65_536


@dataclass(frozen=True)
class Request:
    """One line of the log. `path` is decoded and has the query; `token` says whether one was sent."""

    method: str
    host: str
    path: str
    status: int
    token: bool
    range: str | None
    received: int


@dataclass
class Answer:
    """Status, headers and a body: bytes, or a file that is sent in pieces."""

    status: int = 200
    body: bytes | Path = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, content: Any, status: int = 200, **headers: str) -> "Answer":
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=utf-8", **names})


class HubError(Exception):
    """An answer that ends the request, with the Hub's headers for errors."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.answer = Answer.of_json({"error": message}, status, X_Error_Message=message, **headers)
        if code is not None:
            self.answer.headers["X-Error-Code"] = code


class _Hangup(Exception):
    """The connection ends without an answer."""


class HttpHandler(http.server.BaseHTTPRequestHandler):
    """A request: reads the body, lets `answer` decide, and sends what it says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: ClassVar["LoopbackHub"]

    def answer(self) -> Answer:
        raise NotImplementedError

    def log_message(self, format: str, *args: Any) -> None:
        """The log is `LoopbackHub.requests`."""

    def setup(self) -> None:
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self) -> None:
        self.hub.connections.discard(self.connection)
        with contextlib.suppress(ConnectionError):
            super().finish()

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def do_GET(self) -> None:
        self.address = urllib.parse.unquote(self.path)
        self.host = self.headers.get("Host", "").partition(":")[0]
        self.received = 0
        self.body_was_read = False
        try:
            answer = self._decide()
        except _Hangup:
            answer = None
        if answer is None or self.hub.faults.next_cut("answer", self.address, 1):
            self._record(0)
            self._hang_up()
        else:
            self._send(answer)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def _decide(self) -> Answer:
        refusal = self.hub.faults.next_refusal(self.command, self.address)
        try:
            if refusal is not None:
                raise HubError(refusal.status, "Refused by the test", refusal.error_code, **refusal.headers)
            answer = self.answer()
        except HubError as error:
            answer = error.answer
        except _Hangup:
            raise
        except Exception:  # a mistake of this server: the client shall show it, and not try again
            answer = Answer.of_json({"error": traceback.format_exc()}, 501)
        self._skip_body()
        # before the client learns of the answer, so that its next request meets the change
        for change in self.hub.faults.changes_after(self.address):
            change.run()
        return answer

    # ------------------------------------------------------------------ the request

    @property
    def segments(self) -> list[str]:
        """The decoded parts of the path. A slash that is part of a revision is not a separator."""
        return [urllib.parse.unquote(part) for part in self.path.partition("?")[0].split("/")[1:]]

    @property
    def query(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.path.partition("?")[2]))

    def body(self) -> bytes:
        return b"".join(self.pieces())

    def json(self) -> Any:
        return json.loads(self.body() or b"{}")

    def pieces(self) -> Iterator[bytes]:
        """The body in pieces, cut where a fault wants it."""
        self.body_was_read = True
        length = self.headers.get("Content-Length")
        size = int(length) if length is not None else 1 << 62
        cut = None
        if size and (self.command == "PUT" or "/commit/" in self.path):
            cut = self.hub.faults.next_cut("upload", self.address, size)
        chunked = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self._counted(length)
        for piece in chunked:
            self.received += len(piece)
            if cut is not None and self.received > cut.after_bytes:
                raise _Hangup
            yield piece

    def _counted(self, length: str | None) -> Iterator[bytes]:
        left = int(length or 0)
        while left:
            piece = self.rfile.read1(min(left, _CHUNK))  # type: ignore[attr-defined]
            if not piece:
                raise _Hangup
            left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().partition(b";")[0] or b"0", 16):
            left = size
            while left:
                piece = self.rfile.read(min(left, _CHUNK))
                if not piece:
                    raise _Hangup
                left -= len(piece)
                yield piece
            self.rfile.readline()
        self.rfile.readline()

    def _skip_body(self) -> None:
        if not self.body_was_read:
            for _ in self.pieces():
                pass

    def receive(self, folder: Path) -> tuple[Path, str]:
        """Write the body to a new file and return it with its sha256."""
        target = folder / secrets.token_hex(8)
        digest = hashlib.sha256()
        try:
            with target.open("wb") as file:
                for piece in self.pieces():
                    file.write(piece)
                    digest.update(piece)
        except _Hangup:
            target.unlink()
            raise
        return target, digest.hexdigest()

    # ------------------------------------------------------------------ the answer

    def _send(self, answer: Answer) -> None:
        size = answer.body.stat().st_size if isinstance(answer.body, Path) else len(answer.body)
        start, stop = 0, size
        wanted = self.headers.get("Range")
        if wanted and answer.status == 200 and "ETag" in answer.headers:
            bounds = _range(wanted, size)
            if bounds is None:
                answer = Answer(416, b"", {"Content-Range": f"bytes */{size}"})
                start, stop = 0, 0
            else:
                start, stop = bounds
                answer.status = 206
                answer.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        self._record(answer.status)
        self.send_response(answer.status)
        for name, value in {"Content-Length": str(stop - start), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = None
        if answer.status in (200, 206) and "ETag" in answer.headers:
            cut = self.hub.faults.next_cut("download", self.address, stop - start)
        if cut is not None:
            stop = start + cut.after_bytes
        for piece in _pieces_of(answer.body, start, stop):
            self.wfile.write(piece)
        if cut is not None:
            self._hang_up()

    def _record(self, status: int) -> None:
        token = "Authorization" in self.headers
        self.hub.record(
            Request(self.command, self.host, self.address, status, token, self.headers.get("Range"), self.received)
        )

    def _hang_up(self) -> None:
        self.close_connection = True  # the server closes it when this request is done


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Start and stop of a `Range` header with one range, `None` if it cannot be served."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if found is None or not any(found.groups()):
        return None
    first, last = found.groups()
    if not first:
        return max(0, size - int(last)), size
    start, stop = int(first), min(size, int(last) + 1) if last else size
    return (start, stop) if start < stop else None


def _pieces_of(body: bytes | Path, start: int, stop: int) -> Iterator[bytes]:
    if isinstance(body, bytes):
        yield body[start:stop]
        return
    with body.open("rb") as file:
        file.seek(start)
        left = stop - start
        while left > 0 and (piece := file.read(min(left, _CHUNK))):
            left -= len(piece)
            yield piece
