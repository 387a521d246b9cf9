"""
A Hub on this machine: `LoopbackHub` speaks the HTTP that `huggingface_hub` expects, with the standard library only.

    with LoopbackHub(folder) as hub:
        hub.create("org/name", {"config.json": b"{}"})
        run_python("...", hub, token=hub.token)        # tests/hub/sessions.py
        assert hub.files("org/name")["config.json"] == b"{}"

Large files are served and taken by another host name, `localhost` instead of `127.0.0.1`, which refuses a token: a
client that sends its token to the storage fails. `HF_ENDPOINT` and `HF_HUB_DISABLE_XET=1` are read when
`huggingface_hub` is imported, so sessions run in processes of their own.
"""

import contextlib
import http.server
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from tests.hub.faults import Change, Cut, Faults, Refusal
from tests.hub.handler import HubHandler
from tests.hub.http_server import Request
from tests.hub.repositories import GIT_ATTRIBUTES, Blob, Commit, ObjectStore, Repository, files_of_folder


class LoopbackHub:
    """
    A Hub on 127.0.0.1, a context manager. Repositories live as long as the object does.

    Args:
        folder: where contents of files are stored.
        part_size: large files of more bytes than this are uploaded in parts of this size.
        page_size: how many entries a page of a tree has.

    `token` may read and write everything, `read_token` reads the same and writes nothing, and `stranger_token` belongs
    to a user who sees no private repository. Any other token is wrong.
    """

    def __init__(self, folder: Path, *, part_size: int = 5_000_000, page_size: int = 1000) -> None:
        self.objects = ObjectStore(folder / "objects")
        self.uploads = folder / "uploads"
        self.uploads.mkdir(parents=True, exist_ok=True)
        self.part_size, self.page_size = part_size, page_size
        self.user = "tester"
        self.token, self.read_token, self.stranger_token = (f"hf_{secrets.token_hex(17)}" for _ in range(3))
        self.signature = secrets.token_hex(16)  # of addresses in the storage
        self.repositories: dict[str, Repository] = {}
        self.faults = Faults()
        self.lock = threading.RLock()
        self.connections: set[socket.socket] = set()
        self._port = 0
        self._requests: list[Request] = []
        self._server: http.server.ThreadingHTTPServer | None = None

    def __enter__(self) -> "LoopbackHub":
        handler = type("BoundHubHandler", (HubHandler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._port = self._server.server_port
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            for connection in list(self.connections):  # that a client keeps for its next request
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._server = None

    @property
    def endpoint(self) -> str:
        """The address for `HF_ENDPOINT`. It stays the same when the Hub has ended; then nothing listens there."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def storage_endpoint(self) -> str:
        """The address of the storage of large files: another host name for the same server."""
        return f"http://localhost:{self._port}"

    # ------------------------------------------------------------------ repositories

    def create(self, repo_id: str, files: Mapping[str, bytes] | Path | None = None, private: bool = False) -> str:
        """Create a repository, with the files of a folder or by name, and return its id."""
        with self.lock:
            if repo_id in self.repositories:
                raise ValueError(f"{repo_id} exists already.")
            repository = Repository(repo_id, private)
            attributes = self.objects.regular_blob(GIT_ATTRIBUTES)
            repository.add_commit("main", {".gitattributes": attributes}, "initial commit")
            self.repositories[repo_id] = repository
        if files is not None:
            self.commit(repo_id, files)
        return repo_id

    def commit(
        self, repo_id: str, files: Mapping[str, bytes | None] | Path, revision: str = "main", title: str = "Update"
    ) -> Commit:
        """Put a commit on a branch, as another user would: changed files by name, `None` for one to be deleted."""
        changes: Mapping[str, bytes | None] = files_of_folder(files) if isinstance(files, Path) else files
        repository = self.repositories[repo_id]
        with repository.lock:
            commit = repository.find(revision)
            contents: dict[str, Blob] = dict(commit.files) if commit else {}
            for path, content in changes.items():
                if content is None:
                    del contents[path]
                else:
                    contents[path] = self.objects.blob(path, content)
            return repository.add_commit(revision, contents, title)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository at a branch, tag or commit; `.gitattributes`, which the Hub adds, is one."""
        commit = self.repositories[repo_id].find(revision)
        if commit is None:
            raise KeyError(f"{repo_id} has no revision {revision!r}.")
        return {path: self.objects.read(blob) for path, blob in commit.files.items()}

    def head(self, repo_id: str, revision: str = "main") -> Commit:
        """The commit of a branch, tag or pull request."""
        commit = self.repositories[repo_id].find(revision)
        if commit is None:
            raise KeyError(f"{repo_id} has no revision {revision!r}.")
        return commit

    def clear(self) -> None:
        """Forget all repositories, contents, requests and faults."""
        with self.lock:
            self.repositories.clear()
            self._requests.clear()
            self.faults = Faults()
            for path in self.objects.folder.iterdir():
                path.unlink()

    # ------------------------------------------------------------------ the log

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in the order of their answers."""
        with self.lock:
            return list(self._requests)

    def requested(self, method: str, part: str) -> list[Request]:
        """The requests of a method whose path has that part."""
        return [request for request in self.requests if request.method == method and part in request.path]

    def record(self, request: Request) -> None:
        with self.lock:
            self._requests.append(request)

    # ------------------------------------------------------------------ what can go wrong

    def cut(self, after_bytes: int = 0, direction: str = "download", times: int = 1, match: str = "") -> None:
        """
        Close the connection in the middle of a file.

        Args:
            after_bytes: how many bytes of the file get through; smaller files are not concerned.
            direction: `"download"`, `"upload"`, or `"answer"`: what was asked is done, and no answer comes.
            times: how many requests are cut.
            match: part of the address, such as the name of the file, or an `fnmatch` pattern of it.
        """
        if direction not in ("download", "upload", "answer"):
            raise ValueError(f"direction must be 'download', 'upload' or 'answer', got {direction!r}.")
        self.faults.cuts.append(Cut(after_bytes, direction, match, times))

    def full_disk(self, full: bool = True) -> None:
        """Whether the storage has no room left: uploads of large files are answered with status 507."""
        self.faults.storage_is_full = full

    def refuse(
        self,
        status: int,
        match: str = "",
        *,
        method: str = "*",
        times: int = 1,
        error_code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer the next requests that match with a status."""
        self.faults.refusals.append(Refusal(status, match, method, times, error_code, dict(headers or {})))

    def change_between_requests(
        self, repo_id: str, files: Mapping[str, bytes | None] | Path, after: str, times: int = 1
    ) -> None:
        """Put a commit on `main` right after a request whose address matches `after` has been answered."""
        self.after_request(after, lambda: self.commit(repo_id, files, title="Changed meanwhile"), times)

    def after_request(self, match: str, run: Callable[[], object], times: int = 1) -> None:
        """Run something right after a request that matches has been answered."""
        self.faults.changes.append(Change(match, run, times))


__all__ = ["LoopbackHub"]
