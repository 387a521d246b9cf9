"""A Hub server on 127.0.0.1 for folders: the requests of `from_pretrained` only."""

import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

REVISION = "0" * 40


def commit_of(name: str) -> str:
    """The commit of `"owner/name"`, or of `"owner/name@revision"`."""
    return hashlib.sha1(name.encode()).hexdigest() if "@" in name else REVISION


def _handler(repositories: Mapping[str, Path]) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            """Do not log."""

        def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def find(self, name: str, revision: str | None) -> str:
            """The key of a repository at a branch or commit; its name alone for the one without revisions."""
            of_revision = [f"{name}@{revision}", *(key for key in repositories if commit_of(key) == revision)]
            return next((key for key in of_revision if key in repositories and "@" in key), name)

        def do_GET(self) -> None:
            parts = urllib.parse.unquote(self.path.partition("?")[0]).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                name = self.find("/".join(parts[2:4]), parts[5] if parts[4:5] in (["revision"], ["tree"]) else None)
                if name not in repositories:
                    self.reply(404, X_Error_Code="RepoNotFound")
                    return
                if parts[4:5] == ["tree"]:  # requested for subfolders, which these repositories do not have
                    self.reply(404, X_Error_Code="EntryNotFound")
                    return
                files = [{"rfilename": path.name} for path in sorted(repositories[name].iterdir())]
                body = {"id": name, "modelId": name, "sha": commit_of(name), "siblings": files, "private": False}
                self.reply(200, json.dumps(body).encode(), Content_Type="application/json")
                return
            name = self.find("/".join(parts[:2]), parts[3] if parts[2:3] == ["resolve"] else None)
            path = repositories.get(name, Path()) / "/".join(parts[4:])
            if name not in repositories or not path.is_file():
                self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit_of(name))
                return
            body = path.read_bytes()
            self.reply(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit_of(name))

        do_HEAD = do_GET

    return Handler


@contextlib.contextmanager
def loopback_hub(repositories: Mapping[str, Path]) -> Iterator[str]:
    """
    Serve folders by repository name and yield the address for `HF_ENDPOINT`. Names are "owner/name", or
    "owner/name@revision" for one revision.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(repositories))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


__all__ = ["loopback_hub"]
